"""A 16-bit floating point graph as fp32 with the same, already rounded weights: for tools that read fp32 graphs only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import Unsupported
from autotune.variants.graph import all_nodes, with_inferred_shapes

if TYPE_CHECKING:
    from onnx import ModelProto

_READABLE_OPSET = 18
"""The newest opset of which onnx2torch 1.5 knows most operations."""

_CHANGED_SINCE = frozenset(
    {"AveragePool", "DequantizeLinear", "DFT", "GridSample", "Pad", "QuantizeLinear", "Resize", "RMSNormalization"}
)
"""Operations of opsets 19 to 22 that changed in more than the types they take (ONNX operator changelog)."""


def fp32_from_half(model: ModelProto) -> ModelProto:
    """The graph with fp16 and bf16 turned to fp32, casts between them gone, at an opset that importers know.

    Raises Unsupported naming an operation that means something else at that opset.
    """
    import onnx

    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    _widen_tensors(widened)
    _drop_float_casts(widened)
    _lower_opset(widened)
    return with_inferred_shapes(widened)


def _widen_tensors(model: ModelProto) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    half = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    for tensor in model.graph.initializer:
        if tensor.data_type in half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in all_nodes(model.graph):
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in half:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type in half:
                values = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type in half:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.value_info[:]


def _drop_float_casts(model: ModelProto) -> None:
    """A cast from fp32 to fp32 is gone: left in, it would undo a later conversion of the whole module to 16 bits."""
    from onnx import TensorProto

    model.CopyFrom(with_inferred_shapes(model))
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    types |= {t.name: t.data_type for t in model.graph.initializer}
    results = {v.name for v in model.graph.output}
    kept = []
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        to_float = node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)
        if to_float and types.get(node.input[0]) == TensorProto.FLOAT:
            if node.output[0] not in results:
                renamed[node.output[0]] = node.input[0]
                continue
            node.op_type = "Identity"
            del node.attribute[:]
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _lower_opset(model: ModelProto) -> None:
    standard = next((o for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if standard is None or standard.version <= _READABLE_OPSET:
        return
    changed = sorted({n.op_type for n in all_nodes(model.graph)} & _CHANGED_SINCE)
    if changed:
        raise Unsupported(
            f"{', '.join(changed)} of opset {standard.version} means something else at opset {_READABLE_OPSET}, the newest "
            "that onnx2torch reads",
            stage="engine",
        )
    standard.version = _READABLE_OPSET
