"""nodes_by_layer: which nodes a layer holds, from the names that engines leave."""

from __future__ import annotations

from autotune.engines.fused_nodes import LayerHint, nodes_by_layer, vanished_nodes
from autotune.variants.outline import GraphNode


def node(name: str, op: str, inputs: str, output: str) -> GraphNode:
    return GraphNode(name=name, op=op, label=op, inputs=tuple(inputs.split()), outputs=(output,))


RESIDUAL = (
    node("c1", "Conv", "x", "c1_y"),
    node("c1/relu", "Relu", "c1_y", "a"),
    node("c2", "Conv", "a", "c2_y"),
    node("sum", "Add", "c2_y a", "s"),
    node("flat", "Flatten", "s", "f"),
    node("fc", "Gemm", "f", "logits"),
)


def hints(*names: str) -> list[LayerHint]:
    return [LayerHint(names=(name,)) for name in names]


def test_a_layer_named_after_a_tensor_holds_what_makes_it() -> None:
    """ONNX Runtime's "a_nchwc" makes tensor a: the ReLU, and the convolution before it."""
    assert nodes_by_layer(RESIDUAL, hints("a_nchwc", "c2_y_nchwc", "flat", "fc")) == (
        ("c1", "c1/relu"),
        ("c2", "sum"),
        ("flat",),
        ("fc",),
    )


def test_a_sum_belongs_to_the_later_of_the_layers_that_feed_it() -> None:
    """An accumulation into the second branch; both branches end before it can run."""
    assert nodes_by_layer(RESIDUAL, hints("c1", "c2", "fc"))[1] == ("c2", "sum")


def test_a_sum_that_is_a_layer_stays_one() -> None:
    """What the engine names is never taken into another layer."""
    found = nodes_by_layer(RESIDUAL, hints("c1", "c2", "sum", "flat", "fc"))
    assert found == (("c1", "c1/relu"), ("c2",), ("sum",), ("flat",), ("fc",))


def test_openvinos_names_are_shortened_until_a_node_is_found() -> None:
    """ "fc/WithoutBiases/DequantizationMultiply" is fc; a node whose own name has a slash is found before it is shortened."""
    found = nodes_by_layer(RESIDUAL, hints("fc/WithoutBiases/DequantizationMultiply", "c1/relu"))
    assert found[0][-1] == "fc" and found[1] == ("c1", "c1/relu")


def test_a_convolution_is_never_guessed_into_another_layer() -> None:
    """The layer of c2 lost its name: c2 has vanished rather than being counted to fc."""
    found = nodes_by_layer(RESIDUAL, hints("c1", "fc"))
    assert not any("c2" in layer for layer in found)
    assert "c2" in vanished_nodes(RESIDUAL, found)


QUANTIZED = (
    node("x/q", "QuantizeLinear", "x", "xq"),
    node("x/dq", "DequantizeLinear", "xq", "xd"),
    node("w1/dq", "DequantizeLinear", "", "w1d"),
    node("c1", "Conv", "xd w1d", "c1_y"),
    node("c1/q", "QuantizeLinear", "c1_y", "aq"),
    node("c1/dq", "DequantizeLinear", "aq", "ad"),
    node("w2/dq", "DequantizeLinear", "", "w2d"),
    node("c2", "Conv", "ad w2d", "c2_y"),
    node("c2/q", "QuantizeLinear", "c2_y", "bq"),
    node("c2/dq", "DequantizeLinear", "bq", "logits"),
)


def test_q_joins_the_layer_before_and_dq_the_one_after() -> None:
    """An integer convolution reads integers and writes integers; at the ends Q and DQ are layers of their own."""
    assert nodes_by_layer(QUANTIZED, hints("x/q", "c1_token_3", "c2_token_7", "c2/dq")) == (
        ("x/q",),
        ("x/dq", "w1/dq", "c1", "c1/q"),
        ("c1/dq", "w2/dq", "c2", "c2/q"),
        ("c2/dq",),
    )


def test_an_output_tensor_tells_what_a_nameless_layer_holds() -> None:
    """A fused layer norm is named after nothing in the graph, but makes the tensor that the nodes made."""
    norm = (
        node("dense", "MatMul", "x", "h"),
        node("mean", "ReduceMean", "h", "m"),
        node("centred", "Sub", "h m", "d"),
        node("squared", "Pow", "d", "p"),
        node("variance", "ReduceMean", "p", "v"),
        node("deviation", "Sqrt", "v", "s"),
        node("normed", "Div", "d s", "n"),
        node("scaled", "Mul", "n", "y"),
    )
    told = [LayerHint(names=("dense",)), LayerHint(names=("LayerNormFusion_1",), outputs=("y",), kind="LayerNormalization")]
    assert nodes_by_layer(norm, told)[1][-1] == "scaled"
    assert {"mean", "squared", "variance", "deviation", "normed"} <= set(nodes_by_layer(norm, told)[1])


def test_an_added_transposition_holds_no_node() -> None:
    """It keeps the name of the tensor that it lays out anew, which another layer made."""
    told = [LayerHint(names=("c1",)), LayerHint(names=("Transpose_token_4",), outputs=("c1_y",), kind="Transpose")]
    assert nodes_by_layer(RESIDUAL, told) == (("c1", "c1/relu"), ())


def test_attention_holds_several_products() -> None:
    """Only a layer whose kind says attention takes a second product."""
    attention = (
        node("q", "MatMul", "x", "q_y"),
        node("scores", "MatMul", "q_y x", "s"),
        node("weights", "Softmax", "s", "w"),
        node("mixed", "MatMul", "w x", "y"),
    )
    whole = [LayerHint(names=("fused",), outputs=("y",), kind="Attention")]
    assert nodes_by_layer(attention, whole) == (("q", "scores", "weights", "mixed"),)
    single = [LayerHint(names=("fused",), outputs=("y",), kind="MatMul")]
    assert nodes_by_layer(attention, single) == (("weights", "mixed"),)
