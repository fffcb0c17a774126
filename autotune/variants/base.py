"""The unmodified model as the one ONNX file that every variant starts from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autotune.cache import Artifact, Cache
from autotune.errors import SpecError, SpecProblem
from autotune.fingerprint import digest_of, file_digest, library_version, onnxruntime_version
from autotune.spec.model import ModelSpec
from autotune.spec.onnx_file import ModelFault, checked_onnx, files_of
from autotune.variants.canonical import canonical
from autotune.variants.graph import MODEL_FILE, inputs_of, n_macs, n_params

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)
_REVISION = 2
"""Part of the key: raised when the same file would give another base model."""


def base_model(model: ModelSpec, cache: Cache) -> Artifact:
    """The model as `model.onnx` in an artifact: checked, self-contained, its batch dynamic.

    Facts: digest (of the file), params, macs (per sample, or null), bytes. Raises SpecError where the file is not a model
    that can be deployed in batches.
    """
    if model.torch is not None:
        from autotune.variants.torch_source import exported_onnx, torch_identity

        identity: Mapping[str, Any] = torch_identity(model)
        return cache.get_or_make(
            "base", _key(identity), lambda folder: _finish(exported_onnx(model), folder, model.torch or "")
        )
    assert model.path is not None  # ModelSpec has exactly one of path and torch
    path = model.path
    try:
        identity = {"files": [file_digest(f) for f in files_of(path)]}
        return cache.get_or_make("base", _key(identity), lambda folder: _finish(_loaded(path), folder, path.name))
    except ModelFault as exc:
        raise SpecError([model.problem("path", exc.found, exc.allowed)]) from exc


def _key(identity: Mapping[str, Any]) -> str:
    return digest_of({"revision": _REVISION, "onnx": library_version("onnx"), **identity})


def _finish(model: ModelProto, folder: Path, name: str) -> dict[str, Any]:
    import onnx

    for value in (*model.graph.input, *model.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.shape.dim:
            raise _wrong(f"{name}: {value.name} has no dimension", "inputs and outputs whose first dimension is the batch")
    model = canonical(model)
    target = folder / MODEL_FILE
    onnx.save_model(model, str(target))
    _check_batches(model, target, name)
    return {
        "digest": file_digest(target),
        "params": n_params(model),
        "macs": n_macs(model),
        "bytes": target.stat().st_size,
    }


def _loaded(path: Path) -> ModelProto:
    import onnx

    checked_onnx(path)
    return onnx.load(str(path))


def _check_batches(model: ModelProto, path: Path, name: str) -> None:
    """A batch of two gives what two batches of one give. Raises SpecError where it does not.

    Left to the engines where ONNX Runtime is missing, or where free dimensions have no size that we could guess.
    """
    if onnxruntime_version() is None:
        _log.info("onnxruntime is not installed: %s was not run in batches", name)
        return
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        pair = sample_inputs(model, 2)
        halves = [session.run(None, {k: v[i : i + 1] for k, v in pair.items()}) for i in (0, 1)]
    except Exception as exc:  # ONNX Runtime's exceptions share no public base class
        _log.warning("%s could not be run on random inputs: %s", name, str(exc).splitlines()[0])
        return
    try:
        whole = session.run(None, pair)
    except Exception as exc:  # as above
        raise _wrong(f"{name} takes a batch of 1 but not of 2: {str(exc).splitlines()[0]}", _DYNAMIC) from exc
    for output, left, right in zip(whole, *halves, strict=True):
        joined = np.concatenate([left, right])
        if output.shape != joined.shape or not close(output, joined):
            raise _wrong(f"{name}: a batch of 2 gives other results than its samples one by one", _DYNAMIC)


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


def close(found: NDArray[Any], expected: NDArray[Any], *, tolerance: float = 1e-3) -> bool:
    """True when no element differs by more than `tolerance` of the largest expected magnitude; never for NaN."""
    if found.shape != expected.shape:
        return False
    if not expected.size:
        return True
    scale = max(1e-6, float(np.abs(expected.astype(np.float64)).max()))
    return bool(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max() <= tolerance * scale)


def _wrong(found: str, allowed: str) -> SpecError:
    return SpecError([SpecProblem(key="model", found=found, allowed=allowed)])
