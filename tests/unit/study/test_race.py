"""How benchmarks/race.py judges: by turns, in which the machine is the same for all, never by a contender's own loads."""

from __future__ import annotations

import pytest
from race_parts.worth import Tried, arrival, fastest_of, incumbents, share_of, times_as_long, worth_measuring

from autotune.candidate import Candidate


def of(batch: int) -> Candidate:
    return Candidate(
        engine="openvino",
        precision="int8",
        pruning_ratio=0.0,
        batch_size=batch,
        streams=2,
        worker_threads=2,
        memory_pool_mib=None,
    )


def tried(s: float, batch: int, rate: float, *, feasible: bool = True) -> Tried:
    return Tried(s=s, items_per_s=rate, feasible=feasible, candidate=of(batch))


TURNS = [
    {of(1): 40 * speed, of(8): 80 * speed, of(16): 98 * speed, of(32): 100 * speed} for speed in (1.0, 1.3, 0.7, 1.1, 0.9, 1.2)
]
"""A machine whose speed changes by half between turns; what the four are worth does not."""


def test_held_for_the_best_is_the_fastest_feasible_trial_so_far() -> None:
    trials = [tried(20, 8, 90), tried(5, 1, 50), tried(30, 32, 200, feasible=False), tried(40, 1, 80), tried(50, 16, 91)]
    assert [t.s for t in incumbents(trials)] == [5, 20, 50]


def test_a_lucky_load_is_no_arrival() -> None:
    """Batch 8 is worth 0.8 of the best, though its load, in a fast moment, gave more than the best ever did in the turns."""
    trials = [tried(5, 1, 45), tried(10, 8, 140), tried(20, 16, 141)]
    arrived = arrival(trials, of(32), TURNS)
    assert arrived is not None and arrived.s == 20 and arrived.candidate == of(16)


def test_who_passed_over_a_good_one_has_not_arrived() -> None:
    """A contender that had been lucky would not have named the better one, whose load came in a slow moment."""
    trials = [tried(10, 8, 140), tried(20, 16, 90)]
    assert arrival(trials, of(32), TURNS) is None
    assert arrival(trials, of(32), TURNS, share=0.8) == trials[0]


def test_nobody_arrives_with_what_was_infeasible_or_not_measured() -> None:
    assert arrival([tried(10, 32, 140, feasible=False)], of(32), TURNS) is None
    assert arrival([tried(10, 4, 140)], of(32), TURNS) is None


def test_the_hopeless_are_not_measured() -> None:
    study, script = [tried(5, 1, 40), tried(9, 8, 80)], [tried(7, 1, 44), tried(8, 16, 98), tried(12, 32, 97)]
    assert worth_measuring([study, script]) == {of(1), of(8), of(16)}
    assert worth_measuring([[tried(5, 1, 40), tried(9, 16, 98)], []]) == {of(16)}


def test_the_fastest_is_the_one_that_is_ahead_within_turns() -> None:
    """By their highest or mean loads alone a machine's fast turns would decide: here batch 16's one lucky turn."""
    lucky = [*TURNS[:-1], {**TURNS[-1], of(16): 250.0}]
    assert fastest_of([of(8), of(16), of(32)], lucky) == of(32)


def test_a_share_is_a_median_with_its_interval_where_the_turns_suffice() -> None:
    assert share_of(of(8), of(32), TURNS) == pytest.approx({"median": 0.8, "min": 0.8, "max": 0.8, "low": 0.8, "high": 0.8})
    assert share_of(of(8), of(32), TURNS[:5]) == pytest.approx({"median": 0.8, "min": 0.8, "max": 0.8})


def test_a_ratio_is_a_lower_bound() -> None:
    study, script = tried(40, 16, 98), tried(100, 32, 97)
    assert times_as_long(study, script, 300) == 2.5
    assert times_as_long(study, None, 300) == 7.5
    assert times_as_long(None, script, 300) == times_as_long(None, None, 300) == 0


def test_a_trial_survives_the_result_file() -> None:
    assert Tried.from_json(tried(1.5, 4, 20.0).as_json()) == tried(1.5, 4, 20.0)
