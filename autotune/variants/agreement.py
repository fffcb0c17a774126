"""Whether a graph and its torch form compute the same, tried on a few samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.data.dataset import Arrays, Dataset
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import onnxruntime_version
from autotune.variants.base import close, sample_inputs
from autotune.variants.convert_torch import Network
from autotune.variants.graph import inputs_of

if TYPE_CHECKING:
    from onnx import ModelProto

_N_PROBE = 4
"""Samples on which conversions are compared and groups of channels are tried."""
_TOLERANCE = 1e-3
"""Largest difference between ONNX Runtime and torch, as a share of the largest output; two fp32 runtimes stay below 1e-5."""


def probe(model: ModelProto, data: Dataset | None) -> tuple[Any, ...]:
    """A few samples as tensors in the model's input order: real ones where there are any."""
    return tensors_of(model, sample_inputs(model, _N_PROBE) if data is None else data.batch(0, _N_PROBE))


def tensors_of(model: ModelProto, arrays: Arrays) -> tuple[Any, ...]:
    """The arrays as tensors in the model's input order."""
    import torch

    return tuple(torch.from_numpy(np.ascontiguousarray(arrays[s.name].astype(s.dtype, copy=False))) for s in inputs_of(model))


def require_agreement(model: ModelProto, network: Network, inputs: Sequence[Any], failure: Exception) -> None:
    """Raises `failure` unless ONNX Runtime computes from the graph what torch computes from the module."""
    import torch

    if onnxruntime_version() is None:
        raise EnvironmentProblem("pruning is checked with onnxruntime.", remedy="pip install 'autotune[onnxruntime]'")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    with torch.no_grad():
        outputs = network.module(*inputs)
    expected = [o.numpy() for o in (outputs if isinstance(outputs, list | tuple) else [outputs])]
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, {s.name: t.numpy() for s, t in zip(inputs_of(model), inputs, strict=True)})
    except Exception as exc:
        raise failure from exc
    if len(found) != len(expected) or not all(close(f, e, tolerance=_TOLERANCE) for f, e in zip(found, expected, strict=True)):
        raise failure
