"""Intervals are tested as intervals: draws with a known truth are covered as often as the interval claims."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.bench.statistics import (
    bootstrap_estimate,
    bootstrap_indices,
    correlation_inflation,
    holm_adjusted,
    mean_estimate,
    p_of_losses,
    paired_share_drop,
    percentile_estimate,
    share_estimate,
    steady_from,
    t_quantile,
    trimmed_estimate,
    with_process_spread,
)
from autotune.records import Estimate

ROUNDS = 2000
FOUR_SIGMA = 4 * math.sqrt(0.95 * 0.05 / ROUNDS)
"""0.0195: a true coverage of 95 % strays further from it in 2,000 rounds less than once in 10,000 times."""


def coverage(truth: float, draw: Callable[[], Estimate]) -> float:
    """Share of ROUNDS draws whose interval holds the truth."""
    return sum(e.low <= truth <= e.high for e in (draw() for _ in range(ROUNDS))) / ROUNDS


@pytest.mark.parametrize(
    ("dof", "table"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (5, 2.57058),
        (9, 2.26216),
        (10, 2.22814),
        (30, 2.04227),
        (120, 1.97993),
    ],
)
def test_t_quantile_agrees_with_the_printed_table(dof: int, table: float) -> None:
    """The 97.5 % quantiles of Student's t as statistics books print them, to their last digit."""
    assert t_quantile(dof) == pytest.approx(table, abs=6e-5 if dof == 1 else 6e-6)


def test_t_quantile_falls_towards_the_normal_one() -> None:
    """More degrees of freedom never widen an interval; beyond 2,000 the normal quantile 1.95996 takes over without a step."""
    quantiles = [t_quantile(dof) for dof in (*range(1, 60), 200, 2000, 2001, 10**6)]
    assert all(a >= b for a, b in itertools.pairwise(quantiles))
    assert quantiles[-1] == pytest.approx(1.959964, abs=1e-6)
    assert t_quantile(2000) - t_quantile(2001) < 0.0013  # t = z + (z³ + z)/(4·dof) = z + 0.0012


def test_mean_of_five_by_hand() -> None:
    """1, 3, 2, 3, 1: mean 2, s² = 1, lag-1 autocorrelation (−1 + 0 + 0 − 1)/4 < 0, so half = t₄·√(1/5) = 2.77645·0.44721."""
    estimate = mean_estimate(np.array([1.0, 3, 2, 3, 1]))
    assert estimate.value == 2
    assert estimate.half_width == pytest.approx(2.77645 * 0.447214, rel=1e-5)
    assert estimate.n == 5


def test_mean_with_positive_autocorrelation_by_hand() -> None:
    """1, 1, 0, 0, 0, 0, 1, 1 (n = 8): deviations ±½, ρ₁ = (1 − 1 + 1 + 1 + 1 − 1 + 1)·¼/(8·¼) = 3/8, ρ₂ = (−2 + 2 − 2)/8 < 0.

    s² = 2/7 and the inflation is 1 + 2·(7/8)·(3/8) = 1.65625, so 8/1.65625 = 4.8 samples count, of which 4 are whole:
    half = t₃·√(2/7/8·1.65625).
    """
    estimate = mean_estimate(np.array([1.0, 1, 0, 0, 0, 0, 1, 1]))
    assert estimate.half_width == pytest.approx(3.182446 * math.sqrt(2 / 7 / 8 * 1.65625), rel=1e-5)


def test_constant_samples_have_an_interval_of_no_width() -> None:
    """No spread was seen; the t interval says so."""
    estimate = mean_estimate(np.full(6, 41.0))
    assert (estimate.low, estimate.value, estimate.high) == (41, 41, 41)


@pytest.mark.parametrize("n", [0, 1])
def test_one_sample_has_no_interval(n: int) -> None:
    """With fewer than two samples there is no spread to know."""
    with pytest.raises(ValueError, match="at least 2"):
        mean_estimate(np.ones(n))


