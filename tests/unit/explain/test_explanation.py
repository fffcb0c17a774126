"""explain: where one engine's time goes, on layers written by hand (hand_made.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hand_made import PLAIN, QUANTIZED, fp32, in_tensorrt, int8, layer, node, report

from autotune.explain.explanation import explain, grouped
from autotune.explain.subject import Subject, bits_of, counted, label_of


def test_shares_are_of_the_whole_execution() -> None:
    """By hand, of 400 µs: compute 260, reformat 80, quantize 50; 10 are outside all layers."""
    found = explain(int8())
    assert [(s.name, s.n_layers, s.time_us, s.share) for s in found.by_role] == [
        ("compute", 3, 260, 0.65),
        ("reformat", 2, 80, 0.2),
        ("quantize", 2, 50, 0.125),
    ]
    assert [(s.name, s.n_layers, s.time_us) for s in found.by_precision] == [("fp32", 2, 200), ("int8", 1, 60)]
    assert (found.between.time_us, found.between.share) == (10, 0.025)
    assert sum(s.share for s in found.by_role) + found.between.share == pytest.approx(1)


def test_layers_that_stayed_wide_come_with_the_reason_that_the_graph_gives() -> None:
    """conv2 reads quantized data but nobody quantizes its result; the GELU reads none."""
    found = explain(int8()).stayed_wide
    assert [(f.layer, f.share, f.why) for f in found] == [
        ("conv2", 0.4, "its inputs are quantized in the graph, its result is not"),
        ("gelu", 0.1, "no Q/DQ around it in the graph"),
    ]
    assert explain(fp32()).stayed_wide == ()


def test_a_quantized_node_that_computes_in_fp32_is_the_engines_doing() -> None:
    """conv1 has Q and DQ on both sides, the Q behind its ReLU."""
    subject = int8()
    layers = tuple(replace(x, precision="fp32") if x.name == "conv1" else x for x in subject.report.layers)
    subject = replace(subject, report=replace(subject.report, layers=layers))
    reasons = {f.layer: f.why for f in explain(subject).stayed_wide}
    assert reasons["conv1"] == "Q/DQ around it, which the engine did not fuse"


@pytest.mark.parametrize(
    ("precision", "graph", "why"),
    [
        ("fp16", "fp16", "the graph says fp16, and the engine computes it in fp32"),
        ("fp16", "fp32", "the graph keeps it in fp32"),
        ("amp-bf16", "fp32", "the graph is fp32 throughout, and the engine did not narrow this operation"),
    ],
)
def test_reasons_of_floating_point_formats(precision: str, graph: str, why: str) -> None:
    """Who kept it wide: the engine, the converter of the graph, or autocast's list."""
    outline = (node("conv", "Conv", "input", "y", precision=graph),)
    subject = Subject(
        label=precision,
        engine="hand",
        precision=precision,
        batch_size=1,
        report=report(layer("conv", "Conv", 5, nodes="conv"), total_us=10),
        outline=outline,
    )
    assert [f.why for f in explain(subject).stayed_wide] == [why]


def test_what_is_on_its_own_and_could_be_fused() -> None:
    """The GELU follows conv2 alone; the DQ lies inside; the Q at the input must be somewhere."""
    assert [(f.layer, f.why) for f in explain(int8()).unfused] == [
        ("gelu", "not fused into conv2 (Conv 1×1)"),
        ("a/dq", "inside the model, not fused with its neighbours"),
        ("in/q", "at the model's input, where it is needed"),
    ]


def test_an_activation_behind_a_shared_result_could_not_be_fused() -> None:
    """Two readers of conv's result: a fused layer would have lost what the other reads."""
    outline = (
        node("conv", "Conv", "input", "y"),
        node("relu", "Relu", "y", "a"),
        node("other", "Softmax", "y", "b"),
    )
    layers = [layer(n, n, 1, nodes=n) for n in ("conv", "relu", "other")]
    subject = Subject(
        label="", engine="hand", precision="fp32", batch_size=1, report=report(*layers, total_us=3), outline=outline
    )
    assert explain(subject).unfused == ()


def test_a_weight_that_is_dequantized_in_every_execution_is_told() -> None:
    """An engine that does not fold the DQ of a constant pays for it each time."""
    subject = int8()
    extra = layer("w1/dq", "DequantizeLinear", 5, "quantize", "fp32", "w1/dq")
    kept = tuple(replace(x, nodes=tuple(n for n in x.nodes if n != "w1/dq")) for x in subject.report.layers)
    subject = replace(subject, report=replace(subject.report, layers=(*kept, extra)))
    assert {f.layer: f.why for f in explain(subject).unfused}["w1/dq"] == "of a constant, in every execution"


