"""A model given as torch code: imported, loaded with its weights, and exported to ONNX."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import SpecError
from autotune.fingerprint import file_digest, onnxruntime_version
from autotune.spec.check import TORCH_INPUT, torch_callable, torch_model
from autotune.spec.model import ModelSpec
from autotune.user_code import code_digest
from autotune.variants.graph import BATCH

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""The newest opset that torch's older exporter writes without a conversion step (torch 2.13)."""


def torch_identity(model: ModelSpec) -> dict[str, Any]:
    """What the exported file depends on: the code with its own imports, the weights, the shape."""
    torch_callable(model)  # what cannot be imported is a fault of the study file, told as such
    return {
        "torch": model.torch,
        "source": code_digest(str(model.torch)),
        "weights": None if model.weights is None else file_digest(model.weights),
        "input_shape": model.input_shape,
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
    outputs = _outputs(module, sample, model)
    names = list(outputs)
    graph = _exported(_flat(module), sample, names, model)
    if onnxruntime_version() is not None:
        import onnxruntime as ort

        session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(None, {TORCH_INPUT: sample.numpy()})
        if not all(close(np.asarray(f), e.numpy()) for f, e in zip(found, outputs.values(), strict=True)):
            raise _wrong(
                model,
                f"{model.torch}: the exported graph computes something else than the module",
                "a module without control flow that depends on its input; or export it to ONNX yourself and give model.path",
            )
    return graph


def _outputs(module: Any, sample: Any, model: ModelSpec) -> dict[str, Any]:
    """The tensors that the module returns, by name: a dictionary's own names, else "output", or "output_0"… of several."""
    import torch

    try:
        with torch.no_grad():
            found = module(sample)
    except Exception as exc:  # the user's own code runs here and may raise anything
        given = f"called with a batch of shape {list(sample.shape)}"
        raise _wrong(model, f"{model.torch}, which fails when {given}: {exc}", "an input_shape that the module takes") from exc
    if isinstance(found, Mapping):  # as the models of Hugging Face return
        named = {str(name): value for name, value in found.items()}
    elif isinstance(found, list | tuple):
        named = {"output" if len(found) == 1 else f"output_{i}": value for i, value in enumerate(found)}
    else:
        named = {"output": found}
    strange = [name for name, value in named.items() if not isinstance(value, torch.Tensor)]
    if strange or not named:
        kinds = ", ".join(f"{name}: {type(named[name]).__name__}" for name in strange) or "nothing"
        raise _wrong(model, f"{model.torch}, which returns {kinds}", "a tensor, a sequence of tensors, or tensors by name")
    return named


def _flat(module: Any) -> Any:
    """The module, its outputs as a tuple: exporters by tracing cannot name the entries of a dictionary."""
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]  # mypy does not follow torch
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, sample: Any) -> Any:
            found = self.module(sample)
            return tuple(found.values()) if isinstance(found, Mapping) else found

    return Flat().eval()


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