@pytest.mark.parametrize("n", [5, 15, 60])
def test_mean_covers_independent_draws(n: int) -> None:
    """Normal draws around 3, 2,000 rounds of n: at least 95 %, and not above 98.5 %, for the inflation only ever widens."""
    rng = np.random.default_rng(n)
    found = coverage(3.0, lambda: mean_estimate(3 + rng.standard_normal(n)))
    assert 0.95 - FOUR_SIGMA <= found <= 0.985


def ar1(rng: np.random.Generator, n: int, phi: float) -> NDArray[np.float64]:
    """A stationary series around 0 with autocorrelation φ^k."""
    values = np.empty(n)
    values[0] = rng.standard_normal() / math.sqrt(1 - phi * phi)
    for i, shock in enumerate(rng.standard_normal(n - 1), 1):
        values[i] = phi * values[i - 1] + shock
    return values


def test_mean_covers_autocorrelated_draws() -> None:
    """AR(1), φ = 0.5, n = 200: true variance of the mean is (1 + φ)/(1 − φ) = 3 times s²/n.

    An interval that ignored it would cover P(|Z| < 1.96/√3) = 74 %; this one loses only the few points that estimating the
    autocorrelation costs at this n (0.5 % to 1.5 %), so it must reach 92 % within four sigma.
    """
    rng = np.random.default_rng(1)
    draws = [ar1(rng, 200, 0.5) for _ in range(ROUNDS)]
    naive = np.mean([abs(d.mean()) <= 1.972 * d.std(ddof=1) / math.sqrt(200) for d in draws])
    assert naive == pytest.approx(0.742, abs=0.04)
    series = iter(draws)
    assert 0.93 - FOUR_SIGMA <= coverage(0.0, lambda: mean_estimate(next(series))) <= 0.97


def test_wilson_by_hand() -> None:
    """8 of 10, z² = 3.8415: centre (0.8 + 0.19207)/1.38415 = 0.71674, half 1.95996/1.38415·√(0.016 + 0.0096036) = 0.22658."""
    estimate = share_estimate(8, 10)
    assert estimate.value == 0.8
    assert (estimate.low, estimate.high) == (pytest.approx(0.49016, abs=2e-5), pytest.approx(0.94332, abs=2e-5))


def test_wilson_at_the_ends_stays_inside_zero_and_one() -> None:
    """All hit or none: the interval begins or ends at the truth and is not empty; 10 of 10 reaches down to 1/(1 + z²/10)."""
    assert share_estimate(0, 10).low == 0 and share_estimate(0, 10).high == pytest.approx(0.27753, abs=1e-5)
    assert share_estimate(10, 10).high == 1 and share_estimate(10, 10).low == pytest.approx(1 / 1.384146, abs=1e-6)
    with pytest.raises(ValueError, match="no samples"):
        share_estimate(0, 0)


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_wilson_covers_by_exact_summation(n: int) -> None:
    """Σ binomial(k; n, p) over the k whose interval holds p, exactly: 95 % ± 1 % on average over p, and never below 83 %.

    Wilson's interval is known to dip to about 83 % close to p = 0 and 1 (Brown, Cai and DasGupta 2001).
    """
    intervals = [share_estimate(k, n) for k in range(n + 1)]
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)])
    k = np.arange(n + 1)
    covers = []
    for p in np.linspace(0.01, 0.99, 99):
        pmf = np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
        covers.append(sum(m for m, e in zip(pmf, intervals, strict=True) if e.low <= p <= e.high))
    assert np.mean(covers) == pytest.approx(0.95, abs=0.01)
    assert min(covers) > 0.83


def test_paired_drop_by_hand() -> None:
    """10 samples, 3 lost and 1 won: value 0.2; centre 2/12, spread √((4/12 + 2/12 − 4/144)/12) = 0.19837."""
    reference = np.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 1], dtype=float)
    other = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 1], dtype=float)
    estimate = paired_share_drop(reference, other)
    assert estimate.value == pytest.approx(0.2)
    assert estimate.low == pytest.approx(1 / 6 - 1.959964 * 0.198373, abs=1e-5)
    assert estimate.high == pytest.approx(1 / 6 + 1.959964 * 0.198373, abs=1e-5)


