"""What records mean to the search and to people: violations, objective values, the front and the best, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from study_samples import estimate, record, rejected, study

from autotune.records import LatencySummary, LoadFigures, TrialRecord
from autotune.study.scoring import (
    best,
    front,
    is_feasible,
    objective_named,
    objective_values,
    objectives_of,
    points_of,
    violations,
)

ALL = {"accuracy_drop": 0.01, "accuracy": 0.8, "latency_p99_ms": 50.0, "throughput": 200.0, "memory_mib": 100.0}


def numbers(records: list[TrialRecord]) -> list[int]:
    return [r.number for r in records]


@pytest.mark.parametrize("found", [record(0), rejected(1), rejected(2, state="crashed"), record(3, accuracy=None)])
def test_violations_have_the_same_keys_for_every_record(found: TrialRecord) -> None:
    """Optuna refuses a study whose trials have different constraints: the keys follow from the study alone, in one order."""
    spec = study(constraints=ALL)
    assert list(violations(found, spec)) == ["runs", "accuracy_drop", "accuracy", "latency_p99_ms", "throughput", "memory_mib"]
    assert list(violations(found, study())) == ["runs"]


def test_violations_by_hand() -> None:
    """Relative to the limit: drop (0.03 − 0.01)/0.01 = 2, accuracy (0.8 − 0.9)/0.8, p99 (75 − 50)/50, rate (200 − 100)/200,
    memory (90 − 100)/100."""
    found = record(0, p99=75, accuracy_drop=estimate(0.03), peak_memory_mib=90.0)
    assert violations(found, study(constraints=ALL)) == pytest.approx(
        {"runs": -1, "accuracy_drop": 2, "accuracy": -0.125, "latency_p99_ms": 0.5, "throughput": 0.5, "memory_mib": -0.1}
    )


def test_a_limit_of_zero_is_measured_in_thousandths() -> None:
    """accuracy_drop 0: a drop of 0.002 is a violation of 2; a gain is none."""
    spec = study(constraints={"accuracy_drop": 0.0})
    assert violations(record(0, accuracy_drop=estimate(0.002)), spec)["accuracy_drop"] == pytest.approx(2)
    assert violations(record(0, accuracy_drop=estimate(-0.001)), spec)["accuracy_drop"] < 0


def test_what_was_not_measured_is_neither_kept_nor_broken() -> None:
    """A rejected trial breaks "runs" and nothing else."""
    found = violations(rejected(0), study(constraints=ALL))
    assert found.pop("runs") == 1 and set(found.values()) == {0.0}


def test_a_small_sample_is_judged_by_the_highest_percentile_it_has() -> None:
    """With 100 requests there is no p99; p95 at 60 ms already breaks 50 ms, since p99 cannot be lower."""
    found = record(0, latency_ms=LatencySummary(p50=estimate(10), p90=estimate(40), p95=estimate(60)))
    assert violations(found, study(constraints=ALL))["latency_p99_ms"] == pytest.approx(0.2)


def test_feasible_means_a_result_that_keeps_every_limit() -> None:
    """At the limit counts as kept."""
    spec = study(constraints={"accuracy": 0.9, "throughput": 100})
    assert is_feasible(record(0), spec)
    assert not is_feasible(record(1, rate=99.9), spec) and not is_feasible(rejected(2), spec)


# Objective values


def test_measured_values_are_told_as_they_are() -> None:
    """In the study's order and with their own sign; Optuna knows the directions."""
    spec = study(objectives=("latency_p99", "accuracy", "memory"))
    assert objective_values(record(0, p99=12.5, peak_memory_mib=300.0), spec, []) == [12.5, 0.9, 300.0]
    assert [(o.name, o.maximize) for o in objectives_of(spec)] == [
        ("latency_p99", False),
        ("accuracy", True),
        ("memory", False),
    ]


def test_a_rejected_trial_gets_the_worst_that_was_seen() -> None:
    """The lowest accuracy and throughput, and the highest latency, among known trials: finite, so no scale is stretched."""
    spec = study(objectives=("accuracy", "throughput", "latency_p99"))
    known = [record(0, 0.9, 100, p99=10), record(1, 0.7, 300, p99=5), rejected(2)]
    assert objective_values(rejected(3), spec, known) == [0.7, 100, 10]


