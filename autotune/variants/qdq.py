"""Q/DQ graphs as NVIDIA's parser takes them: symmetric around 0, a scale per activation and per output channel of weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autotune.data.dataset import Dataset
from autotune.errors import BuildFailed, Unsupported
from autotune.variants.calibration import calibration_batches, largest_magnitudes, n_used, require_calibration
from autotune.variants.graph import drop_unused_initializers, inputs_of, macs_by_node, sort_nodes, with_inferred_shapes
from autotune.variants.half import half_model
from autotune.variants.placement import Obstacle, Placement, Product, placement_of
from autotune.variants.quantize import prepared_model
from autotune.variants.variant import QuantScheme

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_HALF_OPSET = 19
"""The first opset whose Q/DQ take fp16 values and scales (ONNX operator changelog)."""
_MIN_CHANNELS_FP8 = 16
_MAX_FILTER_FP8 = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """An 8-bit format. `top`: its largest value; `encode`: scaled floats to bytes; `opset`: the first whose Q/DQ have it."""

    name: str
    kind: str
    top: float
    opset: int
    ir_version: int
    encode: Callable[[NDArray[np.float32]], bytes]
    obstacle: Obstacle


def _int8_bytes(scaled: NDArray[np.float32]) -> bytes:
    return np.clip(np.rint(scaled), -127, 127).astype(np.int8).tobytes()


def _fp8_bytes(scaled: NDArray[np.float32]) -> bytes:
    import ml_dtypes

    return np.clip(scaled, -448, 448).astype(ml_dtypes.float8_e4m3fn).tobytes()


def _fp8_obstacle(product: Product) -> str:
    """NVIDIA Model Optimizer's rules for layers that TensorRT has fp8 kernels for (`find_nodes_from_convs_to_exclude`).

    Kernels work on blocks of 16 channels. Convolutions are padded to them where both counts lack as many; so depthwise ones,
    with one input channel per group, are not.
    """
    if min(product.n_in, product.n_out) < _MIN_CHANNELS_FP8:
        return f"fp8 kernels want {_MIN_CHANNELS_FP8} channels, it has {product.n_in} in and {product.n_out} out"
    if product.kind not in ("Conv", "ConvTranspose"):
        return ""
    if product.n_in % _MIN_CHANNELS_FP8 != product.n_out % _MIN_CHANNELS_FP8:
        return f"{product.n_in} and {product.n_out} channels cannot be padded alike to fp8 kernels' blocks of 16"
    if (taps := int(np.prod(product.dims[2:]))) > _MAX_FILTER_FP8:
        return f"fp8 kernels have filters of up to {_MAX_FILTER_FP8} taps, it has {taps}"
    return ""


INT8 = Form(name="int8", kind="INT8", top=127.0, opset=13, ir_version=7, encode=_int8_bytes, obstacle=lambda product: "")
FP8 = Form(name="fp8", kind="FLOAT8E4M3FN", top=448.0, opset=19, ir_version=9, encode=_fp8_bytes, obstacle=_fp8_obstacle)
"""E4M3 without infinities, the one fp8 format of TensorRT."""


def qdq_from_fp32(
    source: Path,
    target: Path,
    *,
    form: Form,
    scheme: QuantScheme,
    calibration: Dataset | None,
    per_channel: bool = True,
) -> tuple[str, ...]:
    """`target` is `source` with Q/DQ where `placement.py` puts them, and `scheme.high_precision` elsewhere.

    Weights are stored in 8 bits behind a DQ, biases stay in floating point. An activation's scale is its largest magnitude on
    the calibration split divided by `form.top`. Raises Unsupported without calibration data or where no layer can be quantized,
    BuildFailed where ONNX Runtime cannot run the graph.
    """
    import onnx

    calibration = require_calibration(form.name, calibration)
    half = scheme.high_precision == "fp16"
    with tempfile.TemporaryDirectory() as folder:
        try:
            opset = max(form.opset, _HALF_OPSET) if half else form.opset
            model = prepared_model(source, Path(folder), opset, form.name)
            placement = placement_of(model, form.obstacle)
            if not placement.products:
                raise Unsupported(f"{form.name}: no layer can be quantized; {_listing(placement)}", stage="variant")
            ranges = _ranges(model, placement, calibration)
        except (Unsupported, BuildFailed):
            raise
        except Exception as exc:  # ONNX Runtime's exceptions share no public base class
            raise BuildFailed(
                f"ONNX Runtime could not prepare the graph for {form.name}: {type(exc).__name__}: {exc}", stage="variant"
            ) from exc
    share = quantized_share(model, placement)
    writer = _Writer(model, form, half=half, per_channel=per_channel)
    onnx.save_model(writer.written(placement, ranges), str(target))
    return (
        f"{form.name} in {len(placement.products)} layers with {share:.1%} of the multiply-accumulates, "
        f"{scheme.high_precision} elsewhere{'; ' + _listing(placement) if placement.kept else ''}",
        f"ranges: max over {n_used(calibration)} calibration samples",
    )


def quantized_share(model: ModelProto, placement: Placement) -> float:
    """Share of the multiply-accumulates that the placement's products do; NaN where a shape is unknown."""
    chosen = {p.node for p in placement.products}
    counts = macs_by_node(model)
    total = sum(c if c is not None else float("nan") for _, c in counts)
    return sum(c for name, c in counts if name in chosen and c is not None) / total if total else float("nan")