def test_paired_drop_of_equal_models_is_zero_but_not_certain() -> None:
    """Equal answers on 100 samples: drop 0, with √(2/102/102)·z = 0.0272 either side, because 100 samples cannot say more."""
    hits = np.ones(100)
    estimate = paired_share_drop(hits, hits)
    assert estimate.value == 0
    assert estimate.half_width == pytest.approx(1.959964 * math.sqrt(2) / 102, rel=1e-6)


@pytest.mark.parametrize(("n", "lost", "won"), [(30, 0.2, 0.1), (100, 0.05, 0.02), (1000, 0.01, 0.01), (200, 0.02, 0.0)])
def test_paired_drop_covers_known_disagreement(n: int, lost: float, won: float) -> None:
    """Pairs drawn with known shares lost and won, small ones and none at all among them: never below 95 %."""
    rng = np.random.default_rng(n)

    def draw() -> Estimate:
        u = rng.random(n)
        reference = np.where(u < lost, 1.0, np.where(u < lost + won, 0.0, 1.0))
        other = np.where(u < lost, 0.0, 1.0)
        return paired_share_drop(reference, other)

    assert coverage(lost - won, draw) >= 0.95 - FOUR_SIGMA


@pytest.mark.parametrize(("percentile", "least"), [(50, 6), (90, 36), (95, 72), (99, 368)])
def test_percentiles_need_as_many_samples_as_both_ends_take(percentile: int, least: int) -> None:
    """The upper end exists once P(all n below the quantile) = qⁿ ≤ 2.5 %, n ≥ ln 0.025/ln q = 35.01, 71.9, 367.0 for p90, p95
    and p99; for p50 both ends need 0.5ⁿ ≤ 2.5 %, n ≥ 5.3."""
    assert percentile_estimate(np.arange(least - 1.0), percentile) is None
    found = percentile_estimate(np.arange(float(least)), percentile)
    assert found is not None and found.low <= found.value <= found.high


def test_median_of_six_is_enclosed_by_the_extremes() -> None:
    """P(both ends miss) = 2·0.5⁶ = 3.1 % ≤ 5 %: the interval is [smallest, largest]; the value the third, ⌈0.5·6⌉."""
    found = percentile_estimate(np.array([6.0, 1, 5, 2, 4, 3]), 50)
    assert found is not None and (found.value, found.low, found.high) == (3, 1, 6)


@pytest.mark.parametrize(("percentile", "n"), [(50, 6), (50, 101), (90, 40), (95, 200), (99, 400), (99, 3000)])
def test_percentiles_cover_exponential_draws(percentile: int, n: int) -> None:
    """The quantile of the exponential distribution is −ln(1 − q); order statistics are conservative, never below 95 %."""
    rng = np.random.default_rng(percentile * n)
    truth = -math.log(1 - percentile / 100)

    def draw() -> Estimate:
        found = percentile_estimate(rng.exponential(size=n), percentile)
        assert found is not None
        return found

    assert coverage(truth, draw) >= 0.95 - FOUR_SIGMA


def test_percentile_of_nothing_is_an_error() -> None:
    """No request at all is a fault of the load, not a missing interval."""
    with pytest.raises(ValueError, match="no latency"):
        percentile_estimate(np.empty(0), 50)


def test_bootstrap_indices_pair_two_models() -> None:
    """The same rows for the same n and seed, so that two models are resampled alike; other rows for another seed."""
    first = bootstrap_indices(40, 3)
    assert first.shape == (1000, 40) and first.min() >= 0 and first.max() < 40
    assert np.array_equal(first, bootstrap_indices(40, 3))
    assert not np.array_equal(first, bootstrap_indices(40, 4))


def test_bootstrap_estimate_by_hand() -> None:
    """Of 0…1000 the 2.5 % and 97.5 % quantiles are 25 and 975; an outlying value stretches the interval to hold it."""
    resampled = np.arange(1001.0)
    assert bootstrap_estimate(500, resampled, 7) == Estimate(value=500, low=25, high=975, n=7, method="bootstrap")
    assert bootstrap_estimate(-3, resampled, 7).low == -3


