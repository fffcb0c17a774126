"""Expected hypervolume improvement of independent normal or log-normal predictions, exact for any number of objectives.

The front's coordinates cut the space beyond the corner into cells. A cell that nothing of the front dominates is gained in so
far as the new point dominates it: in one objective, the expected length of [a, b] below Y is E[min(Y, b)] − E[min(Y, a)], and
as the objectives are independent the lengths multiply. All objectives are to be maximized.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.pareto import front_mask

Array = NDArray[np.float64]
_MOST_CELLS = 40_000
_LEAST_SD = 1e-12


@dataclass(frozen=True, slots=True)
class Prediction:
    """One objective of n candidates: `mean` and `sd`, shape (n,), of the value, or of its logarithm with `log`.

    `minimize` turns the sign, so that more is better of what the improvement sees.
    """

    mean: Array
    sd: Array
    log: bool = False
    minimize: bool = False

    def expected_min(self, limit: float) -> Array:
        """E[min(Y, limit)] of each candidate, Y with its sign turned; E[Y] for an infinite limit."""
        if not self.minimize:
            return self._expected_min(limit)
        # min(−V, t) = −max(V, −t), and max(V, s) + min(V, s) = V + s.
        whole = self._expected_min(math.inf)
        return -whole if math.isinf(limit) else limit - whole + self._expected_min(-limit)

    def _expected_min(self, limit: float) -> Array:
        sd = np.maximum(self.sd, _LEAST_SD)
        if self.log:
            whole = np.exp(self.mean + 0.5 * sd * sd)
            if math.isinf(limit):
                return whole
            if limit <= 0:
                return np.full_like(self.mean, limit)
            z = (math.log(limit) - self.mean) / sd
            below: Array = whole * normal_cdf(z - sd) + limit * normal_cdf(-z)
            return below
        if math.isinf(limit):
            return self.mean
        z = (limit - self.mean) / sd
        found: Array = self.mean * normal_cdf(z) + limit * normal_cdf(-z) - sd * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return found


def normal_cdf(z: Array) -> Array:
    """Φ(z) to 1.5e-7 (Abramowitz and Stegun 7.1.26), since numpy has no error function."""
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    upper = 0.5 * series * np.exp(-np.minimum(x * x, 700.0))
    found: Array = np.where(z > 0, 1 - upper, upper)
    return found


def expected_improvement(front: Array, corner: Array, predictions: Sequence[Prediction]) -> Array:
    """The volume beyond `corner`, shape (m,), that each candidate is expected to add to `front`, shape (k, m); shape (n,).

    Points of the front that do not lie beyond the corner are ignored. Where the front is so large that the cells would be
    many, it is thinned, which only makes the improvement look a little larger.
    """
    inside = front[np.all(front > corner, axis=1)] if len(front) else np.zeros((0, len(corner)))
    inside = _thinned(inside[front_mask(inside)], len(corner))
    edges = [np.unique(np.append(inside[:, i], corner[i])) for i in range(len(corner))]
    lengths = [_lengths(prediction, cut) for prediction, cut in zip(predictions, edges, strict=True)]
    free = np.ones(tuple(len(cut) for cut in edges), dtype=bool)
    for point in inside:
        # The cells whose lower corner the point exceeds in every objective are dominated by it.
        free[tuple(slice(0, int(np.searchsorted(cut, value))) for cut, value in zip(edges, point, strict=True))] = False
    volume = free.astype(np.float64)
    found: Array = np.tensordot(lengths[0], volume, axes=(1, 0))
    for length in lengths[1:]:
        found = np.einsum("nk,nk...->n...", length, found)
    gained: Array = np.maximum(found, 0.0)
    return gained


def _lengths(prediction: Prediction, cut: Array) -> Array:
    """The expected length of every cell's side below each candidate, shape (n, cells); the last cell has no end."""
    steps = [prediction.expected_min(float(edge)) for edge in cut] + [prediction.expected_min(math.inf)]
    lengths: Array = np.maximum(np.diff(np.stack(steps, axis=1), axis=1), 0.0)
    return lengths


def _thinned(front: Array, m: int) -> Array:
    most = max(2, int(_MOST_CELLS ** (1 / m)) - 1)
    if len(front) <= most:
        return front
    order = np.argsort(front[:, 0])
    thinned: Array = front[order[np.linspace(0, len(front) - 1, most).round().astype(int)]]
    return thinned
