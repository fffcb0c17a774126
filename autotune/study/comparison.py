"""Which of two trials is better, as far as the measurements can tell: the rule behind ties, finalists and the best.

Trials that were measured in the same rounds are compared within the rounds; others by their intervals. See docs/decisions/0007.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotune.bench.rounds import Rates, RoundsFit
from autotune.records import LOADED, Estimate, TrialRecord, loaded
from autotune.study.objectives import THROUGHPUT, Objective

_LEAST_DOF = 2
"""With one degree of freedom Student's t is 12.7: rounds so few tell nothing, and intervals that know more have to do."""


class Comparison:
    """The comparison of the trials of one study, at one state of knowledge.

    A trial under two regimes counts as two configurations, since a change of the machine hits some harder than others; the
    noise is learnt from all of them.
    """

    def __init__(self, records: Sequence[TrialRecord]) -> None:
        self._repeated = [r for r in records if r.repetitions]
        self._regimes = sorted({p.regime for r in self._repeated for p in r.repetitions}, reverse=True)
        self._fits: dict[str, RoundsFit] = {}

    def is_better(self, a: TrialRecord, b: TrialRecord, objective: Objective) -> bool:
        """True when `a` is better than `b` beyond what noise explains; where the objective has no interval, by its value."""
        x, y = objective.read(a), objective.read(b)
        if x is None or y is None:
            return False
        if objective.metric in LOADED:
            paired = self._paired(a, b, objective.metric)
            if paired is not None:
                return paired.low > 0 if objective.metric == THROUGHPUT else paired.high < 0
        sign = 1 if objective.maximize else -1
        return sign * (x - y) > self._slack(a, b, objective)

    def is_tie(self, a: TrialRecord, b: TrialRecord, objective: Objective) -> bool:
        """True when neither is better than the other."""
        return not (self.is_better(a, b, objective) or self.is_better(b, a, objective))

    def behind(self, a: TrialRecord, b: TrialRecord, objective: Objective) -> float:
        """By which part of the value of `b` trial `a` is worse, below 0 where it is better; in rounds where these compare them.

        Rounds differ, so that the mean of a fast one flatters whoever was in no other.
        """
        if objective.metric in LOADED and (paired := self._paired(a, b, objective.metric)) is not None:
            return -math.expm1(paired.value if objective.metric == THROUGHPUT else -paired.value)
        x, y = float(objective.read(a) or 0.0), float(objective.read(b) or 0.0)
        return (1 if objective.maximize else -1) * (y - x) / (abs(y) or 1.0)

    def at_most_behind(self, a: TrialRecord, b: TrialRecord, objective: Objective) -> float | None:
        """The upper end of the 95 % interval of `behind`; None where no rounds compare the two."""
        paired = self._paired(a, b, objective.metric) if objective.metric in LOADED else None
        return None if paired is None else -math.expm1(paired.low if objective.metric == THROUGHPUT else -paired.high)

    def are_tied(self, a: TrialRecord, b: TrialRecord, objectives: Sequence[Objective]) -> bool:
        """True when neither is better than the other in any objective."""
        return all(self.is_tie(a, b, o) for o in objectives)

    def _paired(self, a: TrialRecord, b: TrialRecord, metric: str) -> Estimate | None:
        """The log ratio of their values under the newest regime in which rounds compare them."""
        if not (a.repetitions and b.repetitions):
            return None
        fit = self._fit_of(metric)
        if fit.dof < _LEAST_DOF:
            return None
        found = (fit.difference(_name(a, regime), _name(b, regime)) for regime in self._regimes)
        return next((d for d in found if d is not None), None)

    def _fit_of(self, metric: str) -> RoundsFit:
        if metric not in self._fits:
            values = {_name(r, regime): _by_round(r, regime, metric) for r in self._repeated for regime in self._regimes}
            self._fits[metric] = RoundsFit({key: found for key, found in values.items() if found})
        return self._fits[metric]

    @staticmethod
    def _slack(a: TrialRecord, b: TrialRecord, objective: Objective) -> float:
        """The two intervals' combined half-width, on the objective's scale."""
        found = objective.estimate(a), objective.estimate(b)
        return math.hypot(*(_half_width(e) for e in found))


def _name(record: TrialRecord, regime: int) -> tuple[str, int, int]:
    return (record.role, record.number, regime)


def _half_width(estimate: Estimate | None) -> float:
    return 0.0 if estimate is None else estimate.half_width


def _by_round(record: TrialRecord, regime: int, metric: str) -> Rates:
    """The metric's value by round, of the finalists' rounds under that regime."""
    return {
        p.round: found.value
        for p in record.repetitions
        if p.role == "final" and p.regime == regime and (found := loaded(p, metric)) and found.value > 0
    }
