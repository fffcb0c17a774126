"""16-bit floating point graphs whose inputs and outputs stay fp32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import EnvironmentProblem, Unsupported
from autotune.fingerprint import onnxruntime_version
from autotune.variants.graph import all_nodes, sort_nodes, with_inferred_shapes
from autotune.variants.opset import at_opset

if TYPE_CHECKING:
    from onnx import ModelProto

_BF16_OPSET = 22
"""The first opset in which Conv, the poolings and most others accept bfloat16 (ONNX operator changelog)."""

_STAY_FP32 = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that ONNX defines as float32 whatever the data's type is: regions and scales."""


def fp16_from_fp32(source: Path, target: Path) -> tuple[str, ...]:
    """`target` computes in fp16 and keeps its inputs and outputs. Values out of fp16's range are clipped by the converter."""
    import onnx

    onnx.save_model(half_model(onnx.load(str(source))), str(target))
    return ()


def half_model(model: ModelProto) -> ModelProto:
    """The graph in fp16 behind casts at its inputs and outputs; nodes keep their names. `model` may be changed."""
    if onnxruntime_version() is None:
        raise EnvironmentProblem("fp16 needs onnxruntime's converter.", remedy="pip install 'autotune[onnxruntime]'")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        converted = convert_float_to_float16(model, keep_io_types=True)
        sort_nodes(converted)
    except Exception as exc:
        raise Unsupported(f"fp16: the graph cannot be converted: {exc}", stage="variant") from exc
    return converted


def bf16_from_fp32(source: Path, target: Path) -> tuple[str, ...]:
    """`target` computes in bfloat16 behind casts at its inputs and outputs. Raises Unsupported naming the obstacle."""
    import onnx

    model = at_opset(onnx.load(str(source)), _BF16_OPSET, "bf16")
    names = {v.name for v in model.graph.input if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    results = {v.name for v in model.graph.output if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    _cast_initializers(model)
    _cast_types(model)
    _cast_edges(model, names, results)
    try:
        model = with_inferred_shapes(model)
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        raise Unsupported(f"bf16: not every operation of the graph takes bfloat16: {exc}", stage="variant") from exc
    onnx.save_model(model, str(target))
    return (f"bfloat16 graph, opset {_BF16_OPSET}",)


def _cast_initializers(model: ModelProto) -> None:
    import ml_dtypes
    from onnx import TensorProto, numpy_helper

    fixed = {node.input[i] for node in all_nodes(model.graph) for i in _STAY_FP32.get(node.op_type, ()) if i < len(node.input)}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in fixed:
            values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _cast_types(model: ModelProto) -> None:
    """Casts to float32 and constant fills inside the graph turn to bfloat16."""
    import ml_dtypes
    from onnx import TensorProto, numpy_helper

    for node in all_nodes(model.graph):
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                values = numpy_helper.to_array(attribute.t).astype(ml_dtypes.bfloat16)
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))


def _cast_edges(model: ModelProto, inputs: set[str], outputs: set[str]) -> None:
    from onnx import TensorProto, helper

    renamed = {name: f"{name}__bf16" for name in inputs | outputs}
    for node in all_nodes(model.graph):
        _rename(node.input, renamed)
        _rename(node.output, renamed)
    before: list[Any] = [
        helper.make_node("Cast", [n], [renamed[n]], name=f"{n}__to_bf16", to=TensorProto.BFLOAT16) for n in sorted(inputs)
    ]
    after = [helper.make_node("Cast", [renamed[n]], [n], name=f"{n}__to_fp32", to=TensorProto.FLOAT) for n in sorted(outputs)]
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _rename(names: Any, renamed: dict[str, str]) -> None:
    for index, name in enumerate(names):
        names[index] = renamed.get(name, name)
