"""8-bit graphs by static quantization: Q/DQ nodes whose ranges were seen on the calibration split."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autotune.data.dataset import Arrays, Dataset
from autotune.errors import BuildFailed, EnvironmentProblem, Unsupported
from autotune.fingerprint import onnxruntime_version
from autotune.spec.inputs import InputSpec
from autotune.variants.graph import model_inputs
from autotune.variants.variant import QuantScheme

MAX_SAMPLES = 512
"""Calibration samples used at most: min-max ranges of image models settle within a few hundred."""
BATCH_SIZE = 16
_MIN_OPSET = 13
"""Per-channel QuantizeLinear exists since opset 13."""


def int8_from_fp32(
    source: Path, target: Path, *, scheme: QuantScheme, calibration: Dataset | None, per_channel: bool
) -> tuple[str, ...]:
    """`target` is `source` with Q/DQ nodes: int8 weights per channel or per tensor, activations as the scheme says.

    Weights are symmetric. Ranges are the minimum and maximum over the calibration samples; of each batch only these two
    numbers per tensor are kept, so memory does not grow with the split. Raises Unsupported without calibration data,
    BuildFailed where ONNX Runtime's quantizer gives up.
    """
    if calibration is None or len(calibration) == 0:
        raise Unsupported("int8 needs data.calibration: activation ranges come from real samples", stage="variant")
    if onnxruntime_version() is None:
        raise EnvironmentProblem("int8 needs onnxruntime's quantizer.", remedy="pip install 'autotune[onnxruntime]'")
    n_used = min(len(calibration), MAX_SAMPLES)
    try:
        _quantize(source, target, scheme=scheme, calibration=calibration, per_channel=per_channel)
    except Exception as exc:
        raise BuildFailed(
            f"ONNX Runtime could not quantize the graph with {scheme.name}: {type(exc).__name__}: {exc}", stage="variant"
        ) from exc
    return (f"ranges: min-max over {n_used} calibration samples",)


def _quantize(source: Path, target: Path, *, scheme: QuantScheme, calibration: Dataset, per_channel: bool) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    symmetric = scheme.activations == "int8"
    with tempfile.TemporaryDirectory() as folder, _quiet_root_logger():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(_quantizable(source, Path(folder))), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(calibration, model_inputs(source)),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": scheme.quantize_bias,
            },
        )


def _quantizable(source: Path, folder: Path) -> Path:
    """The graph at an opset that has per-channel Q/DQ. Raises Unsupported where it is quantized already."""
    import onnx

    model = onnx.load(str(source))
    if any(n.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for n in model.graph.node):
        raise Unsupported("the model is quantized already", stage="variant")
    if max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0) >= _MIN_OPSET:
        return source
    path = folder / "converted.onnx"
    onnx.save_model(onnx.version_converter.convert_version(model, _MIN_OPSET), str(path))
    return path


class _Reader:
    """Calibration batches, evenly spread over the split, so that data sorted by label are covered whole."""

    def __init__(self, calibration: Dataset, inputs: tuple[InputSpec, ...]) -> None:
        self._batches = _batches(calibration, inputs)

    def get_next(self) -> Arrays | None:
        return next(self._batches, None)


def _batches(calibration: Dataset, inputs: tuple[InputSpec, ...]) -> Iterator[Arrays]:
    n_used = min(len(calibration), MAX_SAMPLES)
    chosen = np.linspace(0, len(calibration) - 1, n_used).round().astype(np.intp)
    for start in range(0, n_used, BATCH_SIZE):
        arrays = calibration.take(chosen[start : start + BATCH_SIZE])
        yield {spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in inputs}


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """ONNX Runtime's quantizer writes advice through the root logger; only its errors are of use here."""
    root: Any = logging.getLogger()

    def errors_only(record: logging.LogRecord) -> bool:
        return record.name != "root" or record.levelno >= logging.ERROR

    root.addFilter(errors_only)
    try:
        yield
    finally:
        root.removeFilter(errors_only)