def test_the_sum_by_node_joins_layers_that_share_nodes() -> None:
    """TensorRT may make two layers of one node: 30 + 20 µs are conv's, and what is fused with either belongs to it."""
    outline = (node("conv", "Conv", "input", "y", "Conv 3×3"), node("relu", "Relu", "y", "a"), node("fc", "Gemm", "a", "z"))
    layers = (
        layer("conv part 1", "conv", 30, nodes="conv"),
        layer("conv part 2", "conv", 20, nodes="conv relu"),
        layer("fc", "gemm", 10, nodes="fc"),
    )
    subject = Subject(
        label="", engine="hand", precision="fp32", batch_size=1, report=report(*layers, total_us=100), outline=outline
    )
    found = explain(subject).by_node
    assert [(n.name, n.label, n.nodes, n.n_layers, n.time_us, n.share) for n in found] == [
        ("conv", "Conv 3×3", ("conv", "relu"), 2, 50, 0.5),
        ("fc", "Gemm", ("fc",), 1, 10, 0.1),
    ]


def test_what_went_to_which_executor_is_told_where_there_are_several() -> None:
    """By hand: 150 and 30 of 200 µs; CUDA's layer has no time and counts nothing. One executor alone is nothing to tell."""
    told = [(p.provider, p.n_layers, p.nodes, p.untimed, p.time_us, p.share) for p in explain(in_tensorrt()).by_provider]
    assert told == [
        ("TensorRT", 1, ("conv1", "relu"), 0, 150.0, 0.75),
        ("CUDA", 1, ("conv2",), 1, 0.0, 0.0),
        ("CPU", 1, ("gelu",), 0, 30.0, 0.15),
    ]
    alone = fp32()
    layers = tuple(replace(layer, provider="CPU") for layer in alone.report.layers)
    assert explain(replace(alone, report=replace(alone.report, layers=layers))).by_provider == ()


def test_a_whole_part_of_the_graph_is_not_called_after_one_of_its_convolutions() -> None:
    """Two convolutions in one TensorRT subgraph are neither of the two; one alone is called as it is."""
    nodes = [n for n in PLAIN if n.op == "Conv"]
    subgraph = in_tensorrt().report.layers[0]
    assert label_of(subgraph, nodes) == "TensorRT subgraph" and label_of(subgraph, nodes[:1]) == "Conv 3×3"


def test_groups_are_merged_through_a_third_layer() -> None:
    """a and c have nothing in common until b holds nodes of both."""
    a, b, c = layer("a", "x", 1, nodes="1 2"), layer("b", "x", 1, nodes="2 3"), layer("c", "x", 1, nodes="3")
    for order in ((a, b, c), (a, c, b), (b, a, c)):
        assert {k: len(v) for k, v in grouped(order).items()} == {frozenset({"1", "2", "3"}): 3}


def test_what_the_engine_does_not_tell_is_said_with_its_weight() -> None:
    """Half of the time has no nodes, and a layer has no time."""
    layers = (layer("myelin", "ForeignNode", 50), layer("lost", "Conv", None, nodes="conv1"))
    subject = Subject(
        label="", engine="hand", precision="int8", batch_size=1, report=report(*layers, total_us=100), outline=PLAIN
    )
    found = explain(subject)
    assert found.untold == ("1 layers (50% of the time) whose nodes the engine does not tell", "1 layers without a time")
    assert {f.layer: f.why for f in found.stayed_wide}["myelin"] == "the engine does not tell which node it is"


def test_an_engine_that_was_only_inspected_has_shares_of_nothing() -> None:
    """No time, no division by it."""
    subject = Subject(
        label="",
        engine="hand",
        precision="int8",
        batch_size=1,
        report=report(layer("conv2", "Conv", None, nodes="conv2"), total_us=None),
        outline=QUANTIZED,
    )
    found = explain(subject)
    assert found.between.share == 0 and [f.layer for f in found.stayed_wide] == ["conv2"]


def test_widths_of_precisions() -> None:
    """A precision's width is that of its narrowest part; a format that nobody knows has none."""
    wanted = {
        "fp32": 32,
        "tf32": 19,
        "amp-bf16": 16,
        "int8-tensor": 8,
        "fp16+int8": 8,
        "weak-fp16": 16,
        "int64": None,
        "": None,
    }
    assert {p: bits_of(p) for p in wanted} == wanted


def test_counts_name_the_most_frequent() -> None:
    """ "Conv 2, Add 1"; beyond three kinds an ellipsis."""
    assert counted(["Conv", "Add", "Conv"]) == "Conv 2, Add 1"
    assert counted(["a", "b", "c", "d"]) == "a 1, b 1, c 1, …"
