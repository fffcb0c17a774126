"""A candidate is given up only where it cannot change the front."""

from __future__ import annotations

import math
from pathlib import Path

from study_samples import candidate, estimate, record, study

from autotune.study.giving_up import rivals
from autotune.trial.request import Rival, TrialRequest


def request(*found: Rival) -> TrialRequest:
    return TrialRequest(
        spec=study(), number=1, role="search", candidate=candidate(), cache_root=Path(), log_path=Path(), rivals=found
    )


def test_rivals_are_the_front_at_its_lowest() -> None:
    """Dominated and infeasible trials are none; 10 % is taken off while the spread between processes is not known."""
    records = [record(0, 0.9, 100, half=4), record(1, 0.8, 200, half=5), record(2, 0.8, 150), record(3, 0.5, 900)]
    spec = study(constraints={"accuracy": 0.7})
    assert [(r.accuracy, round(r.items_per_s, 6)) for r in rivals(records, spec, 1)] == [(0.8, 175.5), (0.9, 86.4)]
    learnt = [record(0, 0.9, 100, half=4, throughput_one_run=estimate(100))]
    assert rivals(learnt, spec, 1) == (Rival(accuracy=0.9, items_per_s=96),)


def test_another_objective_could_still_be_won() -> None:
    """With latency, memory or energy among the objectives nothing is given up; cost follows throughput."""
    found = [record(0, p99=3, peak_memory_mib=4.0)]
    for objectives in (("accuracy", "throughput", "memory"), ("accuracy", "latency_p99"), ("accuracy",)):
        assert rivals(found, study(objectives=objectives), 1) == ()
    assert len(rivals(found, study(objectives=("throughput", "cost"), price_per_hour=1.0), 1)) == 1


def test_speeds_of_another_regime_are_no_measure() -> None:
    """The machine changed since: nothing is given up for a speed that it may not have any more."""
    assert rivals([record(0)], study(), 2) == ()
    assert len(rivals([record(0, regime=2)], study(), 2)) == 1


def test_only_a_rival_that_is_no_less_accurate_counts() -> None:
    """At 88 % the fastest of those with at least 88 % is the measure; above all of them nothing is given up."""
    asked = request(
        Rival(accuracy=0.8, items_per_s=500), Rival(accuracy=0.88, items_per_s=300), Rival(accuracy=0.9, items_per_s=100)
    )
    assert [asked.give_up_below(a) for a in (0.7, 0.88, 0.89, 0.95)] == [500, 300, 100, 0]
    assert request().give_up_below(-math.inf) == 0
