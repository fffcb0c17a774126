"""The spread of a few draws: printed quantiles, and intervals that hold what they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotune.bench.spread import (
    chi_squared_quantile,
    draws_mean_estimate,
    next_draw_estimate,
    standard_deviation_estimate,
)

ROUNDS = 2000
FOUR_SIGMA = 4 * math.sqrt(0.95 * 0.05 / ROUNDS)


@pytest.mark.parametrize(
    ("dof", "low", "high"),
    [(1, 0.000982, 5.0239), (2, 0.0506, 7.3778), (3, 0.2158, 9.3484), (4, 0.4844, 11.1433), (9, 2.7004, 19.0228)],
)
def test_chi_squared_quantiles_are_those_of_the_printed_table(dof: int, low: float, high: float) -> None:
    """2.5 % and 97.5 % as statistics books print them."""
    assert chi_squared_quantile(0.025, dof) == pytest.approx(low, abs=6e-5)
    assert chi_squared_quantile(0.975, dof) == pytest.approx(high, abs=6e-5)


def test_the_intervals_cover_as_often_as_they_claim() -> None:
    """Five normal draws with σ = 2: spread, mean and one more draw are held by 95 % of 2,000 intervals each, within 4 σ."""
    rng = np.random.default_rng(0)
    held = np.zeros(3)
    for _ in range(ROUNDS):
        draws, more = rng.normal(3, 2, size=5), rng.normal(3, 2)
        found = (standard_deviation_estimate(draws), draws_mean_estimate(draws), next_draw_estimate(draws))
        held += [e.low <= truth <= e.high for e, truth in zip(found, (2, 3, more), strict=True)]
    assert np.all(np.abs(held / ROUNDS - 0.95) <= FOUR_SIGMA)


def test_one_draw_has_no_spread() -> None:
    """Fewer than two draws are refused, not called a spread of zero; two equal ones have none."""
    for estimate in (standard_deviation_estimate, next_draw_estimate, draws_mean_estimate):
        with pytest.raises(ValueError, match="at least 2"):
            estimate(np.ones(1))
    assert standard_deviation_estimate(np.ones(2)).high == 0
