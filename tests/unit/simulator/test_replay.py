"""A search replayed: the virtual clock by hand, the same numbers again, and what counts as found."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from assets.recorded_sweep import (
    ACCURACY_S,
    ENGINE_S,
    LOAD_S,
    OPEN_S,
    OTHER_S,
    PROBE_S,
    REFERENCE_S,
    VARIANT_S,
    candidate,
    rate,
    table,
)

from autotune.errors import SpecError
from autotune.simulator.comparison import compare, curves, time_to
from autotune.simulator.replay import Contestant, Limits, Replay, Setting, constant_overhead, modelled_overhead, replay
from autotune.simulator.truth import Truth
from autotune.spec.model import ConstraintsSpec

SEARCH_S = 0.0625


def setting(trials: int = 20, **changes: Any) -> Setting:
    return Setting(**({"limits": Limits(trials=trials), "overhead": constant_overhead(SEARCH_S)} | changes))


def test_the_clock_adds_up_by_hand() -> None:
    """The reference, then the two priors: fp32 batch 1, which is the reference itself, and fp16, which is new.

    The first costs its proposal alone, since a study does not measure the reference a second time; the other the process,
    variant, engine, opening, accuracy and the load as well.
    """
    found = replay(table(), Contestant(strategy="random"), setting(2), seed=0)
    first_s = REFERENCE_S + SEARCH_S
    second_s = first_s + SEARCH_S + OTHER_S + OPEN_S + LOAD_S + VARIANT_S["fp16"] + ENGINE_S + ACCURACY_S
    assert found.times_s == pytest.approx((first_s, second_s))
    assert found.spent_s["search"] == pytest.approx(2 * SEARCH_S) and found.ended == "trials"
    assert found.best == (pytest.approx(rate(candidate())), pytest.approx(rate(candidate("fp16"))))


def test_what_another_setting_of_the_references_artifacts_costs_by_hand() -> None:
    """fp32 at batch 2, of which the reference left variant and accuracy; the engine is new."""
    others = replace(table(), priors=(candidate(), candidate(batch=2)))
    found = replay(others, Contestant(strategy="random"), setting(2), seed=0)
    second_s = REFERENCE_S + 2 * SEARCH_S + OTHER_S + ENGINE_S + OPEN_S + PROBE_S + LOAD_S
    assert found.times_s[1] == pytest.approx(second_s)


def test_without_caches_the_reference_is_measured_again() -> None:
    """A plain loop makes everything of fp32 at batch 1 anew."""
    found = replay(table(), Contestant(strategy="random", caches=False), setting(1), seed=0)
    each_s = SEARCH_S + OTHER_S + VARIANT_S["fp32"] + ENGINE_S + OPEN_S + ACCURACY_S + LOAD_S
    assert found.times_s == pytest.approx((REFERENCE_S + each_s,))


def test_without_priors_a_search_that_weighs_them_knows_of_none() -> None:
    """The same search of a table that has no priors but the reference: every number is equal."""
    bare = replace(table(), priors=())
    runs = [replay(t, Contestant(strategy="cost-aware", priors=False), setting(12), seed=3) for t in (table(), bare)]
    assert runs[0] == runs[1]


def test_what_comes_first_comes_after_the_reference_and_before_the_priors() -> None:
    """As a warm start's candidates do; fp32 at batch 2 and then fp16, the prior. Without priors, too."""
    first = setting(3, first=(candidate(batch=2),))
    warm = replay(table(), Contestant(strategy="random"), first, seed=0)
    bare = replay(table(), Contestant(strategy="random", priors=False), first, seed=0)
    rates = [rate(c) for c in (candidate(), candidate(batch=2), candidate("fp16"))]
    assert rates == sorted(rates) and warm.best == pytest.approx(tuple(rates))
    assert bare.best[:2] == warm.best[:2] and bare.times_s[:2] == warm.times_s[:2]


