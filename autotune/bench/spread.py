"""The spread of a few independent draws: its size, and where one more of them would lie. All are 95 % intervals."""

from __future__ import annotations

import math

import numpy as np

from autotune.bench.statistics import CONFIDENCE, Samples, t_quantile
from autotune.records import Estimate


def standard_deviation_estimate(samples: Samples) -> Estimate:
    """The standard deviation of independent normal draws with its chi-squared interval. Raises ValueError if n < 2."""
    n = len(samples)
    if n < 2:
        raise ValueError(f"a spread needs at least 2 samples, found {n}")
    s = float(np.std(samples, ddof=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = (s * math.sqrt((n - 1) / chi_squared_quantile(q, n - 1)) for q in (1 - tail, tail))
    return Estimate(value=s, low=low, high=high, n=n, method="chi-squared")


def next_draw_estimate(samples: Samples) -> Estimate:
    """The mean of independent normal draws, with an interval that holds one more of them. Raises ValueError if n < 2."""
    n = len(samples)
    if n < 2:
        raise ValueError(f"a spread needs at least 2 samples, found {n}")
    mean = float(np.mean(samples))
    half = t_quantile(n - 1) * float(np.std(samples, ddof=1)) * math.sqrt(1 + 1 / n)
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n, method="t, for one more draw")


def draws_mean_estimate(samples: Samples) -> Estimate:
    """The mean of independent normal draws with its t interval. Raises ValueError if n < 2."""
    one_more = next_draw_estimate(samples)
    half = one_more.half_width / math.sqrt(len(samples) + 1)
    return Estimate(value=one_more.value, low=one_more.value - half, high=one_more.value + half, n=len(samples), method="t")


def chi_squared_quantile(probability: float, dof: int) -> float:
    """The quantile of the chi-squared distribution with `dof` ≥ 1 degrees of freedom, by bisection on its closed form."""
    low, high = 0.0, 10.0 * dof + 100
    for _ in range(100):
        middle = (low + high) / 2
        if _chi_squared_below(middle, dof) < probability:
            low = middle
        else:
            high = middle
    return high


def _chi_squared_below(x: float, dof: int) -> float:
    """P(χ² < x) for whole `dof` (Abramowitz and Stegun, 26.4.4 and 26.4.5)."""
    half = x / 2
    above, term = (math.exp(-half), math.exp(-half)) if dof % 2 == 0 else (math.erfc(math.sqrt(half)), 0.0)
    for k in range(1, (dof + 1) // 2):
        if dof % 2:
            term = math.exp(-half) * math.sqrt(x) * math.sqrt(2 / math.pi) if k == 1 else term * x / (2 * k - 1)
        else:
            term *= half / k
        above += term
    return 1 - above
