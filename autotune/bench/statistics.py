"""Intervals: pure functions from samples to Estimates. All are 95 % intervals."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from autotune.records import Estimate

Samples = NDArray[np.float64]
CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
_BOOTSTRAP_ROUNDS = 1000


@lru_cache(maxsize=4096)
def t_quantile(dof: int) -> float:
    """The 97.5 % quantile of Student's t with `dof` ≥ 1 degrees of freedom, to 1e-6.

    Bisection on the distribution function, which has a closed form for whole degrees of freedom (Abramowitz and Stegun,
    26.7.3 and 26.7.4).
    """
    if dof > 2000:
        return _Z
    low, high = 0.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        if _t_central(middle, dof) < CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _t_central(t: float, dof: int) -> float:
    """P(|T| < t) for whole `dof`."""
    theta = math.atan(t / math.sqrt(dof))
    cosine, sine = math.cos(theta), math.sin(theta)
    if dof == 1:
        return 2 * theta / math.pi
    term, total = (cosine, cosine) if dof % 2 else (1.0, 1.0)
    for k in range(3 if dof % 2 else 2, dof - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sine * total) if dof % 2 else sine * total


def mean_estimate(samples: Samples) -> Estimate:
    """Mean of a stationary series with a t interval that counts the series' autocorrelation.

    `samples`, shape (n,), n ≥ 2, in time order. The variance of the mean is s²/n · (1 + 2 Σ (1 − k/n) ρ_k), summed over lags
    while ρ_k stays positive (Geyer's initial positive sequence, 1992, in its simplest form) and never taken below s²/n; t has
    the degrees of freedom of the effective number of samples. From 15 samples on the moving-block bootstrap's variance (Künsch
    1989; its exact value, so nothing is drawn) counts where it is wider. A short series hides its autocorrelation: in simulated
    AR(1) series with φ = 0.5 the interval covers 95 % from n = 120 on, 93 to 94 % at 30 and 60, 90 % at 15 and 85 % at 5;
    independent samples are covered by 95 to 97 % at every n. The percentiles of a block bootstrap cover less at each of these
    (φ = 0.5: 60, 74, 82, 90 and 94 % at n = 5, 15, 30, 120 and 600). Raises ValueError if n < 2.
    """
    n = len(samples)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 samples, found {n}")
    mean = float(np.mean(samples))
    deviations = samples - mean
    gamma_0 = float(deviations @ deviations) / n
    inflation = 1.0
    if gamma_0 > 0:
        for lag in range(1, n // 2):
            rho = float(deviations[:-lag] @ deviations[lag:]) / n / gamma_0
            if rho <= 0:
                break
            inflation += 2 * (1 - lag / n) * rho
    half = t_quantile(max(1, int(n / inflation) - 1)) * math.sqrt(gamma_0 / (n - 1) * inflation)
    if n >= _LEAST_FOR_BLOCKS:
        half = max(half, _half_width_from_blocks(deviations, inflation))
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n, method="t with autocorrelation")


def trimmed_estimate(samples: Samples, share: float = 0.2) -> Estimate:
    """Mean without the `share` smallest and largest samples, with the t interval of Tukey and McLaughlin (1963).

    `samples`, shape (n,), independent, in any order. The standard error is the winsorized standard deviation over
    (1 − 2·share)·√n; t has as many degrees of freedom as samples are left, less 1. For samples with few far outliers it is much
    narrower than that of `mean_estimate`, and it tells nothing of them. Raises ValueError where fewer than 2 are left.
    """
    n, cut = len(samples), int(share * len(samples))
    if n - 2 * cut < 2:
        raise ValueError(f"an interval needs at least 2 samples, found {n - 2 * cut} of {n} after trimming")
    ordered = np.sort(samples)
    left = ordered[cut : n - cut]
    spread = float(np.std(np.clip(ordered, left[0], left[-1]), ddof=1))
    half = t_quantile(len(left) - 1) * spread / ((1 - 2 * share) * math.sqrt(n))
    mean = float(np.mean(left))
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n, method=f"trimmed t, {share:g}")


_LEAST_FOR_BLOCKS = 15
"""Below, blocks that are long enough are too few to have a variance."""


def _half_width_from_blocks(deviations: Samples, inflation: float) -> float:
    """t times the standard error of the circular moving-block bootstrap, of which this is the exact value.

    The block's length grows as n^⅓ (Künsch 1989) and with the autocorrelation; at most a third of the series.
    """
    n = len(deviations)
    length = max(1, min(n // 3, round(n ** (1 / 3) * max(1.0, inflation - 1) ** (2 / 3) + 1)))
    sums = np.concatenate(([0.0], np.cumsum(np.concatenate((deviations, deviations[: length - 1])))))
    means = (sums[length:] - sums[:-length]) / length
    n_blocks = n / length
    variance = float(np.mean(means * means)) / n_blocks * n_blocks / (n_blocks - 1)
    return t_quantile(max(1, int(n_blocks) - 1)) * math.sqrt(variance)


def correlation_inflation(samples: Samples) -> float:
    """How many times more samples this series needs than an independent one would for the same error of its mean, ≥ 1.

    `samples`, shape (n,), in time order. By batch means (Law and Kelton): the variance of the means of 50 batches, or fewer of
    at least 20 samples each, against what independent samples would give. 1 for a series shorter than 100, or without spread.
    """
    n_batches = min(_BATCHES, len(samples) // 20)
    spread = float(np.var(samples)) if n_batches >= 5 else 0.0
    if spread == 0.0:
        return 1.0
    size = len(samples) // n_batches
    means = samples[: n_batches * size].reshape(n_batches, size).mean(axis=1)
    return max(1.0, size * float(np.var(means, ddof=1)) / spread)


_BATCHES = 50


def steady_from(samples: Samples) -> int | None:
    """Index from which on a series is steady: the truncation that leaves the mean least uncertain (MSER-5, White 1997).

    `samples`, shape (n,), in time order. Means of five samples are cut at the point that minimizes Σ(x − x̄)²/(n − d)². None
    where that point lies in the second half: the series has not settled. 0 for a series shorter than 200, and instead of None
    for one shorter than 1,000, in which one burst looks the same. In simulated M/D/1 queues of 2,000 requests None comes in 1 %
    at a load of 0.3, 3 % at 0.5, 15 % at 0.8, and in 91 % at 1.05.
    """
    n_groups = len(samples) // 5
    if n_groups < 40:
        return 0
    groups = samples[: 5 * n_groups].reshape(n_groups, 5).mean(axis=1)
    left = np.arange(n_groups, 0, -1)
    sums, squares = (np.cumsum(v[::-1])[::-1] for v in (groups, groups * groups))
    errors = np.maximum(0.0, squares - sums * sums / left) / (left * left)
    # The last few groups always agree with each other.
    best = int(np.argmin(errors[: n_groups - 5]))
    if best > n_groups // 2:
        return None if len(samples) >= _LEAST_TO_BE_UNSTEADY else 0
    return 5 * best


_LEAST_TO_BE_UNSTEADY = 1000


def with_process_spread(estimate: Estimate, relative_sd: float, n: int, own_sd: float = 0.0) -> Estimate:
    """The estimate of one process, with an interval that holds what a fresh process would measure.

    `relative_sd`: standard deviation of the value's logarithm between processes, learnt with `n` − 1 degrees of freedom;
    `own_sd`: the part of it that is noise inside the processes it was learnt from. The fresh process is off by all of it; this
    one by what remains without that part, and by its own interval. On the log scale, so the interval stays above 0. Raises
    ValueError if n < 2.
    """
    if n < 2:
        raise ValueError(f"a spread between processes needs at least 2 of them, found {n}")
    if estimate.value <= 0:
        return estimate  # nothing on a log scale; its own interval says how much it might be
    own = max(estimate.high - estimate.value, estimate.value - estimate.low) / estimate.value
    between = math.sqrt(max(0.0, relative_sd**2 - own_sd**2))
    half = math.hypot(t_quantile(n - 1) * relative_sd, t_quantile(n - 1) * between, own)
    return Estimate(
        value=estimate.value,
        low=estimate.value * math.exp(-half),
        high=estimate.value * math.exp(half),
        n=estimate.n,
        method=f"{estimate.method}, and the spread between processes of the reference",
    )


def share_estimate(hits: int, n: int, inflation: float = 1.0) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927). Raises ValueError if n = 0.

    `inflation`: of the hits' series, as `correlation_inflation` gives it; so many times fewer samples count.
    """
    if n == 0:
        raise ValueError("a share of no samples does not exist")
    p = hits / n
    m = n / inflation
    centre = (p + _Z**2 / (2 * m)) / (1 + _Z**2 / m)
    half = _Z / (1 + _Z**2 / m) * math.sqrt(p * (1 - p) / m + _Z**2 / (4 * m * m))
    # At 0 and n hits an end of the interval is p itself, which rounding would miss by 1e-17.
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return Estimate(value=p, low=low, high=high, n=n, method="wilson")