@pytest.mark.parametrize(("strategy", "noise_sd"), [("cost-aware", 0.3), ("random", None), ("tpe", None), ("nsga2", None)])
def test_equal_seeds_give_equal_replays(strategy: str, noise_sd: float | None) -> None:
    """Nothing of the machine that replays enters: neither its clock nor its speed.

    The cost-aware search draws nothing here: seeds differ by what they measure, and the table's own noise leads none elsewhere.
    """
    runs = [replay(table(), Contestant(strategy=strategy), setting(12, noise_sd=noise_sd), seed=s) for s in (5, 5, 6)]
    assert runs[0] == runs[1]
    assert runs[0].times_s != runs[2].times_s


def test_replays_beside_each_other_are_the_same() -> None:
    """Two processes give what one gives, with a number of seconds as the overhead, too."""
    contestants = [Contestant(strategy="random"), Contestant(strategy="nsga2")]
    alone, beside = (compare(table(), contestants, setting(4), seeds=range(2), jobs=jobs) for jobs in (1, 2))
    assert alone == beside and [len(found) for found in beside.values()] == [2, 2]


def test_with_caches_no_point_is_measured_twice_and_all_are_found() -> None:
    """48 of 72 points are feasible; a random search that answers repeats from memory ends when all are known, at 1.0."""
    found = replay(table(), Contestant(strategy="random"), setting(1000), seed=1)
    assert len(found.times_s) <= 72 and found.ended in ("enough", "exhausted")
    assert found.hypervolume[-1] == pytest.approx(1.0)
    assert all(a <= b + 1e-9 for a, b in zip(found.hypervolume, found.hypervolume[1:], strict=False))


def test_without_caches_repeats_are_measured_again() -> None:
    """A plain loop has no memory: it goes on for ever, and pays in full each time."""
    limits = setting(limits=Limits(trials=90, enough=math.inf))
    found = replay(table(), Contestant(strategy="random", caches=False, priors=False), limits, seed=1)
    assert len(found.times_s) == 90 and found.n_repeated == 0
    cached = replay(table(), Contestant(strategy="random", priors=False), limits, seed=1)
    assert cached.ended == "exhausted" and len(cached.times_s) == 72
    assert found.times_s[59] > 2 * cached.times_s[59]


def test_a_replay_ends_at_its_limits() -> None:
    """After so many virtual seconds, or once enough is found."""
    by_time = replay(table(), Contestant(strategy="random"), setting(limits=Limits(seconds=60.0)), seed=0)
    assert by_time.ended == "hours" and by_time.times_s[-2] < 60.0 <= by_time.times_s[-1]
    by_share = replay(table(), Contestant(strategy="random"), setting(limits=Limits(enough=0.3)), seed=0)
    assert by_share.ended == "enough" and by_share.hypervolume[-2] < 0.3 <= by_share.hypervolume[-1]


def test_the_cost_aware_search_needs_less_time_than_chance() -> None:
    """On 72 points, five seeds each, virtual time to 95 %: well below that of a random search with the same caches."""
    limits = setting(limits=Limits(enough=0.95))
    median = {
        name: sorted(replay(table(), Contestant(strategy=name), limits, seed=s).time_to(0.95) for s in range(5))[2]
        for name in ("cost-aware", "random")
    }
    assert median["cost-aware"] < 0.75 * median["random"]


def test_the_truth_is_without_noise_and_of_feasible_points_only() -> None:
    """int8 misses the accuracy, so 48 points count. One point is worth its rectangle, which is worked out here.

    Accuracies 0.9, 0.898 (pruned), 0.895, 0.893; rates 100 to 600, the best pruned fp16, batch 4, two streams. The corner lies
    a tenth of the range beyond the worst: 0.893 − 0.0007 and 100 − 50. fp32 alone: (0.9 − 0.8923) · (100 − 50) = 0.385.
    """
    made = table()
    truth = Truth(made, made.spec())
    assert len(truth.values) == 48
    assert truth.corner == pytest.approx([0.8923, 50.0])
    assert truth.share([candidate()]) == pytest.approx(0.385 / truth.whole)
    # The front: fp32 250, pruned fp32 375, fp16 400, pruned fp16 600; its area in slices of accuracy from the top.
    area = 0.002 * 200 + 0.003 * 325 + 0.002 * 350 + 0.0007 * 550
    assert truth.whole == pytest.approx(area)
    front = [candidate(p, 4, 2, r) for p in ("fp32", "fp16") for r in (0.0, 0.5)]
    assert truth.share(front) == pytest.approx(1.0) and truth.share([]) == 0.0
    assert truth.share([candidate("int8", 4, 2)]) == 0.0


