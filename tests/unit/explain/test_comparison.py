"""compare: the same nodes in two trials, on layers written by hand (hand_made.py)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hand_made import estimate, fp32, int8

from autotune.explain.comparison import compare


def test_the_same_nodes_are_matched_whatever_they_are_fused_with() -> None:
    """By hand, µs per item at batch 2: conv1 with ReLU 30 against 60; conv2 and GELU 80 + 20 against 35 together."""
    found = {
        m.name: (m.ours.us_per_item, m.theirs.us_per_item, m.lost_us, m.ours.n_layers) for m in compare(int8(), fp32()).matched
    }
    assert found == {
        "conv2": (100, 35, 65, 2),
        "reformat layers": (40, 0, 40, 2),
        "quantize layers": (25, 0, 25, 2),
        "between layers": (5, 5, 0, 0),
        "conv1": (30, 60, -30, 1),
    }


def test_gains_and_losses_add_up_to_the_difference() -> None:
    """400 against 200 µs per batch of 2 is 100 µs per item, and every part of it is in some row."""
    found = compare(int8(), fp32())
    assert sum(m.lost_us for m in found.matched) == pytest.approx(100)
    assert sum(m.lost_us for m in found.families) == pytest.approx(100)


def test_batches_may_differ() -> None:
    """The same layer times at batch 4 are half the time per item: conv1 30 against 30."""
    found = {m.name: m for m in compare(int8(), fp32(batch_size=4)).matched}
    assert found["conv1"].lost_us == 0


def test_both_directions_mirror_each_other() -> None:
    """What one loses the other gains."""
    here = {m.name: m.lost_us for m in compare(int8(), fp32()).matched}
    there = {m.name: m.lost_us for m in compare(fp32(), int8()).matched}
    assert here == {name: pytest.approx(-lost) for name, lost in there.items()}


def test_q_and_dq_do_not_tie_neighbours_together() -> None:
    """conv1's layer holds a/q, and were a/dq in conv2's, the two would still be two rows."""
    subject = int8()
    layers = tuple(
        replace(x, nodes=("a/q", "a/dq", *x.nodes)) if x.name == "conv2" else x
        for x in subject.report.layers
        if x.name != "a/dq"
    )
    tied = replace(subject, report=replace(subject.report, layers=layers))
    assert {"conv1", "conv2"} <= {m.name for m in compare(tied, fp32()).matched}


def test_the_ratio_has_the_interval_of_two_independent_means() -> None:
    """300 ±3 against 150 ±2 µs: relative errors of 1 % and 4/3 % make 5/3 % together."""
    ratio = compare(int8(estimate(300, 3)), fp32(estimate(150, 2))).ratio
    assert ratio is not None and ratio.value == 2
    assert ratio.high == pytest.approx(2 * math.exp(math.hypot(0.01, 2 / 150)))
    assert ratio.low == pytest.approx(2 * math.exp(-math.hypot(0.01, 2 / 150)))


def test_without_plain_times_the_ratio_has_no_interval() -> None:
    """Profiled totals are 400 and 200 µs; how certain that is was not measured."""
    found = compare(int8(), fp32())
    assert found.ratio is not None and (found.ratio.value, found.ratio.low, found.ratio.high) == (2, 0, math.inf)
    assert found.ratio_source == "under the profiler"


def test_what_the_other_fuses_is_named() -> None:
    """The GELU is a layer here, and inside conv2's layer there; the other way round nothing is."""
    assert compare(int8(), fp32()).fused_there == (("gelu", "not fused into conv2 (Conv 1×1)"),)
    assert compare(fp32(), int8()).fused_there == ()


def test_nodes_of_one_graph_only_are_counted() -> None:
    """Q and DQ are no work of the model and do not count; a ReLU that went into a range does."""
    assert compare(int8(), fp32()).unmatched_nodes == 0
    without = replace(int8(), outline=tuple(n for n in int8().outline if n.name != "relu"))
    assert compare(without, fp32()).unmatched_nodes == 1