def _listing(placement: Placement) -> str:
    shown = [f"{node} ({why})" for node, why in placement.kept.items()]
    more = f"; and {len(shown) - 3} more" if len(shown) > 3 else ""
    return f"not quantized: {'; '.join(shown[:3]) or 'no layer has constant weights'}{more}"


def _edges(placement: Placement) -> list[tuple[str, int]]:
    """(node, index) of every input that gets a Q/DQ pair."""
    return [*((p.node, 0) for p in placement.products), *placement.residuals]


def _ranges(model: ModelProto, placement: Placement, calibration: Dataset) -> dict[tuple[str, int], float]:
    """The largest magnitude at every edge."""
    inputs = {node.name: node.input for node in model.graph.node}
    names = {edge: inputs[edge[0]][edge[1]] for edge in _edges(placement)}
    found = largest_magnitudes(model, sorted(set(names.values())), calibration_batches(calibration, inputs_of(model)))
    return {edge: found[name] for edge, name in names.items()}


class _Writer:
    """Puts Q/DQ into a prepared fp32 graph or into its fp16 form, whose nodes have the same names."""

    def __init__(self, model: ModelProto, form: Form, *, half: bool, per_channel: bool) -> None:
        import onnx

        self._form, self._half, self._per_channel = form, half, per_channel
        self._weights = {t.name: onnx.numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}
        self._model = half_model(model) if half else model
        self._kind = getattr(onnx.TensorProto, form.kind)
        self._pairs: dict[str, str] = {}

    def written(self, placement: Placement, ranges: Mapping[tuple[str, int], float]) -> ModelProto:
        """The quantized graph, checked."""
        import onnx

        nodes = {node.name: node for node in self._model.graph.node}
        for (name, index), largest in ranges.items():
            node = nodes[name]
            node.input[index] = self._quantized(node.input[index], largest)
        for product in placement.products:
            nodes[product.node].input[1] = self._stored(product)
        drop_unused_initializers(self._model)
        sort_nodes(self._model)
        self._model.ir_version = max(self._model.ir_version, self._form.ir_version)
        model = with_inferred_shapes(self._model)
        try:
            onnx.checker.check_model(model)
        except Exception as exc:
            raise BuildFailed(f"{self._form.name}: the written graph is not valid: {exc}", stage="variant") from exc
        return model

    def _quantized(self, tensor: str, largest: float) -> str:
        """The tensor behind Q and DQ, one pair for all its readers."""
        if tensor not in self._pairs:
            scale = self._scales(np.asarray(largest, np.float32))
            small, back = f"{tensor}__{self._form.name}", f"{tensor}__dequantized"
            parameters = self._parameters(tensor, scale)
            self._node("QuantizeLinear", [tensor, *parameters], small)
            self._node("DequantizeLinear", [small, *parameters], back)
            self._pairs[tensor] = back
        return self._pairs[tensor]

    def _stored(self, product: Product) -> str:
        """The product's weights, stored in 8 bits, behind a DQ."""
        key = f"{product.weight}__{product.axis}"
        if key not in self._pairs:
            weights = self._weights[product.weight]
            others = tuple(i for i in range(weights.ndim) if i != product.axis or not self._per_channel)
            scale = self._scales(np.abs(weights).max(axis=others))
            shape = [-1 if i == product.axis and self._per_channel else 1 for i in range(weights.ndim)]
            scaled = weights / scale.astype(np.float32).reshape(shape)
            small, back = f"{key}__{self._form.name}", f"{key}__dequantized"
            self._model.graph.initializer.append(_raw(small, self._kind, weights.shape, self._form.encode(scaled)))
            extra = {"axis": product.axis} if self._per_channel else {}
            self._node("DequantizeLinear", [small, *self._parameters(key, scale)], back, **extra)
            self._pairs[key] = back
        return self._pairs[key]

    def _scales(self, largest: NDArray[Any]) -> NDArray[Any]:
        """largest / top; in fp16 rounded up, so that the largest value still fits. 1 where all is zero."""
        exact = np.where(largest > 0, largest / self._form.top, 1.0).astype(np.float32)
        if not self._half:
            return exact
        rounded = exact.astype(np.float16)
        return np.where(rounded < exact, np.nextafter(rounded, np.float16(np.inf)), rounded).astype(np.float16)

    def _parameters(self, name: str, scale: NDArray[Any]) -> list[str]:
        """Scale and zero point as stored tensors; their names."""
        from onnx import numpy_helper

        zero = _raw(f"{name}__zero", self._kind, scale.shape, bytes(scale.size))
        self._model.graph.initializer.extend([numpy_helper.from_array(scale, f"{name}__scale"), zero])
        return [f"{name}__scale", f"{name}__zero"]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> None:
        from onnx import helper

        self._model.graph.node.append(helper.make_node(kind, inputs, [output], name=f"{output}__{kind}", **attributes))


def _raw(name: str, kind: int, shape: tuple[int, ...], values: bytes) -> TensorProto:
    """A stored tensor of a type that numpy need not know."""
    from onnx import helper

    return helper.make_tensor(name, kind, shape, values, raw=True)
