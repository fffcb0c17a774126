"""What can be read off an ONNX graph: its inputs, its parameters, its multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.spec.inputs import InputSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MODEL_FILE = "model.onnx"
BATCH = "batch"
Shape = tuple[int | None, ...]

_WEIGHT_INDEX = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_MATMUL_INDEX = {"MatMul": 1, "Gemm": 1, "MatMulInteger": 1, "QLinearMatMul": 3}


def model_inputs(path: Path) -> tuple[InputSpec, ...]:
    """The inputs of an ONNX file in its order; `dtype` is numpy's name. Weights are not read from beside the file."""
    import onnx

    return inputs_of(onnx.load(str(path), load_external_data=False))


def inputs_of(model: ModelProto) -> tuple[InputSpec, ...]:
    """The inputs of a graph, without initializers that old files list among them."""
    import onnx

    stored = {t.name for t in model.graph.initializer}
    specs = []
    for value in model.graph.input:
        if value.name not in stored:
            kind = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            specs.append(InputSpec(name=value.name, shape=_shape(kind), dtype=str(np.dtype(dtype))))
    return tuple(specs)


def with_inferred_shapes(model: ModelProto) -> ModelProto:
    """The same graph with its intermediate shapes inferred afresh. What cannot be inferred has no shape."""
    import onnx

    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def shapes_of(model: ModelProto) -> dict[str, Shape]:
    """Shape by tensor name: inputs, outputs, initializers and whatever carries shape information."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    found = {v.name: _shape(v.type.tensor_type) for v in values if v.type.tensor_type.HasField("shape")}
    return found | {t.name: tuple(t.dims) for t in model.graph.initializer}


def n_params(model: ModelProto) -> int:
    """Elements of all weight and bias tensors, quantized or not. Scales, zero points, shapes and scalars do not count."""
    import onnx

    kinds = onnx.TensorProto
    quantization = {
        name for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]
    }
    integers = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    floats = {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
    return sum(
        math.prod(t.dims)
        for t in model.graph.initializer
        if t.dims and t.name not in quantization and (t.data_type in floats or t.name in integers)
    )


def has_attention(model: ModelProto) -> bool:
    """True where some matrix product multiplies two activations, as attention does."""
    stored = {t.name for t in model.graph.initializer}
    return any(n.op_type == "MatMul" and not stored.intersection(n.input) for n in model.graph.node)


def n_macs(model: ModelProto) -> int | None:
    """Multiply-accumulates of convolutions and matrix products for one sample; None where a shape stays unknown."""
    total = 0
    for _, count in macs_by_node(model):
        if count is None:
            return None
        total += count
    return total


def macs_by_node(model: ModelProto) -> list[tuple[str, int | None]]:
    """(name, multiply-accumulates for one sample) of every node, those inside branches and loops too; None: shape unknown."""
    import onnx

    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (*single.graph.input, *single.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param == BATCH:
            dims[0].dim_value = 1
    shapes = shapes_of(with_inferred_shapes(single))
    return [(node.name, _node_macs(node, shapes)) for node in all_nodes(single.graph)]


def drop_unused_initializers(model: ModelProto) -> None:
    """No stored tensor is left that nothing reads."""
    used = {name for node in all_nodes(model.graph) for name in node.input} | {v.name for v in model.graph.output}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def name_nodes(model: ModelProto) -> None:
    """Every node of the outermost graph has a name of its own; those that have one keep it."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)


def all_nodes(graph: Any) -> Iterator[NodeProto]:
    """Every node of a graph and of the graphs inside it (branches, loop bodies)."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def sort_nodes(model: ModelProto) -> None:
    """Nodes stand after those whose results they read, as ONNX demands; otherwise in their old order. Changes `model`."""
    known = {t.name for t in model.graph.initializer} | {v.name for v in model.graph.input} | {""}
    waiting = list(model.graph.node)
    ordered: list[NodeProto] = []
    produced = {name for node in waiting for name in node.output}
    while waiting:
        ready = [n for n in waiting if all(i in known or i not in produced for i in n.input)]
        # A graph with a cycle keeps its order, and fails whatever checks it next.
        batch = ready or waiting[:1]
        ordered.extend(batch)
        known.update(name for node in batch for name in node.output)
        taken = {id(n) for n in batch}
        waiting = [n for n in waiting if id(n) not in taken]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _node_macs(node: NodeProto, shapes: dict[str, Shape]) -> int | None:
    """One node's multiply-accumulates; 0 for other operations, None for an unknown shape."""
    out = shapes.get(node.output[0]) if node.output else None
    if node.op_type in _WEIGHT_INDEX:
        return _product(out, _tail(shapes.get(node.input[_WEIGHT_INDEX[node.op_type]])))
    if node.op_type == "ConvTranspose":
        return _product(shapes.get(node.input[0]), _tail(shapes.get(node.input[1])))
    if node.op_type in _MATMUL_INDEX:
        left = shapes.get(node.input[0])
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return _product(out, None if not left else (left[0] if transposed else left[-1],))
    return 0


def _tail(shape: Shape | None) -> Shape | None:
    return None if shape is None else shape[1:]


def _product(*shapes: Shape | None) -> int | None:
    total = 1
    for shape in shapes:
        if shape is None:
            return None
        for size in shape:
            if size is None:
                return None
            total *= size
    return total


def _shape(kind: Any) -> Shape:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