def test_half_a_result_keeps_its_half() -> None:
    """Accuracy was measured before the load failed: it counts; only throughput is the worst known."""
    found = record(3, accuracy=0.5, rate=None, state="rejected")
    assert objective_values(found, study(), [record(0, 0.9, 100)]) == [0.5, 100]


def test_before_anything_is_known_a_rejected_trial_gets_zeros() -> None:
    """There is no scale yet."""
    assert objective_values(rejected(0), study(), []) == [0.0, 0.0]


def test_cost_is_the_price_of_a_million_items() -> None:
    """3.6 per hour is 0.001 per second; at 100 items/s 10⁻⁵ each, 10 per million. Cheaper is better."""
    spec = study(objectives=("accuracy", "cost"), price_per_hour=3.6)
    cost = objective_named("cost", spec)
    assert cost.read(record(0)) == pytest.approx(10) and not cost.maximize
    assert cost.read(record(0, rate=None)) is None and cost.read(record(0, rate=0.0)) is None


# The front


def test_front_by_hand() -> None:
    """(0.9, 100) and (0.8, 200) trade; (0.8, 150) and (0.9, 90) are dominated; rejected and infeasible ones are not in it."""
    records = [
        record(0, 0.9, 100),
        record(1, 0.8, 150),
        record(2, 0.8, 200),
        record(3, 0.9, 90),
        rejected(4),
        record(5, 0.5, 900),
    ]
    assert numbers(front(records, study(constraints={"accuracy": 0.7}))) == [2, 0]
    assert numbers(front(records, study())) == [5, 2, 0]


def test_front_needs_every_objective_measured() -> None:
    """A trial without a p99 has no place in a front over p99."""
    spec = study(objectives=("accuracy", "latency_p99"))
    assert numbers(front([record(0, p99=9), record(1)], spec)) == [0]
    assert front([record(1)], spec) == [] and front([], spec) == []


def test_smaller_is_better_is_turned() -> None:
    """Points of a minimized objective have their sign turned, and the front keeps the smaller latency."""
    spec = study(objectives=("accuracy", "latency_p99"))
    records = [record(0, 0.9, p99=9), record(1, 0.9, p99=7)]
    assert points_of(records, spec).tolist() == [[0.9, -9], [0.9, -7]]
    assert numbers(front(records, spec)) == [1]


# The best


def best_number(records: list[TrialRecord], prefer: str = "", **sections: Any) -> int | None:
    found = best(records, study(**sections), prefer)
    return None if found is None else found.number


def test_best_is_the_fastest_feasible() -> None:
    """The fastest breaks the constraint; nothing feasible is None."""
    records = [record(0, 0.9, 100), record(1, 0.8, 200), record(2, 0.5, 900)]
    assert best_number(records, constraints={"accuracy": 0.7}) == 1
    assert best_number(records, constraints={"accuracy": 0.95}) is None
    assert best_number([]) is None


def test_of_statistical_ties_the_simplest_wins() -> None:
    """200 ± 4 and 196 ± 3 differ by 4 ≤ √(16 + 9) = 5: a tie, and the one without pruning wins; 194 ± 3 does not tie."""
    pruned = record(0, rate=200, half=4, knobs={"pruning_ratio": 0.3})
    plain = record(1, rate=196, half=3)
    slower = record(2, rate=194, half=3)
    assert best_number([pruned, plain]) == 1
    assert best_number([pruned, slower]) == 0


@pytest.mark.parametrize(
    ("simple", "other"),
    [
        ({"pruning_ratio": 0.0, "streams": 4}, {"pruning_ratio": 0.1, "streams": 1}),
        ({"streams": 1, "batch_size": 64}, {"streams": 2, "batch_size": 1}),
        ({"streams": None, "batch_size": 2}, {"streams": 1, "batch_size": 3}),
        ({"batch_size": 1, "worker_threads": 4}, {"batch_size": 2, "worker_threads": 1}),
        ({"worker_threads": 1}, {"worker_threads": 2}),
    ],
)
def test_simpler_means_less_pruning_then_streams_then_batch_then_threads(simple: dict[str, Any], other: dict[str, Any]) -> None:
    """Between exact ties, in this order; None counts as one."""
    assert best_number([record(0, knobs=other), record(1, knobs=simple)]) == 1


