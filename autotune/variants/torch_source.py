"""A model given as torch code: imported, loaded with its weights, and exported to ONNX."""

from __future__ import annotations

import contextlib
import inspect
import io
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import SpecError
from autotune.fingerprint import file_digest, library_version, onnxruntime_version
from autotune.spec.check import TORCH_INPUT, torch_callable, torch_model
from autotune.spec.model import ModelSpec
from autotune.variants.graph import BATCH

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""The newest opset that torch's older exporter writes without a conversion step (torch 2.13)."""


def torch_identity(model: ModelSpec) -> dict[str, Any]:
    """What the exported file depends on: the code's file, the weights, the shape, the exporter's version."""
    source = inspect.getsourcefile(torch_callable(model))
    return {
        "torch": model.torch,
        "source": file_digest(Path(source)) if source else None,
        "weights": None if model.weights is None else file_digest(model.weights),
        "input_shape": model.input_shape,
        "version": library_version("torch"),
    }


def exported_onnx(model: ModelSpec) -> ModelProto:
    """The torch model in evaluation mode as ONNX, BatchNorm folded into convolutions, input "input" and output "output".

    The exporter by tracing writes the cleaner graphs (pooling, flatten and folded BatchNorm in one node each); the exporter
    by torch.export takes over where tracing fails or torch no longer has it. Raises SpecError, or EnvironmentProblem.
    """
    import numpy as np
    import torch

    from autotune.variants.base import close

    module = torch_model(model).float().cpu()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn((3, *(model.input_shape or ())), generator=generator)
    with torch.no_grad():
        expected = module(sample)
    outputs = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    names = ["output"] if len(outputs) == 1 else [f"output_{i}" for i in range(len(outputs))]
    graph = _exported(module, sample, names, model)
    if onnxruntime_version() is not None:
        import onnxruntime as ort

        session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(None, {TORCH_INPUT: sample.numpy()})
        if not all(close(np.asarray(f), e.numpy()) for f, e in zip(found, outputs, strict=True)):
            raise _wrong(
                model,
                f"{model.torch}: the exported graph computes something else than the module",
                "a module without control flow that depends on its input; or export it to ONNX yourself and give model.path",
            )
    return graph


def _exported(module: Any, sample: Any, names: list[str], model: ModelSpec) -> ModelProto:
    import onnx
    import torch

    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported.onnx"
        axes = {name: {0: BATCH} for name in (TORCH_INPUT, *names)}
        shared = {"input_names": [TORCH_INPUT], "output_names": names, "opset_version": OPSET}
        attempts: tuple[dict[str, Any], ...] = (
            {"dynamo": False, "dynamic_axes": axes},
            {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim(BATCH)},), "external_data": False, "verbose": False},
        )
        for options in attempts:
            try:
                # Both exporters print progress and deprecations, which would end up between the lines of a study.
                with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                    warnings.simplefilter("ignore")
                    torch.onnx.export(module, (sample,), str(path), **shared, **options)
                return onnx.load(str(path))
            except Exception as exc:  # exporters raise anything, and the second may succeed
                failures.append((str(exc).splitlines() or [type(exc).__name__])[0])
    raise _wrong(
        model, f"{model.torch}: torch.onnx.export failed: {'; '.join(failures)}", "a module that torch can export to ONNX"
    )


def _wrong(model: ModelSpec, found: str, allowed: str) -> SpecError:
    return SpecError([model.problem("torch", found, allowed)])