def test_constraints_may_be_replaced() -> None:
    """The same table, another drop: with 0.003 allowed only fp32 is feasible, and with nothing feasible it says so."""
    made = table()
    assert len(Truth(made, made.spec(constraints=ConstraintsSpec(accuracy_drop=0.003))).values) == 24
    with pytest.raises(SpecError, match="no point of the table 'recorded' keeps to the constraints"):
        Truth(made, made.spec(constraints=ConstraintsSpec(throughput=1e9)))


def test_other_objectives_are_replayed_too() -> None:
    """Memory and p99 as third and fourth objective: the volume is theirs as well, and the whole table is 1."""
    made = table(objectives=("accuracy", "throughput", "latency_p99", "memory"))
    found = replay(made, Contestant(strategy="cost-aware"), setting(1000), seed=0)
    assert found.hypervolume[-1] == pytest.approx(1.0)


def test_an_incomplete_table_is_not_replayed() -> None:
    """What a search would have found at the missing points nobody knows."""
    with pytest.raises(SpecError, match="lacks 3 points"):
        replay(table(missing=3), Contestant(strategy="random"), setting(), seed=0)


def test_modelled_overhead_is_that_of_the_measured_table() -> None:
    """GP: nothing while it draws at random, 1.97 s at 100; TPE 0.351 s at 1,000; bookkeeping on top. Others as measured."""
    assert modelled_overhead("gp", 5, 9.0) == pytest.approx(0.1)
    assert modelled_overhead("gp", 100, 9.0) == pytest.approx(2.07)
    assert modelled_overhead("gp", 1000, 9.0) == modelled_overhead("tpe", 1000, 9.0) == pytest.approx(0.451)
    assert modelled_overhead("tpe", 55, 9.0) == pytest.approx(0.1 + (0.024 + 0.055) / 2)
    assert modelled_overhead("another", 100, 0.03) == pytest.approx(0.13)


def curve(seed: int, *steps: tuple[float, float]) -> Replay:
    times, shares = zip(*steps, strict=True)
    return Replay(contestant="x", seed=seed, times_s=times, hypervolume=shares, best=(7.0,) * len(steps), n_repeated=0)


def test_time_to_the_goal_over_seeds() -> None:
    """3600, 7200 and 10,800 s and one that never came: quartiles by nearest rank 1, 2, 3 h; a quarter did not reach it."""
    found = [curve(i, (60.0, 0.5), (3600.0 * (i + 1), 0.96)) for i in range(3)] + [curve(3, (60.0, 0.5))]
    to = time_to(found, 0.95)
    assert (to.low_h, to.median_h, to.high_h, to.not_reached, to.n) == (1.0, 2.0, 3.0, 0.25, 4)
    assert math.isinf(found[3].time_to(0.95))
    most_never = time_to([found[0], *found[3:] * 3], 0.95)
    assert most_never.median_h is None and most_never.not_reached == 0.75


def test_curves_are_steps() -> None:
    """The hypervolume holds until the next trial ends; the median of one seed is the seed."""
    drawn = curves([curve(0, (30.0, 0.2), (60.0, 0.8))], 6.0, 60.0)
    seconds = [3600 * h for h in drawn["hours"]]
    assert drawn["median"][:-1] == [0.0 if t < 30.0 else 0.2 for t in seconds[:-1]] and drawn["median"][-1] == 0.8
    assert (seconds[0], seconds[-1]) == (pytest.approx(6.0), 60.0) and drawn["best"][-1] == 7.0


def test_curves_are_as_fine_early_as_late() -> None:
    """They are drawn over the logarithm of time, so each tenfold has as many points."""
    seconds = [3600 * h for h in curves([curve(0, (1.0, 0.2))], 1.0, 100.0)["hours"]]
    steps = [b / a for a, b in itertools.pairwise(seconds)]
    assert sum(t < 10.0 for t in seconds) == sum(t > 10.0 for t in seconds) and 1.08 < min(steps) <= max(steps) < 1.082
