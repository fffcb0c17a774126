"""What a layer is for, told from the engine's name of its kind and from the nodes that it holds."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.engines.layers import LayerRole

QUANTIZE_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "CastLike"})
_MOVES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
_SHAPE_OPS = frozenset({"Shape", "Constant", "ConstantOfShape", "Range", "Size"})

_BY_KIND: dict[str, LayerRole] = {
    **dict.fromkeys(("ReorderInput", "ReorderOutput", "Reorder"), "reformat"),
    **dict.fromkeys((*QUANTIZE_OPS, "Convert", "FakeQuantize"), "quantize"),
    **dict.fromkeys((*_MOVES, "MemcpyToHost", "MemcpyFromHost"), "copy"),
    **dict.fromkeys((*_SHAPE_OPS, "ShapeOf", "Const", "Input", "Output"), "other"),
}


def role_of(kind: str, ops: Sequence[str]) -> LayerRole:
    """`kind`: the engine's operation type. `ops`: the ONNX types of the nodes in the layer, none where it is the engine's own.

    A transposition that no node asked for is a change of layout; a layer whose nodes are all of one trade has its role.
    """
    if kind in _BY_KIND:
        return _BY_KIND[kind]
    if kind == "Transpose" and not ops:
        return "reformat"
    if ops and QUANTIZE_OPS.issuperset(ops):
        return "quantize"
    if ops and _MOVES.issuperset(ops):
        return "copy"
    return "compute"
