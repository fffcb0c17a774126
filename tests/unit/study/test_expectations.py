"""What a study expects before it has measured: by hand, and for whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from study_samples import SPLIT, study

from autotune.space.sampling import PAIR
from autotune.study.expectations import EFFECTS, accuracy_loss, amounts, expectations_of, throughput_factor
from autotune.study.plan import StudyPlan, make_plan

E = 2.718281828459045


def params(pair: str = "onnxruntime/fp32", **changes: Any) -> dict[str, Any]:
    return {PAIR: pair, "pruning_ratio": 0.0, "batch_size": 1, "streams": 1, "worker_threads": 1} | changes


def plan(**changes: Any) -> StudyPlan:
    return make_plan(study(**changes))


@pytest.mark.parametrize(
    ("changes", "logarithm"),
    [
        ({}, 0.0),
        ({"pair": "openvino/int8"}, 0.8),
        ({"pair": "onnxruntime/int8-tensor"}, 0.6),
        ({"pair": "openvino/bf16"}, 0.2),
        ({"batch_size": 8}, 0.3),
        ({"pruning_ratio": 0.5}, 0.5545177444479562),
        ({"streams": 2}, 0.5),
        ({"pair": "openvino/fp32", "streams": 64}, 0.5),
        ({"worker_threads": 4}, 0.8),
        ({"streams": 8, "worker_threads": 4}, 0.8081136762725405),  # 11 threads at work on 4 cores
        ({"pair": "openvino/fp32", "streams": 4}, 0.4),
        ({"pair": "openvino/fp32", "worker_threads": 2}, 0.6),
        ({"pair": "torch/fp32", "streams": 2, "worker_threads": 2}, 0.5),
        ({"pair": "onnxruntime/fp32", "streams": 2, "worker_threads": 3}, 0.9),
    ],
)
def test_a_knobs_share_of_throughput(changes: dict[str, Any], logarithm: float) -> None:
    """On four cores. OpenVINO and torch divide their threads among streams; each stream of ONNX Runtime brings its own."""
    pair = changes.pop("pair", "onnxruntime/fp32")
    assert throughput_factor(params(pair, **changes), 4) == pytest.approx(E**logarithm)


def test_knobs_that_are_searched_by_their_exponents_and_knobs_that_are_missing() -> None:
    """Batch 16 is "log2 batch_size" 4; without threads of its own an engine takes all cores, and here one more."""
    exponents = {PAIR: "onnxruntime/fp32", "log2 batch_size": 4, "log2 streams": 1}
    assert throughput_factor(exponents, 4) == pytest.approx(E**1.235614381022527)


def test_every_effect_is_counted() -> None:
    """By hand: 8 threads on 4 cores, three doublings of streams and one of the batch, half of the channels gone."""
    crowd = params("openvino/int8-tensor", batch_size=2, streams=8, worker_threads=8, pruning_ratio=0.5)
    assert amounts(crowd, 4) == pytest.approx(
        {
            "openvino": 1, "int8": 1, "doubled_batch": 1, "doubled_streams": 3, "doubled_cores": 2, "crowded": 1,
            "pruned": 0.6931471805599453,
        }
    )  # fmt: skip
    assert set(amounts(params(), 4)) == set(EFFECTS)


def test_what_a_variant_loses() -> None:
    """A ratio by its square, a precision by its name; what is not known loses nothing."""
    assert accuracy_loss(params(pruning_ratio=0.5)) == pytest.approx(0.005)
    assert accuracy_loss(params("openvino/int8-tensor")) == pytest.approx(0.002)
    assert accuracy_loss(params("openvino/bf16")) == 0.0


def test_each_response_has_its_own_expectation() -> None:
    """By objective's number, whatever their order; the constraint as its relative violation; memory is open."""
    found = expectations_of(plan(objectives=["memory", "throughput", "accuracy"], constraints={"accuracy_drop": 0.01}))
    assert set(found) == {1, 2, "accuracy_drop"}
    pruned = params(pruning_ratio=0.5)
    assert found[2](pruned) == pytest.approx(-0.005)
    assert found["accuracy_drop"](pruned) == pytest.approx(-0.5)


def test_what_makes_a_device_faster_makes_an_item_cheaper() -> None:
    """int8 is expected to cost e^−0.6 of fp32; under given arrivals nothing is."""
    found = expectations_of(plan(objectives=["accuracy", "cost"], price_per_hour=3.0))
    assert found[1](params("openvino/int8")) / found[1](params("openvino/fp32")) == pytest.approx(E**-0.6)
    given = {"scenario": "server", "server": {"qps": 10.0, "slo_ms": 50}}
    assert set(expectations_of(plan(objectives=["accuracy", "cost"], price_per_hour=3.0, load=given))) == {0}


def test_pruning_without_recovery_and_other_metrics_are_open() -> None:
    """Constants in shares of right answers mean nothing for an error, and those of recovery nothing without it."""
    limit = {"accuracy_drop": 0.01}
    bare = expectations_of(plan(constraints=limit, recovery={"epochs": 0}))
    assert bare[0](params(pruning_ratio=0.5)) == 0.0 and bare["accuracy_drop"](params(pruning_ratio=0.5)) == -1.0
    data = {"validation": SPLIT, "metric": "mse"}
    assert set(expectations_of(plan(constraints=limit, data=data))) == {1}


def test_arrivals_bound_throughput() -> None:
    """Where requests come at a given rate, no knob makes more of them; where the rate is searched for, it does."""
    given, searched = ({"scenario": "server", "server": {"qps": qps, "slo_ms": 50}} for qps in (10.0, "auto"))
    assert set(expectations_of(plan(load=given))) == {0} and set(expectations_of(plan(load=searched))) == {0, 1}


def test_nothing_is_expected_of_a_gpus_throughput() -> None:
    """Nothing of it was measured on one."""
    made = plan(constraints={"accuracy_drop": 0.01})
    on_gpu = replace(made, fingerprint=replace(made.fingerprint, kind="cuda"))
    assert set(expectations_of(made)) == {0, 1, "accuracy_drop"} and set(expectations_of(on_gpu)) == {0, "accuracy_drop"}