def test_between_equal_settings_memory_then_speed_then_age_decide() -> None:
    """Less memory, then the faster, then the earlier trial."""
    assert best_number([record(0, peak_memory_mib=20.0), record(1, peak_memory_mib=10.0)]) == 1
    assert best_number([record(0, rate=100, half=5), record(1, rate=101, half=5)]) == 1
    assert best_number([record(7), record(3)]) == 3


def test_other_objectives_tie_only_when_equal() -> None:
    """--prefer accuracy: 0.9 twice is a tie and the plain one wins, although it is slower; 0.899 is not."""
    records = [record(0, 0.9, 500, knobs={"pruning_ratio": 0.5}), record(1, 0.9, 100), record(2, 0.899, 900)]
    assert best_number(records, prefer="accuracy") == 1


def test_a_study_without_throughput_prefers_its_last_objective() -> None:
    """accuracy and latency_p99: the lowest latency, although it is the smaller number."""
    spec = {"objectives": ("accuracy", "latency_p99")}
    assert best_number([record(0, p99=9), record(1, 0.5, p99=7)], **spec) == 1


def loaded(within: float | None, rate: float = 100.0, percentile: int | None = 99) -> TrialRecord:
    """A trial of an open loop in which so large a share of requests kept to the SLO."""
    share = None if within is None else estimate(within)
    return record(0, rate=rate, load=LoadFigures(scenario="server", slo_ms=50.0, slo_percentile=percentile, within_slo=share))


def test_an_slo_at_a_given_rate_is_a_constraint() -> None:
    """p99 is wanted and 0.495 of the requests kept to it: violated by half. 0.995 are enough."""
    spec = study(load={"server": {"qps": 100, "slo_ms": 50}})
    assert violations(loaded(0.495), spec)["slo"] == pytest.approx(0.5)
    assert violations(loaded(0.995), spec)["slo"] <= 0 and is_feasible(loaded(0.995), spec)
    assert violations(record(0), spec)["slo"] == 0.0 and "slo" not in violations(record(0), study())


def test_where_the_rate_is_searched_for_only_no_rate_at_all_breaks_the_slo() -> None:
    """At the knee the share lies around its percentile, on either side; a throughput of 0 means that no rate keeps the SLO."""
    spec = study(load={"server": {"slo_ms": 50}})
    assert violations(loaded(0.9899), spec)["slo"] < 0 and is_feasible(loaded(0.9899), spec)
    assert violations(loaded(0.0, rate=0.0), spec)["slo"] > 0


def test_the_tail_of_every_scenario_is_held_to_the_latency_limit() -> None:
    """latency_p99_ms reads the trial's own p99, whatever load it ran under."""
    spec = study(load={"server": {"qps": 100}}, constraints={"latency_p99_ms": 50})
    assert violations(record(0, p99=75), spec)["latency_p99_ms"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("figures", "means"),
    [
        (LoadFigures(scenario="offline"), "items/s of the closed loop (offline)"),
        (LoadFigures(scenario="server"), "items/s served of those that arrive"),
        (
            LoadFigures(scenario="server", slo_ms=50, slo_percentile=99, peak_items_per_s=estimate(9)),
            "the highest arrival rate at which p99 ≤ 50 ms",
        ),
        (
            LoadFigures(scenario="trace", slo_ms=50, slo_percentile=90, offered_items_per_s=200.0),
            "items/s within 50 ms, of 200 that arrive; wanted: p90 ≤ 50 ms",
        ),
    ],
)
def test_throughput_says_what_it_means(figures: LoadFigures, means: str) -> None:
    """One word for four things would mislead; tables and drawings print these."""
    assert figures.throughput_means == means