def paired_share_drop(reference: Samples, other: Samples, n_intervals: int = 1) -> Estimate:
    """How much lower the share of hits is in `other` than in `reference`, on the same samples.

    Both shape (n,) of 0 and 1. Adjusted Wald interval of Bonett and Price (2012), which keeps its coverage in small samples.
    Of `n_intervals` such intervals all hold their truth at once with 95 % (Bonferroni).
    """
    n = len(reference)
    lost = float(np.sum((reference == 1) & (other == 0)))
    won = float(np.sum((reference == 0) & (other == 1)))
    centre = (lost - won) / (n + 2)
    spread = math.sqrt(max(0.0, (lost + 1) / (n + 2) + (won + 1) / (n + 2) - centre**2) / (n + 2))
    value = (lost - won) / n
    half = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * n_intervals)) * spread
    low, high = max(-1.0, min(centre - half, value)), min(1.0, max(centre + half, value))
    method = "paired, bonett-price" + (f", {n_intervals} intervals at once" if n_intervals > 1 else "")
    return Estimate(value=value, low=low, high=high, n=n, method=method)


def p_of_losses(lost: int, won: int) -> float:
    """How probable at least so many losses among the discordant pairs are where losing is no likelier than winning.

    The exact one-sided test of McNemar: P(B ≥ lost) for B binomial(lost + won, ½).
    """
    n = lost + won
    total, ways = 0, 1
    for k in range(won + 1):  # by symmetry: at most as many wins
        total += ways
        ways = ways * (n - k) // (k + 1)
    return total / (1 << n)


