"""The one form that every later stage relies on: named nodes, constants as initializers, a batch that may be any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.variants.graph import (
    BATCH,
    Shape,
    all_nodes,
    drop_unused_initializers,
    name_nodes,
    shapes_of,
    with_inferred_shapes,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def canonical(model: ModelProto) -> ModelProto:
    """The same function with a symbolic first dimension on every input and output. `model` is changed in place.

    Exporters write "flatten" as Reshape and global pooling as ReduceMean; both are turned back, because a Reshape names the
    channel count (and often the batch) that pruning changes, and engines have kernels for the pooling.
    """
    _drop_listed_initializers(model)
    _constants_to_initializers(model)
    _name_constants_once(model)
    name_nodes(model)
    model = with_inferred_shapes(model)
    shapes = shapes_of(model)
    constants = {t.name: t for t in model.graph.initializer}
    fixed_batches: set[int | None] = {s[0] for v in model.graph.input if (s := shapes.get(v.name)) and s[0] is not None}
    for node in model.graph.node:
        if node.op_type == "Reshape":
            _free_reshape(model, node, shapes, constants, fixed_batches)
        elif node.op_type == "ReduceMean":
            _pool_from_mean(node, shapes, constants)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = BATCH
    drop_unused_initializers(model)
    return with_inferred_shapes(model)


def _drop_listed_initializers(model: ModelProto) -> None:
    stored = {t.name for t in model.graph.initializer}
    kept = [v for v in model.graph.input if v.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _constants_to_initializers(model: ModelProto) -> None:
    kept = []
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            model.graph.initializer.append(value)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _name_constants_once(model: ModelProto) -> None:
    """No Identity gives an initializer a second name: torch's exporter does where two weights are equal, such as fresh biases,
    and then neither pruning nor quantization sees that the node has a weight."""
    stored, results = {t.name for t in model.graph.initializer}, {v.name for v in model.graph.output}
    copies = {
        n.output[0]: n.input[0]
        for n in model.graph.node
        if n.op_type == "Identity" and n.input[0] in stored and n.output[0] not in results
    }
    kept = [n for n in model.graph.node if n.output[0] not in copies]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for node in all_nodes(model.graph):
        for i, name in enumerate(node.input):
            node.input[i] = copies.get(name, name)


def _free_reshape(
    model: ModelProto, node: NodeProto, shapes: dict[str, Shape], constants: dict[str, Any], fixed_batches: set[int | None]
) -> None:
    """A Reshape that flattens becomes Flatten; one that names the batch takes it from its input instead."""
    from onnx import numpy_helper

    source, target = shapes.get(node.input[0]), constants.get(node.input[1])
    if source is None or target is None:
        return
    wanted = [int(v) for v in numpy_helper.to_array(target).reshape(-1)]
    if any(a.name == "allowzero" and a.i for a in node.attribute):
        if 0 in wanted:  # an empty dimension, and not the input's
            return
        del node.attribute[:]  # without a zero it says nothing; torch's exporter sets it, and few readers know it
    features = _known_product(source[1:])
    if len(wanted) == 2 and len(source) > 1 and features is not None:
        named = wanted[0] in (-1, 0) or wanted[0] == source[0]
        if (
            named
            and wanted[1] in (-1, features)
            and wanted != [-1, -1]
            and (source[0] or wanted[1] == features or wanted[0] == 0)
        ):
            _become_flatten(node)
            return
    if wanted and wanted[0] in fixed_batches and source and source[0] == wanted[0]:
        freed = numpy_helper.from_array(_int64([0, *wanted[1:]]), f"{node.name}_shape")
        model.graph.initializer.append(freed)
        node.input[1] = freed.name


def _become_flatten(node: NodeProto) -> None:
    from onnx import helper

    node.op_type = "Flatten"
    del node.input[1:]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))


def _pool_from_mean(node: NodeProto, shapes: dict[str, Shape], constants: dict[str, Any]) -> None:
    """A mean over exactly the spatial axes, dimensions kept, becomes GlobalAveragePool."""
    from onnx import helper, numpy_helper

    source = shapes.get(node.input[0])
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axes = attributes.get("axes")
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
    if source is None or len(source) < 3 or not axes or not attributes.get("keepdims", 1):
        return
    if {int(a) % len(source) for a in axes} == set(range(2, len(source))):
        node.op_type = "GlobalAveragePool"
        del node.input[1:]
        del node.attribute[:]


def _known_product(shape: Shape) -> int | None:
    total = 1
    for size in shape:
        if size is None:
            return None
        total *= size
    return total


def _int64(values: list[int]) -> Any:
    import numpy as np

    return np.asarray(values, dtype=np.int64)
