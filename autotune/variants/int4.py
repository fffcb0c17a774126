"""4-bit weights for matrix products: stored in blocks with a scale each, multiplied in floating point."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BuildFailed, EnvironmentProblem, Unsupported
from autotune.fingerprint import onnxruntime_version
from autotune.variants.graph import drop_unused_initializers, sort_nodes, with_inferred_shapes
from autotune.variants.half import half_model
from autotune.variants.placement import Product, placement_of
from autotune.variants.quantize import prepared_model
from autotune.variants.variant import QuantScheme

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BLOCKS = (128, 64)
"""Weights that share a scale: the sizes that TensorRT takes (its documentation, "Quantized types", block quantization)."""
_OPSET = 21
_IR_VERSION = 10
"""The first that have 4-bit tensors and scales per block (ONNX operator changelog)."""
_TOP = 7.0
_SHRINKS = np.linspace(1.0, 0.6, 17, dtype=np.float32)
"""Scales that are tried, as shares of largest / 7: cutting a block's largest weight can bring the others nearer."""


def int4_obstacle(product: Product) -> str:
    """Why a layer's weights stay in floating point; empty where TensorRT multiplies by 4-bit weights."""
    if product.kind not in ("Gemm", "MatMul"):
        return "TensorRT has 4-bit weights for matrix products only"
    if product.n_in % min(BLOCKS):
        return f"its {product.n_in} inputs are no multiple of {min(BLOCKS)}, the smallest block"
    return ""


def int4_from_fp32(source: Path, target: Path, *, scheme: QuantScheme) -> tuple[str, ...]:
    """`target` is `source` with 4-bit weights in its matrix products, and `scheme.high_precision` everywhere else.

    Convolutions, biases and activations stay in floating point. Each block of 128 inputs (64 where 128 does not divide them)
    of an output has a scale: of 17 that are tried, the one with the least squared error. Raises Unsupported where no product
    qualifies, with the reason of each.
    """
    import onnx

    if onnxruntime_version() is None:
        raise EnvironmentProblem("int4 needs onnxruntime's graph tools.", remedy="pip install 'autotune[onnxruntime]'")
    half = scheme.high_precision == "fp16"
    with tempfile.TemporaryDirectory() as folder:
        model = prepared_model(source, Path(folder), _OPSET, "int4")
    placement = placement_of(model, int4_obstacle)
    if not placement.products:
        shown = "; ".join(f"{node}: {why}" for node, why in list(placement.kept.items())[:3]) or "no layer has weights"
        raise Unsupported(f"int4: no layer can hold 4-bit weights; {shown}", stage="variant")
    weights = {t.name: onnx.numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}
    stored = sum(weights[p.weight].size for p in placement.products)
    written = half_model(model) if half else model
    nodes = {node.name: node for node in written.graph.node}
    for product in placement.products:
        _replace_weights(written, nodes[product.node], product, weights[product.weight], half=half)
    onnx.save_model(_finished(written), str(target))
    share = stored / max(1, sum(w.size for w in weights.values()))
    return (
        f"int4 weights in {len(placement.products)} of {len(placement.products) + len(placement.kept)} layers with {share:.1%} "
        f"of the parameters; {scheme.high_precision} elsewhere",
    )


def blocked(weights: NDArray[np.float32], block: int, *, half: bool) -> tuple[NDArray[np.int8], NDArray[np.floating]]:
    """Values in -8…7 and scales per `block` of the first axis. `weights`: (inputs, outputs); scales: (blocks, outputs)."""
    parts = weights.reshape(-1, block, weights.shape[1])
    largest = np.abs(parts).max(axis=1, keepdims=True)
    kind = np.float16 if half else np.float32
    best = np.full(largest.shape, np.inf, np.float32)
    scales = np.ones(largest.shape, kind)
    for shrink in _SHRINKS:
        tried = np.where(largest > 0, largest * shrink / _TOP, 1.0).astype(kind)
        tried = np.maximum(tried, np.finfo(kind).smallest_subnormal)
        wide = tried.astype(np.float32)
        error = np.square(np.clip(np.rint(parts / wide), -8, 7) * wide - parts).sum(axis=1, keepdims=True)
        scales, best = np.where(error < best, tried, scales), np.minimum(error, best)
    values = np.clip(np.rint(parts / scales.astype(np.float32)), -8, 7).astype(np.int8)
    return values.reshape(weights.shape), scales.reshape(-1, weights.shape[1])


def _replace_weights(model: ModelProto, node: NodeProto, product: Product, weights: NDArray[np.float32], *, half: bool) -> None:
    """The node reads its weights from a DQ with a scale per block of its inputs."""
    from onnx import TensorProto, helper, numpy_helper

    by_rows = product.axis == 0
    block = next(b for b in BLOCKS if product.n_in % b == 0)
    values, scales = blocked(weights.T if by_rows else weights, block, half=half)
    values, scales = (values.T, scales.T) if by_rows else (values, scales)
    stem = f"{product.node}__weights"
    packed = helper.make_tensor(f"{stem}_int4", TensorProto.INT4, values.shape, _packed(values), raw=True)
    scale = numpy_helper.from_array(np.ascontiguousarray(scales), f"{stem}_scale")
    model.graph.initializer.extend([packed, scale])
    attributes = {"axis": 1 if by_rows else 0, "block_size": block}
    inputs = [packed.name, scale.name]
    model.graph.node.append(helper.make_node("DequantizeLinear", inputs, [f"{stem}_dq"], name=f"{stem}_dq", **attributes))
    node.input[1] = f"{stem}_dq"


def _packed(values: NDArray[np.int8]) -> bytes:
    """Two values to a byte, the first in the low half (ONNX, "4 bit integers")."""
    flat = values.reshape(-1).astype(np.uint8) & 0xF
    flat = np.append(flat, np.uint8(0)) if flat.size % 2 else flat
    return (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()


def _finished(model: ModelProto) -> ModelProto:
    import onnx

    drop_unused_initializers(model)
    sort_nodes(model)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    model = with_inferred_shapes(model)
    try:
        onnx.checker.check_model(model)
    except Exception as exc:
        raise BuildFailed(f"int4: the written graph is not valid: {exc}", stage="variant") from exc
    return model
