"""8-bit graphs by static quantization: Q/DQ nodes whose ranges were seen on the calibration split."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.data.dataset import Arrays, Dataset
from autotune.errors import BuildFailed, Unsupported
from autotune.spec.inputs import InputSpec
from autotune.variants.calibration import calibration_batches, n_used, require_calibration
from autotune.variants.graph import has_attention, model_inputs, name_nodes
from autotune.variants.opset import at_opset, drop_unused_domains, opset_of
from autotune.variants.placement import placement_of
from autotune.variants.variant import QuantScheme

if TYPE_CHECKING:
    from onnx import ModelProto

_MIN_OPSET = 13
"""Per-channel QuantizeLinear exists since opset 13."""


def int8_from_fp32(
    source: Path, target: Path, *, scheme: QuantScheme, calibration: Dataset | None, per_channel: bool
) -> tuple[str, ...]:
    """`target` is `source` with Q/DQ nodes: int8 weights per channel or per tensor, activations as the scheme says.

    In a graph with attention only products with stored weights are quantized: what lies between them (softmax, normalization,
    masks of −3·10³⁸) has ranges that 8 bits cannot hold. Weights are symmetric. Ranges are the minimum and maximum over the
    calibration samples; of each batch only these two numbers per tensor are kept, so memory does not grow with the split.
    Raises Unsupported without calibration data, BuildFailed where ONNX Runtime's quantizer gives up.
    """
    calibration = require_calibration("int8", calibration)
    try:
        notes = _quantize(source, target, scheme=scheme, calibration=calibration, per_channel=per_channel)
    except Exception as exc:
        raise BuildFailed(
            f"ONNX Runtime could not quantize the graph with {scheme.name}: {type(exc).__name__}: {exc}", stage="variant"
        ) from exc
    return (f"ranges: min-max over {n_used(calibration)} calibration samples", *notes)


def _quantize(source: Path, target: Path, *, scheme: QuantScheme, calibration: Dataset, per_channel: bool) -> tuple[str, ...]:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    symmetric = scheme.activations == "int8"
    with tempfile.TemporaryDirectory() as folder, quiet_root_logger():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(_quantizable(source, Path(folder))), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        chosen = [p.node for p in placement_of(model, lambda product: "").products] if has_attention(model) else None
        quantize_static(
            str(prepared),
            str(target),
            _Reader(calibration, model_inputs(source)),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=chosen,
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": scheme.quantize_bias,
            },
        )
    return () if chosen is None else (f"attention: only the {len(chosen)} products with stored weights are quantized",)


def prepared_model(source: Path, folder: Path, opset: int, precision: str) -> ModelProto:
    """The graph at `opset` at least, with batch normalizations folded, constants computed and shapes inferred; named nodes.

    `folder`: for intermediate files. Raises Unsupported where it is quantized already.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raised = folder / "raised.onnx"
    onnx.save_model(at_opset(_unquantized(onnx.load(str(source))), opset, precision), str(raised))
    with quiet_root_logger():
        quant_pre_process(str(raised), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
    model = onnx.load(str(folder / "prepared.onnx"))
    drop_unused_domains(model)
    name_nodes(model)
    return model


def _unquantized(model: ModelProto) -> ModelProto:
    if any(n.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for n in model.graph.node):
        raise Unsupported("the model is quantized already", stage="variant")
    return model


def _quantizable(source: Path, folder: Path) -> Path:
    """The graph at an opset that has per-channel Q/DQ. Raises Unsupported where it is quantized already."""
    import onnx

    model = _unquantized(onnx.load(str(source)))
    if opset_of(model) >= _MIN_OPSET:
        return source
    path = folder / "converted.onnx"
    onnx.save_model(onnx.version_converter.convert_version(model, _MIN_OPSET), str(path))
    return path


class _Reader:
    """The batches as ONNX Runtime's calibrators ask for them."""

    def __init__(self, calibration: Dataset, inputs: tuple[InputSpec, ...]) -> None:
        self._batches = calibration_batches(calibration, inputs)

    def get_next(self) -> Arrays | None:
        return next(self._batches, None)


@contextlib.contextmanager
def quiet_root_logger() -> Iterator[None]:
    """ONNX Runtime's quantizer writes advice through the root logger; only its errors are of use here."""
    root: Any = logging.getLogger()

    def errors_only(record: logging.LogRecord) -> bool:
        return record.name != "root" or record.levelno >= logging.ERROR

    root.addFilter(errors_only)
    try:
        yield
    finally:
        root.removeFilter(errors_only)
