"""Which of two trials is better, as far as the measurements can tell: the rule behind ties, finalists and the best.

Trials that were measured in the same rounds are compared within the rounds; others by their intervals. See docs/decisions/0007.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotune.bench.rounds import Rates, RoundsFit
from autotune.records import Estimate, TrialRecord
from autotune.study.objectives import Objective

_LEAST_DOF = 2
"""With one degree of freedom Student's t is 12.7: rounds so few tell nothing, and intervals that know more have to do."""


class Comparison:
    """The comparison of the trials of one study, at one state of knowledge.

    A trial under two regimes counts as two configurations, since a change of the machine hits some harder than others; the
    noise is learnt from all of them.
    """

    def __init__(self, records: Sequence[TrialRecord]) -> None:
        self._regimes = sorted({p.regime for r in records for p in r.repetitions}, reverse=True)
        rates = {_name(r, regime): _rates(r, regime) for r in records for regime in self._regimes}
        self._fit = RoundsFit({key: found for key, found in rates.items() if found})

    def is_better(self, a: TrialRecord, b: TrialRecord, objective: Objective) -> bool:
        """True when `a` is better than `b` beyond what noise explains; where the objective has no interval, by its value."""
        x, y = objective.read(a), objective.read(b)
        if x is None or y is None:
            return False
        if objective.of_throughput:
            paired = self._paired(a, b)
            if paired is not None:
                return paired.low > 0
        sign = 1 if objective.maximize else -1
        return sign * (x - y) > self._slack(a, b, objective)

    def is_tie(self, a: TrialRecord, b: TrialRecord, objective: Objective) -> bool:
        """True when neither is better than the other."""
        return not (self.is_better(a, b, objective) or self.is_better(b, a, objective))

    def are_tied(self, a: TrialRecord, b: TrialRecord, objectives: Sequence[Objective]) -> bool:
        """True when neither is better than the other in any objective."""
        return all(self.is_tie(a, b, o) for o in objectives)

    def _paired(self, a: TrialRecord, b: TrialRecord) -> Estimate | None:
        """The log ratio of their throughputs under the newest regime in which rounds compare them."""
        if self._fit.dof < _LEAST_DOF:
            return None
        found = (self._fit.difference(_name(a, regime), _name(b, regime)) for regime in self._regimes)
        return next((d for d in found if d is not None), None)

    @staticmethod
    def _slack(a: TrialRecord, b: TrialRecord, objective: Objective) -> float:
        """The two intervals' combined half-width, on the objective's scale."""
        found = objective.estimate(a), objective.estimate(b)
        return math.hypot(*(_half_width(e) for e in found))


def _name(record: TrialRecord, regime: int) -> tuple[str, int, int]:
    return (record.role, record.number, regime)


def _half_width(estimate: Estimate | None) -> float:
    return 0.0 if estimate is None else estimate.half_width


def _rates(record: TrialRecord, regime: int) -> Rates:
    """Items per second by round, of the finalists' rounds under that regime."""
    return {
        p.round: p.throughput_items_per_s.value
        for p in record.repetitions
        if p.role == "final" and p.regime == regime and p.throughput_items_per_s and p.throughput_items_per_s.value > 0
    }
