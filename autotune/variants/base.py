"""The unmodified model as the one ONNX file that every variant starts from."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autotune.cache import Artifact, Cache
from autotune.errors import SpecError
from autotune.fingerprint import digest_of, file_digest, library_version, onnxruntime_version
from autotune.spec.model import ModelSpec
from autotune.spec.onnx_file import ModelFault, checked_onnx, files_of
from autotune.variants.canonical import canonical
from autotune.variants.graph import MODEL_FILE, all_nodes, has_attention, inputs_of, n_macs, n_params

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)
_REVISION = 2
"""Part of the key: raised when the same file would give another base model."""


def base_model(model: ModelSpec, cache: Cache) -> Artifact:
    """The model as `model.onnx` in an artifact: checked, self-contained, its batch dynamic.

    Facts: digest (of the file), params, macs (per sample, or null), attention (whether activations are multiplied), bytes.
    Raises SpecError where the file is not a model that can be deployed in batches.
    """
    versions = {"onnx": library_version("onnx"), **({"torch": library_version("torch")} if model.path is None else {})}
    key = digest_of({"revision": _REVISION, **versions, **model_identity(model)})
    return cache.get_or_make("base", key, lambda folder: _finish(_source(model), folder, model))


def model_identity(model: ModelSpec) -> Mapping[str, Any]:
    """What makes the model this one and no other: its file with the weights beside it, or its code, weights and shape.

    Raises SpecError where it cannot be read.
    """
    if model.path is None:
        from autotune.variants.torch_source import torch_identity

        return torch_identity(model)
    try:
        return {"files": [file_digest(f) for f in files_of(model.path)]}
    except ModelFault as exc:
        raise SpecError([model.problem("path", exc.found, exc.allowed)]) from exc


def _source(model: ModelSpec) -> ModelProto:
    import onnx

    if model.path is None:
        from autotune.variants.torch_source import exported_onnx

        return exported_onnx(model)
    try:
        checked_onnx(model.path)
    except ModelFault as exc:
        raise SpecError([model.problem("path", exc.found, exc.allowed)]) from exc
    return onnx.load(str(model.path))


def _finish(graph: ModelProto, folder: Path, model: ModelSpec) -> dict[str, Any]:
    import onnx

    for value in (*graph.graph.input, *graph.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.shape.dim:
            raise _wrong(model, f"{value.name} without a dimension", "inputs and outputs whose first dimension is the batch")
    _require_float_model(graph, model)
    try:
        graph = canonical(graph)
    except (ValueError, TypeError, LookupError, RuntimeError) as exc:
        # The checker lets tensors pass whose size or type contradicts their shape, where nothing but a rewrite reads them.
        first = next(iter(str(exc).splitlines()), "")
        raise _wrong(
            model, f"a graph that contradicts itself ({type(exc).__name__}: {first})", "a valid model; export it again"
        ) from exc
    target = folder / MODEL_FILE
    onnx.save_model(graph, str(target))
    _check_batches(graph, target, model)
    return {
        "digest": file_digest(target),
        "params": n_params(graph),
        "macs": n_macs(graph),
        "attention": has_attention(graph),
        "bytes": target.stat().st_size,
    }


def _require_float_model(graph: ModelProto, model: ModelSpec) -> None:
    """Returns when the graph chooses no scales while it runs. Raises SpecError otherwise: they span the whole batch."""
    if any(node.op_type == "DynamicQuantizeLinear" for node in all_nodes(graph.graph)):
        raise _wrong(model, "a dynamically quantized model", "the floating-point model that it was made from")


def _check_batches(graph: ModelProto, path: Path, model: ModelSpec) -> None:
    """A batch of two gives what two batches of one give. Raises SpecError where it does not.

    Left to the engines where ONNX Runtime is missing, or where free dimensions have no size that we could guess.
    """
    if onnxruntime_version() is None:
        _log.info("onnxruntime is not installed: %s was not run in batches", path)
        return
    import onnxruntime as ort

    if (n_bytes := sample_bytes(graph, 2)) > _MAX_SAMPLE_BYTES:
        raise _wrong(model, f"inputs of {n_bytes >> 21} MiB per sample", f"inputs of at most {_MAX_SAMPLE_BYTES >> 21} MiB")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        pair = sample_inputs(graph, 2)
        halves = [session.run(None, {k: v[i : i + 1] for k, v in pair.items()}) for i in (0, 1)]
    except Exception as exc:  # ONNX Runtime's exceptions share no public base class
        _log.warning("the model could not be run on random inputs: %s", str(exc).splitlines()[0])
        return
    if not all(np.isfinite(array).all() for half in halves for array in half if np.issubdtype(array.dtype, np.floating)):
        raise _wrong(model, "outputs that are not finite (NaN or infinite) on random inputs", "a model whose weights are whole")
    try:
        whole = session.run(None, pair)
    except Exception as exc:  # as above
        first = str(exc).splitlines()[0]
        raise _wrong(model, f"a model that takes a batch of 1 but not of 2: {first}", _DYNAMIC) from exc
    for output, left, right in zip(whole, *halves, strict=True):
        joined = np.concatenate([left, right])
        if output.shape != joined.shape or not close(output, joined):
            raise _wrong(model, "a model that gives a batch of 2 other results than its samples one by one", _DYNAMIC)


_DYNAMIC = "a model exported with a dynamic batch, whose samples do not influence each other"


def sample_inputs(model: ModelProto, n: int, *, free: int = 32, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs of n samples: standard normal floats, ones elsewhere (valid as token, mask and type ids)."""
    rng = np.random.default_rng(seed)
    inputs: dict[str, NDArray[Any]] = {}
    for spec in inputs_of(model):
        shape = (n, *(free if d is None else d for d in spec.shape[1:]))
        floating = np.issubdtype(np.dtype(spec.dtype), np.floating)
        inputs[spec.name] = (rng.standard_normal(shape) if floating else np.ones(shape)).astype(spec.dtype)
    return inputs


_MAX_SAMPLE_BYTES = 2 << 30
"""Of two samples: a model file of a few bytes may declare inputs that no memory holds."""


def sample_bytes(model: ModelProto, n: int, *, free: int = 32) -> int:
    """The bytes that `sample_inputs` would make."""
    sizes = (
        math.prod((n, *(free if d is None else d for d in i.shape[1:]))) * np.dtype(i.dtype).itemsize for i in inputs_of(model)
    )
    return sum(sizes)


def close(found: NDArray[Any], expected: NDArray[Any], *, tolerance: float = 1e-3) -> bool:
    """True when no element differs by more than `tolerance` of the largest expected magnitude; never for NaN."""
    if found.shape != expected.shape:
        return False
    if not expected.size:
        return True
    scale = max(1e-6, float(np.abs(expected.astype(np.float64)).max()))
    return bool(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max() <= tolerance * scale)


def _wrong(model: ModelSpec, found: str, allowed: str) -> SpecError:
    return SpecError([model.problem("path" if model.path is not None else "torch", found, allowed)])
