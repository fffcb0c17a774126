"""A graph's nodes without its weights: what explanations speak about, small enough to send between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.variants.graph import Shape, shapes_of, with_inferred_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One node. `inputs`: the tensors that flow in, constants left out. `label`: its operation for people.

    `precision`: the number format of its first result that the graph's types say, "" where the type could not be inferred;
    nodes between Q and DQ read "fp32" here, for their integers are a promise that the engine may keep.
    """

    name: str
    op: str
    label: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    precision: str = ""
    domain: str = ""


Outline = tuple[GraphNode, ...]


def outline_of(path: Path) -> Outline:
    """The nodes of an ONNX file in its order."""
    import onnx

    return outline(onnx.load(str(path)))


def outline(model: ModelProto) -> Outline:
    """The nodes of the graph in its order; one without a name of its own is called after its operation and place."""
    inferred = with_inferred_shapes(model)
    shapes, types = shapes_of(inferred), _types(inferred)
    constants = {t.name for t in inferred.graph.initializer} | {""}
    found, seen = [], set[str]()
    for index, node in enumerate(inferred.graph.node):
        name = node.name if node.name and node.name not in seen else f"{node.op_type}_{index}"
        seen.add(name)
        found.append(
            GraphNode(
                name=name,
                op=node.op_type,
                label=_label(node, shapes),
                inputs=tuple(i for i in node.input if i not in constants),
                outputs=tuple(o for o in node.output if o),
                precision=next((types[o] for o in node.output if o in types), ""),
                domain=node.domain,
            )
        )
    return tuple(found)


def _types(model: ModelProto) -> dict[str, str]:
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return {v.name: _format(v.type.tensor_type.elem_type) for v in values if v.type.HasField("tensor_type")}


def _format(elem_type: int) -> str:
    """ "fp32", "fp16", "int8", …; "" for none."""
    from onnx import TensorProto

    if elem_type == TensorProto.UNDEFINED:
        return ""
    return short_format(str(TensorProto.DataType.Name(elem_type)).lower())


def short_format(name: str) -> str:
    """ "fp32" for "float", "bf16" for "bfloat16", "int8" for "uint8", for signs make no kernel faster; others as they are."""
    known = {"float": "fp32", "float32": "fp32", "double": "fp64", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}
    if name in known:
        return known[name]
    return name.removeprefix("u") if name.startswith("uint") else name


def _label(node: NodeProto, shapes: Mapping[str, Shape]) -> str:
    if node.op_type not in _CONVOLUTIONS:
        return str(node.op_type)
    attributes: dict[str, Any] = {a.name: a for a in node.attribute}
    weight = shapes.get(node.input[1]) if len(node.input) > 1 else None
    sizes = list(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else list((weight or ())[2:])
    kernel = " " + "×".join(map(str, sizes)) if sizes else ""
    groups = attributes["group"].i if "group" in attributes else 1
    depthwise = weight is not None and len(weight) > 1 and weight[1] == 1  # channels per group, of inputs or of results
    return f"{node.op_type}{kernel}" + ("" if groups <= 1 else " depthwise" if depthwise else " grouped")
