"""Guessing how fast older trials would be now, after a machine changed."""

from __future__ import annotations

import pytest
from study_samples import estimate, record
from test_reporting import NOON, again

from autotune.records import Regime
from autotune.study.present_speed import at_present_speed, change

EARLY, LATE = "2026-01-01T11:00:00+00:00", "2026-01-01T13:00:00+00:00"
SLOWER = [Regime(number=2, since=NOON, steady_until="2026-01-01T11:30:00+00:00", ratio=0.4, reason="")]


def test_the_median_of_what_ran_under_both_counts() -> None:
    """The reference fell to 0.4, two trials to 0.9 and 0.95: 0.9. Without them it is the reference's own ratio."""
    reference = record(0, role="reference", rate=100, started_at=EARLY, repetitions=(again("canary", 1, 40.0, 2),))
    hit = record(1, rate=200, started_at=EARLY, repetitions=(again("final", 1, 180.0, 2),))
    spared = record(2, rate=300, started_at=EARLY, repetitions=(again("final", 1, 285.0, 2),))
    assert change([reference, hit, spared], 1, SLOWER) == pytest.approx(0.9)
    assert change([reference], 1, SLOWER) == pytest.approx(0.4) == change([], 1, SLOWER)
    assert change([reference, hit, spared], 2, SLOWER) == 1


def test_several_changes_multiply_where_nothing_ran_under_both() -> None:
    """To 40 % and then to half of that: 20 % of the first regime, half of the second."""
    regimes = [*SLOWER, Regime(number=3, since=LATE, steady_until=LATE, ratio=0.5, reason="")]
    assert (change([], 1, regimes), change([], 2, regimes)) == (pytest.approx(0.2), 0.5)


def test_only_older_trials_are_scaled() -> None:
    """100 ± 10 before are 40 ± 4 now; what ran since stays, and so does what was not measured."""
    old = at_present_speed(record(1, rate=100, half=10, started_at=EARLY), [], SLOWER)
    assert old.throughput_items_per_s == estimate(40.0, 4.0)
    new, bare = record(2, rate=100, started_at=LATE, regime=2), record(3, rate=None)
    assert at_present_speed(new, [], SLOWER) == new and at_present_speed(bare, [], SLOWER) == bare


def test_what_ran_in_between_gets_the_better_of_both() -> None:
    """Begun after the last process of before and before the first of now: it may have run at either speed."""
    in_between = record(1, rate=100, started_at="2026-01-01T11:45:00+00:00")
    assert at_present_speed(in_between, [], SLOWER) == in_between
    faster = [Regime(number=2, since=NOON, steady_until=EARLY, ratio=2.0, reason="")]
    scaled = at_present_speed(in_between, [], faster).throughput_items_per_s
    assert scaled is not None and scaled.value == 200


def test_latency_goes_the_other_way() -> None:
    """At 40 % of the speed a p99 of 10 ms is guessed as 25; where a trial showed 12 for 10 under both regimes, as 12."""
    old = record(1, rate=100, p99=10.0, started_at=EARLY)
    guessed = at_present_speed(old, [], SLOWER)
    assert guessed.latency_ms.p99 is not None and guessed.latency_ms.p99.value == pytest.approx(25)
    shown = record(2, rate=200, p99=10.0, started_at=EARLY, repetitions=(again("final", 1, 180.0, 2, p99=12.0),))
    learnt = at_present_speed(old, [shown], SLOWER)
    assert learnt.latency_ms.p99 is not None and learnt.latency_ms.p99.value == pytest.approx(12)
    assert learnt.throughput_items_per_s is not None and learnt.throughput_items_per_s.value == pytest.approx(90)
