"""What is reported of a trial, worked out by hand from a few processes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from study_samples import estimate, record

from autotune.bench.statistics import t_quantile
from autotune.records import LatencySummary, Regime, Repetition, TrialRecord, own_load
from autotune.study.reporting import as_reported, processes

NOON = "2026-01-01T12:00:00+00:00"


def again(role: Any, round_: int, rate: float | None, regime: int = 1, p99: float | None = None) -> Repetition:
    """A repetition; without a rate it failed."""
    state: Any = "crashed" if rate is None else "complete"
    measured = None if rate is None else estimate(rate)
    latency = LatencySummary(p99=None if p99 is None else estimate(p99))
    return Repetition(
        role=role, round=round_, regime=regime, state=state, throughput_items_per_s=measured, latency_ms=latency,
        started_at=NOON, finished_at=f"2026-01-01T12:00:{round_:02}+00:00",
    )  # fmt: skip


def reference(*rates: float) -> TrialRecord:
    """The reference at 100 and canaries at these rates."""
    canaries = tuple(again("canary", n + 1, rate) for n, rate in enumerate(rates))
    return record(0, rate=100.0, role="reference", started_at="2026-01-01T11:00:00+00:00", repetitions=canaries)


def test_a_trial_that_ran_once_gets_the_references_spread() -> None:
    """log rates 0, +x, −x around 100: sd x with 2 degrees of freedom, so ± √2 · t(2) · x, the value as it was."""
    x = 0.01
    base, once = as_reported([reference(100 * math.exp(x), 100 * math.exp(-x)), record(1, rate=200.0)], [])
    assert once.throughput_items_per_s is not None and base.throughput_items_per_s is not None
    assert once.throughput_items_per_s.value == 200
    assert math.log(once.throughput_items_per_s.high / 200) == pytest.approx(math.sqrt(2) * t_quantile(2) * x)
    assert once.throughput_one_run == estimate(200.0)
    assert base.throughput_items_per_s.value == pytest.approx(100) and base.throughput_items_per_s.n == 3
    assert math.log(base.throughput_items_per_s.high / 100) == pytest.approx(t_quantile(2) * x * math.sqrt(1 + 1 / 3))


def test_a_percentile_has_a_spread_of_its_own() -> None:
    """p99 10 · (1, e^x, e^−x) where the throughputs differ by much less: ± √2 · t(2) · x for a trial that ran once."""
    x = 0.1
    canaries = tuple(again("canary", n, rate, p99=10 * math.exp(d)) for n, (rate, d) in enumerate([(100.1, x), (99.9, -x)], 1))
    base = record(0, rate=100.0, p99=10.0, role="reference", started_at="2026-01-01T11:00:00+00:00", repetitions=canaries)
    base, once = as_reported([base, record(1, rate=200.0, p99=5.0)], [])
    found = once.latency_ms.p99
    assert found is not None and found.value == 5 and once.latency_one_run_ms.p99 == estimate(5.0)
    assert math.log(found.high / 5) == pytest.approx(math.sqrt(2) * t_quantile(2) * x) == -math.log(found.low / 5)
    assert once.throughput_items_per_s is not None and once.throughput_items_per_s.half_width < 2
    assert base.latency_ms.p99 is not None and base.latency_ms.p99.value == pytest.approx(10) and base.latency_ms.p99.n == 3
    assert once.latency_ms.p50 is None and once.latency_one_run_ms.p50 is None


def test_a_finalists_percentile_is_the_mean_of_its_rounds() -> None:
    """The search saw a p99 of 4 ms by luck; three rounds saw 5 times 1, e^x and e^−x. A round too short for a p99 has none."""
    x = 0.05
    reps = (*(again("final", n, 200, p99=5 * math.exp(d)) for n, d in enumerate((0, x, -x))), again("final", 9, 200))
    _, found = as_reported([reference(101.0, 99.0), record(1, rate=200.0, p99=4.0, repetitions=reps)], [])
    p99 = found.latency_ms.p99
    assert p99 is not None and p99.value == pytest.approx(5) and p99.n == 3 and own_load(found, "latency_p99") == estimate(4.0)
    assert found.throughput_items_per_s is not None and found.throughput_items_per_s.n == 4
    assert math.log(p99.high / 5) == pytest.approx(t_quantile(2) * x * math.sqrt(1 + 1 / 3))


def test_noise_inside_the_processes_is_not_counted_twice() -> None:
    """The reference's three processes scatter by x as their own intervals say: a trial of the same noise is off by √2 of it."""
    x, half = 0.02, 4.0  # ± 4 % is a standard error of 2 %
    rates = (100 * math.exp(x), 100 * math.exp(-x))
    canaries = tuple(replace(again("canary", n, r), throughput_items_per_s=estimate(r, half)) for n, r in enumerate(rates, 1))
    base = replace(record(0, rate=100.0, half=half, role="reference", repetitions=canaries), started_at=NOON)
    _, once = as_reported([base, record(1, rate=100.0, half=half)], [])
    assert once.throughput_items_per_s is not None
    wanted = math.hypot(t_quantile(2) * x, half / 100)
    assert math.log(once.throughput_items_per_s.high / 100) == pytest.approx(wanted, rel=1e-3)


