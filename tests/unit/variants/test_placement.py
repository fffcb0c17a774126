"""NVIDIA's rules of where Q/DQ stand: at the factors of products and at residual inputs, nowhere else."""

from __future__ import annotations

import onnx
import pytest
import tiny_models as tiny

from autotune.variants.graph import name_nodes
from autotune.variants.placement import Placement, placement_of, products_of


def placed(model: onnx.ModelProto, *refused: str) -> Placement:
    """The placement where the named nodes are refused by the format."""
    name_nodes(model)
    return placement_of(model, lambda product: "no kernel" if product.node in refused else "")


def inputs_of(model: onnx.ModelProto, node: str) -> list[str]:
    return list(next(n for n in model.graph.node if n.name == node).input)


def test_every_layer_with_constant_weights_is_a_product() -> None:
    """The first, the last and depthwise layers among them, with the axis of their output channels."""
    found = products_of(tiny.tensor_core_classifier())
    assert [(p.kind, p.n_in, p.n_out, p.groups) for p in found] == [
        ("Conv", 3, 32, 1),
        ("Conv", 32, 32, 1),
        ("Conv", 32, 32, 1),
        ("Conv", 32, 64, 1),
        ("Conv", 64, 64, 1),
        ("Conv", 32, 64, 1),
        ("Conv", 1, 64, 64),
        ("Conv", 64, 128, 1),
        ("Gemm", 128, 16, 1),
    ]
    assert {p.axis for p in found} == {0}  # Conv, and Gemm with transB


def test_a_matrix_product_has_its_outputs_on_the_second_axis_and_attention_is_left_alone() -> None:
    """MatMul is (inputs, outputs). A product of two activations has no weights: TensorRT fuses attention in fp16."""
    found = placed(tiny.token_products())
    assert [(p.n_in, p.n_out, p.axis) for p in found.products] == [(64, 96, 1), (96, 40, 1)]
    assert set(found.kept.values()) == {"its right factor is no constant"} and len(found.kept) == 2
    assert found.residuals == ()


def test_the_residual_input_is_the_one_that_is_no_product_of_the_block() -> None:
    """Identity shortcut: the shortcut. Projected shortcut: the projection, whose way from the input is the shorter."""
    model = tiny.tensor_core_classifier()
    first, second = placed(model).residuals
    assert inputs_of(model, first[0])[first[1]].startswith("Relu")
    assert inputs_of(model, second[0])[second[1]] == "Conv10"  # 1×1; the block's own layers are Conv6 and Conv8
    flipped = tiny.classifier()  # its addition names the shortcut first
    ((node, index),) = placed(flipped).residuals
    assert inputs_of(flipped, node)[index].startswith("Relu")


def test_an_addition_without_a_quantized_product_has_no_residual_input() -> None:
    """There is no kernel that could take the addition in: it stays in floating point."""
    model = tiny.classifier()
    adds = [n for n in model.graph.node if n.op_type == "Add"]
    host = next(name for name in adds[0].input if name.startswith("Conv"))
    assert placed(model, host).residuals == ()


def test_a_product_that_others_read_too_takes_no_addition_in() -> None:
    """The addition goes into a kernel only where the product's own result is not needed."""
    w = tiny.GraphWriter()
    x = w.conv("input", 3, 8)
    y = w.node("Add", x, w.node("Relu", x))
    model = w.model({"input": (tiny.FLOAT, ["batch", 3, 8, 8])}, y, ["batch", 8, 8, 8])
    assert placed(model).residuals == ()


@pytest.mark.parametrize(("kernel", "axis", "n_out"), [("ConvTranspose", 1, 8)])
def test_a_transposed_convolution_has_its_outputs_on_the_second_axis(kernel: str, axis: int, n_out: int) -> None:
    """ONNX stores its weights as (inputs, outputs, …)."""
    w = tiny.GraphWriter()
    y = w.node(kernel, "input", w.weight("up.w", 4, 8, 2, 2), strides=[2, 2])
    model = w.model({"input": (tiny.FLOAT, ["batch", 4, 8, 8])}, y, ["batch", 8, 16, 16])
    (found,) = products_of(model)
    assert (found.axis, found.n_in, found.n_out) == (axis, 4, n_out)


def test_a_format_names_the_layers_that_it_cannot_hold() -> None:
    """What stays in floating point is told with the reason."""
    found = placed(tiny.tensor_core_classifier(), "Conv0")
    assert found.kept == {"Conv0": "no kernel"} and len(found.products) == 8
