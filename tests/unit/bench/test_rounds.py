"""Repetitions in fresh processes: the intervals hold what they promise, on draws with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotune.bench.rounds import RoundsFit, pooled_spread, repeated_estimate
from autotune.bench.statistics import with_process_spread
from autotune.records import Estimate


def draws(
    rng: np.random.Generator, n: int, k: int, between: float, within: float
) -> tuple[np.ndarray, dict[int, dict[int, float]]]:
    """n configurations in k rounds that differ by `between`, with noise `within`; also their true log throughputs."""
    truth, rounds = rng.normal(5, 1, n), rng.normal(0, between, k)
    return truth, {i: {j: math.exp(truth[i] + rounds[j] + rng.normal(0, within)) for j in range(k)} for i in range(n)}


@pytest.mark.parametrize(("n", "k", "between", "within"), [(5, 3, 0.0, 0.02), (5, 5, 0.02, 0.01), (2, 3, 0.03, 0.02)])
def test_a_repeated_estimate_covers_one_more_process(n: int, k: int, between: float, within: float) -> None:
    """2,000 studies: 92 to 98 % of the 95 % intervals hold what a further process measures."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        truth, found = draws(rng, n, k, between, within)
        spread = pooled_spread(found)
        assert spread is not None
        estimate = repeated_estimate(found[0], spread)
        further = math.exp(truth[0] + rng.normal(0, between) + rng.normal(0, within))
        covered += estimate.low <= further <= estimate.high
    assert 0.92 <= covered / 2000 <= 0.98


def test_a_difference_within_rounds_is_free_of_what_the_rounds_share() -> None:
    """2,000 studies in which rounds differ by 10 %: the interval of a log ratio covers the truth in 93 to 97 %.

    It is as narrow as the noise of 1 % lets it be: 1 % · √(2/4) · t(12) = 1.54 %.
    """
    rng = np.random.default_rng(2)
    covered, half_widths = 0, []
    for _ in range(2000):
        truth, found = draws(rng, 5, 4, 0.1, 0.01)
        difference = RoundsFit(found).difference(0, 1)
        assert difference is not None and difference.method == "paired within rounds"
        covered += difference.low <= truth[0] - truth[1] <= difference.high
        half_widths.append(difference.half_width)
    assert 0.93 <= covered / 2000 <= 0.97
    assert np.mean(half_widths) == pytest.approx(0.0154, rel=0.1)


def test_difference_by_hand() -> None:
    """a is always twice b, whatever the round: log 2 exactly."""
    found = {"a": {1: 200.0, 2: 220.0, 3: 180.0}, "b": {1: 100.0, 2: 110.0, 3: 90.0}}
    difference = RoundsFit(found).difference("a", "b")
    assert difference is not None
    assert difference.value == pytest.approx(math.log(2)) and difference.half_width == pytest.approx(0, abs=1e-9)


def test_configurations_without_a_common_round_cannot_be_told_apart() -> None:
    """Neither can unknown ones, nor any where nothing is left to estimate the noise from; a chain of rounds is enough."""
    fit = RoundsFit({"a": {1: 100.0, 2: 101.0}, "b": {3: 100.0, 4: 101.0}, "c": {1: 99.0, 2: 103.0}})
    assert fit.difference("a", "b") is None and fit.difference("a", "x") is None
    assert fit.difference("a", "c") is not None
    assert RoundsFit({"a": {1: 100.0}, "b": {1: 90.0}}).difference("a", "b") is None
    assert RoundsFit({}).difference("a", "b") is None
    chain = RoundsFit({"a": {1: 100.0, 2: 101.0}, "b": {2: 50.0, 3: 51.0}, "c": {3: 25.0, 1: 26.0}})
    assert chain.difference("a", "c") is not None


def test_spread_by_hand() -> None:
    """log rates 0 ± x in two rounds of two configurations that move apart: variance 4x²/2, no common movement of a round."""
    x = 0.01
    found = {"a": {1: math.exp(x), 2: math.exp(-x)}, "b": {1: math.exp(-x), 2: math.exp(x)}, "c": {1: 7.0}}
    spread = pooled_spread(found)
    assert spread is not None
    assert spread.relative_sd == pytest.approx(math.sqrt(4 * x * x / 2)) and spread.dof == 1
    assert pooled_spread({"a": {1: 5.0}, "b": {1: 6.0}}) is None and pooled_spread({}) is None


def test_rounds_that_move_together_count_as_one_observation_each() -> None:
    """Ten configurations that all fall by the same share from round to round tell as much of the spread as one does."""
    rates = {1: 100.0, 2: 90.0, 3: 95.0, 4: 105.0}
    many = pooled_spread({i: rates for i in range(10)})
    one = pooled_spread({0: rates})
    assert many is not None and one is not None
    assert (many.dof, one.dof) == (3, 3) and many.relative_sd == pytest.approx(one.relative_sd)


def test_identical_processes_have_an_interval_of_no_width() -> None:
    """No spread was seen; the estimate says of how many processes."""
    found = {"a": {1: 5.0, 2: 5.0, 3: 5.0}}
    spread = pooled_spread(found)
    assert spread is not None and spread.relative_sd == 0
    estimate = repeated_estimate(found["a"], spread)
    assert (estimate.low, estimate.value, estimate.high, estimate.n) == pytest.approx((5.0, 5.0, 5.0, 3))
    with pytest.raises(ValueError, match="no processes"):
        repeated_estimate({}, spread)


def test_one_process_with_the_spread_of_others_covers_another() -> None:
    """4,000 pairs of processes with 2 % between them, the spread learnt from 8: 93 to 97 % lie in each other's interval."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(4000):
        sd = float(np.std(rng.normal(0, 0.02, 8), ddof=1))
        value = 100 * math.exp(rng.normal(0, 0.02))
        estimate = with_process_spread(Estimate(value=value, low=value, high=value, n=5, method="t"), sd, 8)
        covered += estimate.low <= 100 * math.exp(rng.normal(0, 0.02)) <= estimate.high
    assert 0.93 <= covered / 4000 <= 0.97


def test_the_spread_comes_on_top_of_the_runs_own_interval() -> None:
    """Own 3 %, spread √2 · t(9) · 1 % = 3.20 %: together √(9 + 10.2) = 4.39 %; fewer than two processes are no spread."""
    own = Estimate(value=100.0, low=97.0, high=103.0, n=5, method="t")
    found = with_process_spread(own, 0.01, 10)
    assert math.log(found.high / 100) == pytest.approx(0.0439, abs=1e-4) == -math.log(found.low / 100)
    assert "spread between processes" in found.method
    with pytest.raises(ValueError, match="at least 2"):
        with_process_spread(own, 0.01, 1)