def holm_adjusted(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values, shape (m,), such that those below 0.05 hold a false claim with at most 5 % (Holm 1979)."""
    m = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate((m - np.arange(m)) * p_values[order])
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


@lru_cache(maxsize=64)
def _order_ranks(n: int, q: float) -> tuple[int, int]:
    """Ranks (from 0) of a sorted sample of n that enclose the quantile q with 95 %; −1 or n where no sample does.

    X_(l+1) … X_(u+1) covers q with probability P(l < B ≤ u) for B binomial(n, q); each tail gets at most 2.5 %.
    """
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    k = np.arange(n + 1)
    log_pmf = log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * math.log(q) + (n - k) * math.log1p(-q)
    cdf = np.cumsum(np.exp(log_pmf))
    return int(np.searchsorted(cdf, 0.025, side="right")) - 1, int(np.searchsorted(cdf, 0.975, side="left"))


def percentile_estimate(samples: Samples, percentile: float) -> Estimate | None:
    """A percentile with its distribution-free interval from order statistics (David and Nagaraja 2003, 7.1).

    `samples`, shape (n,), in time order. None where n is too small for both ends to exist: below 6 for p50, 36 for p90, 72 for
    p95 and 368 for p99, the least n with q^n ≤ 0.025 (0.5^n for p50). Latencies of requests that queue behind each other are
    correlated: n then counts as many times less as the series of exceedances is inflated, and where that is too small for an
    end, the end is the smallest or the largest sample and `method` says so. In simulated M/D/1 queues at a load of 0.5 the
    interval of p99 over 4,000 requests covers 96 %, at 0.7 93 %; without the
    inflation it would be 66 and 36 %. Raises ValueError if n = 0.
    """
    n = len(samples)
    if n == 0:
        raise ValueError("no latency was recorded")
    q = percentile / 100
    lower, upper = _order_ranks(n, q)
    if lower < 0 or upper > n - 1:
        return None
    ordered = np.sort(samples)
    value = float(ordered[min(n - 1, math.ceil(q * n) - 1)])
    low, high, method = _correlated_ranks(n, q, correlation_inflation((samples > value).astype(np.float64)))
    return Estimate(value=value, low=float(ordered[low]), high=float(ordered[high]), n=n, method=method)


def _correlated_ranks(n: int, q: float, inflation: float) -> tuple[int, int, str]:
    """The ranks (from 0) of both ends in a sorted sample of n that is worth n / inflation independent ones, and the method."""
    method = "order statistics, binomial"
    effective = max(1, int(n / inflation))
    lower, upper = _order_ranks(effective, q)
    if effective == n:
        return lower, upper, method
    method += f", {effective} effective samples"
    if upper > effective - 1:
        method += ": too few, up to the largest"
    low = max(0, int(lower * n / effective))
    high = n - 1 if upper > effective - 1 else min(n - 1, math.ceil((upper + 1) * n / effective) - 1)
    return low, high, method


def bootstrap_indices(n: int, seed: int = 0) -> NDArray[np.intp]:
    """Resampled row numbers, shape (1000, n), the same for equal arguments so that two models can be paired."""
    return np.random.default_rng(seed).integers(0, n, size=(_BOOTSTRAP_ROUNDS, n))


def bootstrap_estimate(value: float, resampled: Samples, n: int) -> Estimate:
    """The 2.5 % and 97.5 % quantiles of `resampled`, shape (rounds,), around the `value` of the whole sample.

    Draws on which a metric is not defined, such as a correlation of equal labels, are left out.
    """
    finite = resampled[np.isfinite(resampled)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (value, value)
    return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)), n=n, method="bootstrap")