def test_bootstrap_covers_a_mean() -> None:
    """400 rounds of 100 exponential draws: a percentile bootstrap of a skewed mean loses about 1 to 2 points of its 95 %."""
    rng = np.random.default_rng(8)
    rows = bootstrap_indices(100)

    def draw() -> bool:
        sample = rng.exponential(size=100)
        estimate = bootstrap_estimate(sample.mean(), sample[rows].mean(axis=1), 100)
        return estimate.low <= 1 <= estimate.high

    found = sum(map(bool, (draw() for _ in range(400)))) / 400
    assert 0.93 - 4 * math.sqrt(0.93 * 0.07 / 400) <= found <= 0.98


def test_losses_are_weighed_against_wins_exactly() -> None:
    """Heads of a fair coin: 3 of 3 is 1/8, at least 3 of 4 is 5/16, at least none is certain; no pair tells nothing."""
    assert p_of_losses(3, 0) == 1 / 8
    assert p_of_losses(3, 1) == 5 / 16
    assert p_of_losses(0, 7) == p_of_losses(0, 0) == 1
    assert 0 < p_of_losses(3000, 2800) < 0.01


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    """Of three the least is multiplied by 3, the next by 2, the last by 1: 0.03; 0.04; and 0.03 is raised to that."""
    assert holm_adjusted(np.array([0.02, 0.01, 0.03])).tolist() == pytest.approx([0.04, 0.03, 0.04])
    assert holm_adjusted(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]


def test_intervals_that_hold_at_once_are_wider() -> None:
    """20 intervals at once: z of 1 − 0.05/40 is 3.023 instead of 1.960, and the method says so."""
    reference, other = np.repeat([1.0, 1.0, 0.0], [80, 10, 10]), np.repeat([1.0, 0.0, 0.0], [80, 10, 10])
    one, many = paired_share_drop(reference, other), paired_share_drop(reference, other, n_intervals=20)
    assert many.half_width / one.half_width == pytest.approx(3.0233 / 1.95996, abs=1e-3)
    assert many.method == "paired, bonett-price, 20 intervals at once"


@pytest.mark.parametrize(("n", "least"), [(30, 0.92), (120, 0.93), (600, 0.935)])
def test_mean_covers_long_correlated_runs(n: int, least: float) -> None:
    """AR(1) with φ = 0.5 in runs of 30, 120 and 600 windows, 500 rounds: near 95 %, which the block bootstrap's width brings.

    500 rounds are off by at most 0.039 in four sigma.
    """
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(500):
        estimate = mean_estimate(ar1(rng, n, 0.5))
        hits += estimate.low <= 0 <= estimate.high
    assert hits / 500 >= least - 0.039


def test_blocks_widen_what_the_autocorrelation_alone_makes_too_narrow() -> None:
    """Fifteen values that drift: half from the t interval with the series' own autocorrelation is the least that comes out."""
    drift = np.linspace(0, 1, 15)
    wide, narrow = mean_estimate(drift).half_width, t_quantile(14) * float(np.std(drift, ddof=1)) / math.sqrt(15)
    assert wide > 3 * narrow


def test_inflation_of_known_series() -> None:
    """Independent draws: 1, within what 50 batches tell (±20 %, four sigma above). AR(1) with φ = 0.6: (1 + φ)/(1 − φ) = 4."""
    rng = np.random.default_rng(0)
    independent = [correlation_inflation(rng.standard_normal(5000)) for _ in range(100)]
    assert 1.0 <= np.mean(independent) < 1.2 and max(independent) < 1.8
    correlated = [correlation_inflation(ar1(rng, 5000, 0.6)) for _ in range(100)]
    assert np.mean(correlated) == pytest.approx(4.0, abs=0.4)
    assert correlation_inflation(np.ones(1000)) == 1.0 and correlation_inflation(rng.standard_normal(99)) == 1.0


def sojourns(rng: np.random.Generator, n: int, load: float) -> NDArray[np.float64]:
    """Waiting and service of n customers of an M/D/1 queue with a service of 1, in order of arrival."""
    walk = np.cumsum(1.0 - rng.exponential(1 / load, n + 2000))
    waits = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
    return np.asarray(waits[2000:] + 1.0)


