"""Batches of the calibration split, and the largest magnitude that chosen tensors reach on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autotune.data.dataset import Arrays, Dataset
from autotune.errors import BuildFailed, EnvironmentProblem, Unsupported
from autotune.fingerprint import onnxruntime_version
from autotune.spec.inputs import InputSpec

if TYPE_CHECKING:
    from onnx import ModelProto

MAX_SAMPLES = 512
"""Calibration samples used at most: min-max ranges of image models settle within a few hundred."""
BATCH_SIZE = 16


def require_calibration(precision: str, calibration: Dataset | None) -> Dataset:
    """The calibration split. Raises Unsupported where there is none, EnvironmentProblem without ONNX Runtime."""
    if calibration is None or len(calibration) == 0:
        raise Unsupported(f"{precision} needs data.calibration: activation ranges come from real samples", stage="variant")
    if onnxruntime_version() is None:
        raise EnvironmentProblem(f"{precision} needs onnxruntime's quantizer.", remedy="pip install 'autotune[onnxruntime]'")
    return calibration


def n_used(calibration: Dataset) -> int:
    """How many samples calibration looks at."""
    return min(len(calibration), MAX_SAMPLES)


def calibration_batches(calibration: Dataset, inputs: Sequence[InputSpec]) -> Iterator[Arrays]:
    """Batches evenly spread over the split, so that data sorted by label are covered whole."""
    chosen = np.linspace(0, len(calibration) - 1, n_used(calibration)).round().astype(np.intp)
    for start in range(0, len(chosen), BATCH_SIZE):
        arrays = calibration.take(chosen[start : start + BATCH_SIZE])
        yield {spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in inputs}


def largest_magnitudes(model: ModelProto, tensors: Sequence[str], batches: Iterable[Arrays]) -> Mapping[str, float]:
    """Tensor → max |x| over all batches, computed by ONNX Runtime on the CPU in fp32.

    The maximum is taken inside the graph, so that no activation leaves it. Raises BuildFailed where a value is not finite.
    """
    import onnx
    import onnxruntime as ort

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    results = {name: f"{name}__largest" for name in tensors}
    for name, result in results.items():
        probed.graph.node.append(onnx.helper.make_node("Abs", [name], [f"{name}__abs"]))
        probed.graph.node.append(onnx.helper.make_node("ReduceMax", [f"{name}__abs"], [result], keepdims=0))
        probed.graph.output.append(onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, []))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(tensors, 0.0)
    for batch in batches:
        for name, value in zip(tensors, session.run(list(results.values()), batch), strict=True):
            largest[name] = max(largest[name], float(value))
            if not math.isfinite(float(value)):
                raise BuildFailed(f"calibration: {name} is not finite on a sample", stage="variant")
    return largest