def test_two_processes_are_no_spread() -> None:
    """With one canary nothing is reported but what each load gave."""
    records = [reference(101.0), record(1, rate=200.0)]
    assert as_reported(records, []) == records and as_reported([], []) == []


def test_a_finalist_is_the_mean_of_its_rounds_without_the_load_that_chose_it() -> None:
    """The search saw 250; three rounds saw 200 times 1, e^x and e^−x: 200 it is. A failed repetition says nothing of speed."""
    x = 0.02
    reps = (*(again("final", n, 200 * math.exp(d)) for n, d in enumerate((0, x, -x))), again("final", 9, None))
    _, found = as_reported([reference(101.0, 99.0), record(1, rate=250.0, repetitions=reps)], [])
    assert found.throughput_items_per_s is not None
    assert found.throughput_items_per_s.value == pytest.approx(200) and found.throughput_items_per_s.n == 3
    assert own_load(found, "throughput_items_per_s") == estimate(250.0)


def test_only_the_newest_regime_counts() -> None:
    """Two rounds at 200 before the machine slowed, two at 150 since: 150, of regime 2."""
    reps = tuple(again("final", n, rate, regime) for n, (rate, regime) in enumerate([(200, 1), (202, 1), (150, 2), (151, 2)]))
    _, found = as_reported([reference(101.0, 99.0), record(1, rate=201.0, repetitions=reps)], [])
    assert found.throughput_items_per_s is not None and found.regime == 2
    assert found.throughput_items_per_s.value == pytest.approx(math.sqrt(150 * 151))


def test_the_references_own_load_is_of_the_regime_in_which_it_began() -> None:
    """It ran at 11 o'clock, the machine changed at noon; its canaries say themselves when they ran."""
    regimes = [Regime(number=2, since=NOON, steady_until=NOON, ratio=0.8, reason="")]
    found = processes(reference(101.0), [r.since for r in regimes])
    assert sorted((p.regime, p.value) for p in found) == [(1, 100.0), (1, 101.0)]
    late = record(0, rate=90.0, role="reference", started_at="2026-01-01T13:00:00+00:00")
    assert [p.regime for p in processes(late, [NOON])] == [2]


def test_references_share_one_row_of_processes() -> None:
    """After the cache was deleted the reference was measured anew: both rows report the mean over all of them."""
    first = reference(101.0, 99.0)
    second = record(1, rate=104.0, role="reference", started_at=NOON)
    both = as_reported([first, second], [])
    values = [r.throughput_items_per_s.value for r in both if r.throughput_items_per_s]
    assert values[0] == values[1] == pytest.approx((100 * 101 * 99 * 104) ** 0.25)
