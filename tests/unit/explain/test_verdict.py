"""The verdict: sentences whose numbers are all in the layers written by hand (hand_made.py)."""

from __future__ import annotations

import json
from dataclasses import replace

from hand_made import PLAIN, estimate, fp32, in_tensorrt, int8, layer, report

from autotune.explain.comparison import compare
from autotune.explain.document import comparison_document, subject_document
from autotune.explain.explanation import explain
from autotune.explain.subject import Subject
from autotune.explain.verdict import comparison_verdict, verdict


def compared(ours: Subject, theirs: Subject) -> str:
    return "\n".join(comparison_verdict(ours, theirs, explain(ours), explain(theirs), compare(ours, theirs)))


def test_one_trial() -> None:
    """50 % = 200 of 400 µs stayed fp32, 15 % = 60 µs is conv1, 20 % = 80 µs reformat, 12 % = 50 µs quantize, 2 % between."""
    begin, parts, unfused = verdict(int8(estimate(380, 4)), explain(int8()))
    assert begin == "int8 takes 400 µs per batch of 2 under the profiler (380 µs without the profiler)."
    assert parts == (
        "Of this, 50 % is 2 computing layers that stayed fp32 (Conv 1×1 1, Gelu 1; why: its inputs are quantized in the graph, "
        "its result is not 1, no Q/DQ around it in the graph 1), 15 % is 1 computing layer in int8, 20 % is 2 reformat layers, "
        "12 % is 2 quantize layers, 2 % lies between layers."
    )
    assert unfused == "Not fused with their neighbours are 2 layers (Gelu 1, DequantizeLinear 1), 18 % of the time."


def test_why_int8_is_slower() -> None:
    """The ratio of the plain times, then what each consists of, then which work makes the difference."""
    text = compared(int8(estimate(360, 3.6), estimate(5000, 50)), fp32(estimate(200, 2), estimate(9000, 90)))
    assert text.startswith(
        "int8 is 1.80 [1.77, 1.83] × slower per batch than fp32 (360 µs against 200 µs, without the profiler"
    )
    assert "Of int8's time, 50 % is 2 computing layers that stayed fp32" in text
    assert "Of fp32's time, 95 % is 2 computing layers in fp32, 5 % lies between layers." in text
    assert "int8 loses most in Conv 1×1 +65.0 µs (1 node, 2.86 × as long)" in text
    assert "reformat layers +40.0 µs (only here)" in text
    assert "int8 gains most in Conv 3×3 -30.0 µs (1 node, fp32 → int8, 0.50 × as long)." in text
    assert "1 layer of its own is fused into a convolution or product in fp32; here they take 10 %." in text
    assert "5000.0 ±50.0 against 9000.0 ±90.0 items/s" in text and "other way round" not in text


def test_the_faster_one_asked_for() -> None:
    """The inverse of the ratio, with its interval the right way round."""
    assert compared(fp32(estimate(200, 2)), int8(estimate(360, 3.6))).startswith("fp32 is 1.80 [1.77, 1.83] × faster per batch")


def test_noise_is_not_called_a_difference() -> None:
    """210 ±40 against 200 ±40 µs: nothing is faster, and what differs by layer may be noise too."""
    text = compared(int8(estimate(210, 40)), fp32(estimate(200, 40)))
    assert text.startswith("int8 and fp32 cannot be told apart per batch: × 1.05 [")
    assert "which may be noise where the whole cannot be told apart" in text


def test_a_study_that_measured_the_opposite_is_not_hidden() -> None:
    """One execution at a time is not the load of a study: the contradiction is said."""
    text = compared(int8(estimate(360, 3), estimate(9000, 9)), fp32(estimate(200, 2), estimate(5000, 5)))
    assert "× 1.80, the other way round" in text


def test_a_study_whose_intervals_overlap_measured_no_difference() -> None:
    """5500 ±3400 against 5000 ±500 items/s is 1.10 ×, within what the two intervals allow."""
    text = compared(int8(estimate(360, 3), estimate(5500, 3400)), fp32(estimate(200, 2), estimate(5000, 500)))
    assert "× 1.10, no difference beyond their intervals." in text and "other way round" not in text


def test_other_batches_are_compared_per_item() -> None:
    """360 µs for 2 against 400 µs for 4: 180 against 100 per item."""
    text = compared(int8(estimate(360, 3.6)), fp32(estimate(400, 4), batch_size=4))
    assert text.startswith("int8 is 1.80 [1.77, 1.83] × slower per item than fp32 (180 µs against 100 µs")


def test_an_inspected_engine_gets_no_numbers() -> None:
    """Never run, no time: the sentence says so."""
    subject = Subject(
        label="plan",
        engine="hand",
        precision="fp32",
        batch_size=1,
        report=report(layer("conv1", "Conv", None, nodes="conv1"), total_us=None),
        outline=PLAIN,
    )
    assert verdict(subject, explain(subject))[0] == "plan was inspected and not run, so nothing can be said of its time."
    ours, theirs = replace(subject, label="a"), replace(subject, label="b")
    assert compared(ours, theirs).startswith("How fast a is against b was not measured.")


def test_what_fell_to_the_cpu_is_named() -> None:
    """75 % = 150 and 15 % = 30 of 200 µs; beside another trial the sentence says whose it is."""
    told = (
        "Inside the engine: TensorRT has 2 nodes in 1 layer, 75 % of the time; CUDA has 1 node in 1 layer, whose time is not "
        "known; CPU has 1 node in 1 layer, 15 % of the time. On the CPU: gelu."
    )
    assert told in verdict(in_tensorrt(), explain(in_tensorrt()))
    assert f"trt: {told}" in compared(in_tensorrt(), fp32())
    document = subject_document(in_tensorrt(), explain(in_tensorrt()))
    assert [p["provider"] for p in document["by_provider"]] == ["TensorRT", "CUDA", "CPU"]


def test_documents_are_json() -> None:
    """An interval that is not known is null, and no infinity reaches the document."""
    document = comparison_document(compare(int8(), fp32())) | subject_document(int8(), explain(int8()))
    written = json.loads(json.dumps(document, allow_nan=False))
    assert written["ratio"]["low"] is None and written["profiled_us"] == 400
    assert written["matched"][0]["lost_us_per_item"] == 65