@pytest.mark.parametrize(("load", "percentile", "least"), [(0.5, 90, 0.92), (0.5, 99, 0.92), (0.7, 50, 0.92), (0.7, 99, 0.90)])
def test_percentiles_of_a_queue_are_covered(load: float, percentile: float, least: float) -> None:
    """Latencies of 4,000 requests that queue, 400 rounds, against the percentile of 3 million: what independence would claim
    covers 66 % of p99 at a load of 0.5 and 36 % at 0.7."""
    rng = np.random.default_rng(int(100 * load + percentile))
    truth = float(np.quantile(sojourns(rng, 3_000_000, load), percentile / 100))
    found = [percentile_estimate(sojourns(rng, 4000, load), percentile) for _ in range(400)]
    covered = np.mean([e is not None and e.low <= truth <= e.high for e in found])
    assert covered >= least - 4 * math.sqrt(0.95 * 0.05 / 400)


def test_a_percentile_that_correlation_leaves_without_an_upper_end_says_so() -> None:
    """One burst of 20 slow requests among 1,000: p99 is in it, the largest is the end, and the method tells."""
    latencies = np.ones(1000)
    latencies[500:520] = np.arange(2.0, 22.0)
    estimate = percentile_estimate(latencies, 99)
    assert estimate is not None and estimate.high == 21.0 and "too few" in estimate.method


def test_a_transient_is_cut_off() -> None:
    """300 values that fall towards the rest, then 1,500 around 1: the cut lies where the fall ends, ± 15 %."""
    rng = np.random.default_rng(2)
    falling = np.concatenate([np.linspace(5, 1, 300), np.ones(1500)]) + rng.normal(0, 0.3, 1800)
    cut = steady_from(falling)
    assert cut is not None and 200 <= cut <= 350


def test_a_series_that_only_grows_is_not_steady() -> None:
    """An overload's latencies have no part that is steady; a short or a steady series is taken as it is."""
    assert steady_from(np.arange(2000.0)) is None
    assert steady_from(np.arange(100.0)) == 0
    steady = [steady_from(np.random.default_rng(i).standard_normal(2000)) for i in range(50)]
    assert sum(s is not None and s < 500 for s in steady) >= 45


def test_a_throughput_of_nothing_keeps_its_own_interval() -> None:
    """Where no rate keeps the SLO, the spread between processes adds nothing to 0, and what might be stays."""
    nothing = Estimate(value=0.0, low=0.0, high=3.5, n=4, method="by hand")
    assert with_process_spread(nothing, 0.02, 5) == nothing


def test_a_trimmed_mean_by_hand() -> None:
    """1…9 and 1,000: two are cut at each end, 3…8 are left, with a mean of 5.5; winsorized, the ten have s² = 42.5/9."""
    found = trimmed_estimate(np.array([1000.0, *range(1, 10)]))
    assert (found.value, found.n) == (5.5, 10)
    assert found.half_width == pytest.approx(2.570582 * math.sqrt(42.5 / 9) / (0.6 * math.sqrt(10)), rel=1e-5)


def test_trimmed_intervals_cover_the_middle_of_what_has_far_outliers() -> None:
    """Normal draws of which one in ten is 10 times as wide: 95 % of 2,000 intervals hold the centre, and they are narrower."""
    draws = np.random.default_rng(5)
    wide = np.where(draws.random((2000, 40)) < 0.1, 10.0, 1.0) * draws.normal(size=(2000, 40))
    found = [trimmed_estimate(row) for row in wide]
    assert np.mean([e.low <= 0 <= e.high for e in found]) == pytest.approx(0.95, abs=0.015)
    assert np.median([e.half_width for e in found]) < 0.6 * np.median([mean_estimate(row).half_width for row in wide])


def test_too_few_samples_to_trim() -> None:
    """One sample has no interval."""
    with pytest.raises(ValueError, match="at least 2"):
        trimmed_estimate(np.array([1.0]))
