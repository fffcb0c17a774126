"""fp32_from_half: the rounded weights survive, the 16-bit types and their casts do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from autotune.errors import Unsupported
from autotune.variants.half import bf16_from_fp32, fp16_from_fp32
from autotune.variants.widen import fp32_from_half

WEIGHT = np.array([[1.0009765625, 1.00390625], [0.333251953125, -2.0]], np.float32)
"""1 + 2⁻¹⁰ is an fp16 but no bf16 number (which keeps 1 + 2⁻⁷ and rounds it to 1); 1 + 2⁻⁸ is halfway and rounds to even, 1."""


def graph(path: Path, op: str = "Relu", opset: int = 17) -> Path:
    """x [batch, 2] · W → op → y."""
    weight = numpy_helper.from_array(WEIGHT, "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node(op, ["m"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy"]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    onnx.save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize(("convert", "first"), [(fp16_from_fp32, 1.0009765625), (bf16_from_fp32, 1.0)])
def test_weights_keep_their_rounding_and_casts_go(tmp_path: Path, convert: object, first: float) -> None:
    """What torch then computes in is the variant's own weights; a left-over cast would undo a module's conversion."""
    convert(graph(tmp_path / "a.onnx"), tmp_path / "half.onnx")  # type: ignore[operator]
    widened = fp32_from_half(onnx.load(str(tmp_path / "half.onnx")))
    assert not [n.op_type for n in widened.graph.node if n.op_type == "Cast"]
    assert {t.data_type for t in widened.graph.initializer} == {TensorProto.FLOAT}
    assert widened.opset_import[0].version <= 18
    (found,) = ReferenceEvaluator(widened).run(None, {"x": np.array([[1.0, 0.0]], np.float32)})
    assert found[0, 0] == first


def test_an_fp32_graph_stays_as_it_is(tmp_path: Path) -> None:
    """Nothing is rounded, renamed or removed."""
    model = onnx.load(str(graph(tmp_path / "a.onnx")))
    widened = fp32_from_half(model)
    assert [n.op_type for n in widened.graph.node] == ["MatMul", "Relu"]
    np.testing.assert_array_equal(numpy_helper.to_array(widened.graph.initializer[0]), WEIGHT)


def test_an_operation_that_changed_is_named(tmp_path: Path) -> None:
    """RMSNormalization exists since opset 23 only: relabelled, the graph would be wrong and nobody would know."""
    with pytest.raises(Unsupported, match=r"RMSNormalization of opset 23.*opset 18"):
        node = helper.make_node("RMSNormalization", ["x", "w"], ["y"])
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy"]
        weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
        made = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
        fp32_from_half(helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)]))
