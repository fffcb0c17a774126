"""What is reported of a trial, worked out by hand from a few processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from study_samples import estimate, record

from autotune.bench.statistics import t_quantile
from autotune.records import Regime, Repetition, TrialRecord
from autotune.study.reporting import as_reported, own_estimate, processes

NOON = "2026-01-01T12:00:00+00:00"


def again(role: Any, round_: int, rate: float | None, regime: int = 1) -> Repetition:
    """A repetition; without a rate it failed."""
    state: Any = "crashed" if rate is None else "complete"
    measured = None if rate is None else estimate(rate)
    return Repetition(
        role=role, round=round_, regime=regime, state=state, throughput_items_per_s=measured, started_at=NOON,
        finished_at=f"2026-01-01T12:00:{round_:02}+00:00",
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
    assert own_estimate(found) == estimate(250.0)


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
    assert sorted((p.regime, p.rate) for p in found) == [(1, 100.0), (1, 101.0)]
    late = record(0, rate=90.0, role="reference", started_at="2026-01-01T13:00:00+00:00")
    assert [p.regime for p in processes(late, [NOON])] == [2]


def test_references_share_one_row_of_processes() -> None:
    """After the cache was deleted the reference was measured anew: both rows report the mean over all of them."""
    first = reference(101.0, 99.0)
    second = record(1, rate=104.0, role="reference", started_at=NOON)
    both = as_reported([first, second], [])
    values = [r.throughput_items_per_s.value for r in both if r.throughput_items_per_s]
    assert values[0] == values[1] == pytest.approx((100 * 101 * 99 * 104) ** 0.25)
