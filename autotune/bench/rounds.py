"""Configurations measured in rounds, each time in a fresh process: throughput, differences, the spread between processes.

The model: log throughput (or latency, or energy) = configuration + round + noise. What disturbs a whole round (heat, a
neighbour) moves every configuration in it alike, so it drops out of a difference; it stays in the interval of one value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from autotune.bench.statistics import t_quantile
from autotune.records import Estimate

_Name = TypeVar("_Name", bound=Hashable)
Rates = Mapping[Hashable, float]
"""Items per second of one configuration by round, or its latency or energy in one unit; each above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Standard deviation of log throughput between fresh processes of one configuration, and its degrees of freedom, ≥ 1.

    `own_sd`: how much of it is noise inside the processes, on the same scale: the standard error that each by itself shows.
    """

    relative_sd: float
    dof: int
    own_sd: float = 0.0


def pooled_spread(found: Mapping[_Name, Rates], own_sd: Sequence[float] = ()) -> Spread | None:
    """The spread that all configurations share; None where none was measured twice.

    `own_sd`: the relative standard error that each process by itself shows; their mean square is the spread's.
    Configurations of one round are disturbed together and so are not independent: the degrees of freedom are Satterthwaite's
    (1946) for the mean squares between rounds and within them.
    """
    deviations = [
        (key, math.log(rate) - mean)
        for rates in found.values()
        if len(rates) > 1
        for mean in [float(np.mean(np.log(list(rates.values()))))]
        for key, rate in rates.items()
    ]
    n_groups = sum(len(rates) > 1 for rates in found.values())
    dof = len(deviations) - n_groups
    if dof < 1:
        return None
    by_round: dict[Hashable, list[float]] = {}
    for key, deviation in deviations:
        by_round.setdefault(key, []).append(deviation)
    total = sum(d * d for _, d in deviations)
    between = sum(sum(ds) ** 2 / len(ds) for ds in by_round.values())
    dof_between = min(len(by_round) - 1, dof)
    dof_within = dof - dof_between
    rest = max(0.0, total - between)
    parts = [(between / dof, dof_between), (rest / dof, dof_within)]
    spread_of_variance = sum(part * part / d for part, d in parts if d > 0)
    variance = sum(part for part, d in parts if d > 0)
    effective = variance * variance / spread_of_variance if spread_of_variance > 0 else dof
    within = math.sqrt(sum(sd * sd for sd in own_sd) / len(own_sd)) if own_sd else 0.0
    return Spread(relative_sd=math.sqrt(total / dof), dof=max(1, int(effective)), own_sd=within)


def repeated_estimate(rates: Rates, spread: Spread) -> Estimate:
    """Throughput over fresh processes, with an interval that holds what one more process would measure (95 %).

    The geometric mean of k processes is off by 1/√k of the spread and one more process by all of it. Raises ValueError where
    there are no rates.
    """
    k = len(rates)
    if k == 0:
        raise ValueError("a throughput over no processes does not exist")
    mean = float(np.mean(np.log(list(rates.values()))))
    half = t_quantile(spread.dof) * spread.relative_sd * math.sqrt(1 + 1 / k)
    method = f"{k} fresh processes; spread pooled, {spread.dof} degrees of freedom"
    return Estimate(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), n=k, method=method)


class RoundsFit:
    """The model of the module fitted by least squares, so that configurations may lack in some rounds."""

    def __init__(self, found: Mapping[_Name, Rates]) -> None:
        rounds = list(dict.fromkeys(key for rates in found.values() for key in rates))
        self._names: list[Hashable] = list(found)
        rows = [(i, rounds.index(key), math.log(rate)) for i, rates in enumerate(found.values()) for key, rate in rates.items()]
        design = np.zeros((len(rows), len(self._names) + len(rounds)))
        for n, (i, j, _) in enumerate(rows):
            design[n, i] = design[n, len(self._names) + j] = 1.0
        y = np.array([value for _, _, value in rows], dtype=np.float64)
        self._inverse = np.linalg.pinv(design.T @ design)
        self._design = design
        self._effects = self._inverse @ design.T @ y
        residuals = y - design @ self._effects
        self.dof = len(rows) - int(np.linalg.matrix_rank(design)) if rows else 0
        self._variance = float(residuals @ residuals) / self.dof if self.dof > 0 else math.nan

    def difference(self, a: Hashable, b: Hashable) -> Estimate | None:
        """log(throughput of a / throughput of b) with its 95 % t interval; None where the rounds do not tell them apart."""
        if a not in self._names or b not in self._names or self.dof < 1:
            return None
        contrast = np.zeros(self._design.shape[1])
        contrast[self._names.index(a)] += 1.0
        contrast[self._names.index(b)] -= 1.0
        # A contrast that the rounds cannot tell (no chain of common rounds between the two) lies outside the design's rows.
        projected = contrast @ self._inverse @ (self._design.T @ self._design)
        if not np.allclose(projected, contrast, atol=1e-6):
            return None
        value = float(contrast @ self._effects)
        half = t_quantile(self.dof) * math.sqrt(max(0.0, float(contrast @ self._inverse @ contrast)) * self._variance)
        return Estimate(value=value, low=value - half, high=value + half, n=self.dof + 1, method="paired within rounds")
