"""A test of "the drop on the whole set is within the limit" that may be looked at after every sample.

The samples are visited in a random order that does not depend on the candidate. Under the hypothesis that the mean of all N
paired differences d (reference minus candidate, each at least −b) is m, the next difference has the expectation
δ = (N·m − sum so far) / (samples left), because the rest is drawn without replacement. So the capital of somebody who stakes
the share c of it, Π (1 + c·(d − δ)/(b + δ)), is a nonnegative martingale that starts at 1, and by Ville's inequality it ever
reaches 1/α with a probability of at most α, however often one looks. The capital falls where m rises, so this holds for every
mean up to m as well. Which c is best depends on the drop; the mean of the capitals over several is a martingale too.

Source: Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement" (2020) and "Estimating means of bounded
random variables by betting" (2024), sections 5 and B.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.bench.statistics import CONFIDENCE
from autotune.records import Estimate

Scores = NDArray[np.float64]
_STAKES = np.array([0.05, 0.15, 0.35, 0.6, 0.9])
"""Shares of the capital that are staked: small ones find a drop just above the limit, large ones a gross one in few samples.

Two to nine stakes over this range needed the same samples within a tenth (simulated, drops of 1.5 to 70 points).
"""
_ROUNDING = 1e-9
"""Sums of floats are off by less; a limit that is met exactly must not be rejected for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTest:
    """Whether a candidate's mean score over all samples lies more than `limit` under the reference's, judged from the first.

    `reference`, shape (N,): the reference's scores on all samples, in the order of the visit; `score_range`: the least and the
    largest score there is. A candidate within the limit is rejected before the last sample with a probability of at most
    `error_rate`, over the random order and over all looks together; after the last sample the drop is known.
    """

    reference: Scores
    score_range: tuple[float, float]
    limit: float
    error_rate: float

    def rejects(self, scores: Scores) -> bool:
        """True when the drop on all samples is above the limit. `scores`, shape (t,): of the first t samples, 0 < t ≤ N."""
        low, _ = self._certain(scores)
        if low > self.limit + _ROUNDING:
            return True
        if len(scores) == len(self.reference):
            return False
        limit = self.limit + _ROUNDING
        found = log_capital(self._differences(scores), len(self.reference), limit, self._reach_down)
        return found >= math.log(1 / self.error_rate)

    def drop(self, scores: Scores) -> Estimate:
        """The drop on the first samples, with a 95 % interval for the drop on all that holds whenever one stops.

        Where the rest of the samples cannot bear out the value, it is the nearest that they can.
        """
        differences, n = self._differences(scores), len(self.reference)
        threshold = math.log(2 / (1 - CONFIDENCE))

        def too_low(m: float) -> bool:
            return log_capital(differences, n, m, self._reach_down) >= threshold

        def too_high(m: float) -> bool:
            return log_capital(-differences, n, -m, self._reach_up) >= threshold

        least, most = self._certain(scores)
        low = _edge(least, most, too_low)
        high = _edge(most, least, too_high)
        value = min(max(float(np.mean(differences)), low), max(low, high))
        return Estimate(
            value=value,
            low=low,
            high=max(low, high),
            n=len(scores),
            method="paired, betting without replacement, valid at any stop",
        )

    def accuracy(self, scores: Scores) -> Estimate:
        """The mean score on all samples: the reference's, which is known, less the drop with its interval."""
        drop, known = self.drop(scores), float(np.mean(self.reference))
        return Estimate(
            value=known - drop.value,
            low=known - drop.high,
            high=known - drop.low,
            n=drop.n,
            method=f"the reference's less the drop: {drop.method}",
        )

    def _differences(self, scores: Scores) -> Scores:
        return self.reference[: len(scores)] - scores

    def _certain(self, scores: Scores) -> tuple[float, float]:
        """The least and the largest drop that the samples not yet seen leave possible; equal after the last."""
        n, seen = len(self.reference), float(np.sum(self._differences(scores)))
        rest = self.reference[len(scores) :]
        least, most = self.score_range
        return (seen + float(np.sum(rest - most))) / n, (seen + float(np.sum(rest - least))) / n

    @property
    def _reach_down(self) -> float:
        """How far a difference can lie below 0: by a sample that the reference scores worst and the candidate best."""
        return self.score_range[1] - float(np.min(self.reference))

    @property
    def _reach_up(self) -> float:
        return float(np.max(self.reference)) - self.score_range[0]


def log_capital(differences: Scores, n_samples: int, mean: float, reach: float) -> float:
    """Log of the largest capital so far of bets against "the mean of all `n_samples` differences is at most `mean`".

    `differences`, shape (t,), in the order of the visit, each at least −`reach`. Infinite where the hypothesis can no longer be
    true. At most an `α`th of all orders ever reaches log(1/α) under the hypothesis.
    """
    before = np.concatenate(([0.0], np.cumsum(differences)[:-1]))
    left = n_samples - np.arange(len(differences))
    room = reach + (n_samples * mean - before) / left
    possible = room > _ROUNDING
    n = len(room) if possible.all() else int(np.argmin(possible))
    if n < len(room) and (room[n] < -_ROUNDING or np.max(differences[n:]) > _ROUNDING - reach):
        return math.inf
    if n == 0:
        return 0.0
    gains = (differences[:n] + reach) / room[:n] - 1
    logs = np.cumsum(np.log1p(_STAKES[:, None] * gains), axis=1)
    most = np.max(logs, axis=0)
    return float(np.max(most + np.log(np.mean(np.exp(logs - most), axis=0))))


def _edge(outside: float, inside: float, is_excluded: Callable[[float], bool]) -> float:
    """The end of the interval between a value at its outer bound and one at the other: where `is_excluded` turns false."""
    if not is_excluded(outside):
        return outside
    for _ in range(50):
        middle = (outside + inside) / 2
        if is_excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside
