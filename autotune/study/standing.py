"""Where a study stands: its front, ties and best, found on columns, so that only the trials that matter are read whole.

The rules are those of `scoring`, which take records; a test holds the two together on random studies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.pareto import front_mask
from autotune.records import TrialRecord
from autotune.spec.model import StudySpec
from autotune.store.outcomes import Column, Outcomes
from autotune.store.repository import Store
from autotune.study.comparison import Comparison
from autotune.study.objectives import THROUGHPUT, Objective, objective_named, objectives_of
from autotune.study.scoring import best, best_ties, front, is_repeated, often_repeated, preferred, top_of
from autotune.study.warm_start import FLAG, WarmStartGain, gain_of, origins_in

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
_PERCENTILES = ("latency_p99", "latency_p95", "latency_p90", "latency_p50")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """One objective of every trial, shape (n,), signs turned so that more is better; NaN where it was not measured."""

    value: Array
    half_width: Array

    def tells(self, i: int) -> Mask:
        """Which trials differ from trial `i` beyond what noise explains, where no rounds compare them."""
        beyond: Mask = np.abs(self.value - self.value[i]) > np.hypot(self.half_width, self.half_width[i])
        return beyond

    def better(self, i: int) -> Mask:
        """Which trials are better than trial `i` beyond what noise explains, where no rounds compare them."""
        beyond: Mask = self.value - self.value[i] > np.hypot(self.half_width, self.half_width[i])
        return beyond


class Standing:
    """What the finished search trials of a study amount to now. Not safe for threads."""

    def __init__(self, store: Store, study_id: int, spec: StudySpec, prefer: str = "") -> None:
        self._store, self._study_id, self._spec = store, study_id, spec
        self.outcomes: Outcomes = store.outcomes(study_id, _metrics_of(spec, prefer))

    def __len__(self) -> int:
        return len(self.outcomes)

    @cached_property
    def feasible(self) -> Mask:
        """As `scoring.is_feasible`, shape (n,)."""
        found = self.outcomes
        return found.complete & ~found.failed_again & ~_violated(found, self._spec)

    @cached_property
    def front(self) -> list[TrialRecord]:
        """As `scoring.front`."""
        return front(self._whole(self._deciding()), self._spec)

    def repeated(self) -> list[TrialRecord]:
        """The feasible trials that were measured again as finalists, and one of the newest regime: what a front depends on."""
        usable = self.feasible & self._measured(objectives_of(self._spec))
        return self._whole(self.outcomes.number[(usable & self.outcomes.repeated) | self._witness(usable)])

    def ties(self) -> dict[int, list[int]]:
        """As `scoring.ties_of` for the front."""
        objectives = objectives_of(self._spec)
        usable = self._present(self.feasible & self._measured(objectives))
        return self._tied(self.front, usable, objectives)

    def best_ties(self, prefer: str = "") -> list[int]:
        """As `scoring.best_ties`, by number."""
        objective = objective_named(prefer or preferred(self._spec), self._spec)
        usable = self._present(self.feasible & self._measured([objective]))
        if not (usable & self.outcomes.repeated).any():
            return [int(n) for n in self.outcomes.number[self._unrepeated_ties(usable, objective)]]
        return sorted(r.number for r in best_ties(self._choice(usable, objective), self._spec, prefer))

    def best(self, prefer: str = "") -> TrialRecord | None:
        """As `scoring.best`."""
        objective = objective_named(prefer or preferred(self._spec), self._spec)
        usable = self._present(self.feasible & self._measured([objective]))
        return best(self._choice(usable, objective), self._spec, prefer)

    def _choice(self, usable: Mask, objective: Objective) -> list[TrialRecord]:
        """The trials from which `scoring.best` takes the same one as from all, and `best_ties` once any was repeated."""
        axis, repeated = self._axis(objective), usable & self.outcomes.repeated
        if repeated.any():
            again = [r for r in self._repeated_records if repeated[self._at(r.number)]]
            leader = top_of(often_repeated(again, self._spec), objective, Comparison(again))
            chosen = repeated | (usable & axis.better(self._at(leader.number)))
        elif usable.any():
            ties, top = self._unrepeated_ties(usable, objective), axis.value[_highest(axis.value, usable)]
            chosen = ties & (axis.value >= top - _NEARLY * np.abs(top))
        else:
            return []
        return self._whole(self.outcomes.number[chosen | self._witness(usable)])

    def _unrepeated_ties(self, usable: Mask, objective: Objective) -> Mask:
        """Which of these differ from the best of them by no more than their intervals explain, shape (n,)."""
        axis = self._axis(objective)
        return usable & ~axis.tells(_highest(axis.value, usable)) if usable.any() else usable

    def n_rounds(self) -> list[int]:
        """In how many rounds each trial that was measured again as a finalist was so, feasible or not."""
        rounds = [sum(p.role == "final" for p in r.repetitions) for r in self._again]
        return [n for n in rounds if n]

    def n_repetitions(self) -> int:
        """How often search trials were measured again."""
        return sum(len(r.repetitions) for r in self._again)

    def rates(self) -> dict[int, float]:
        """Reported throughput of every feasible trial that has one, items/s, by number."""
        rate = self.outcomes.measured[THROUGHPUT].value
        which = self.feasible & np.isfinite(rate)
        return dict(zip(map(int, self.outcomes.number[which]), map(float, rate[which]), strict=True))

    def contending(self, n: int) -> list[TrialRecord]:
        """The trials among which finalists are chosen: of every regime the front and the `n` best, all that were repeated, and
        the last few. What is slower than these in its own regime is so at any speed of the machine.
        """
        objectives = objectives_of(self._spec)
        usable = self.feasible & self._measured(objectives)
        axes, best = [self._axis(o) for o in objectives], self._axis(objective_named(preferred(self._spec), self._spec))
        chosen = self.outcomes.repeated | self.outcomes.failed_again
        chosen[-_LAST:] = True
        for regime in np.unique(self.outcomes.regime[usable]):
            those = usable & (self.outcomes.regime == regime)
            chosen |= _undominated(axes, those)
            ranked = np.argsort(np.where(those, -best.value, np.inf), kind="stable")
            chosen[ranked[: min(n, int(those.sum()))]] = True
        return self._whole(self.outcomes.number[chosen])

    def warm_start(self) -> WarmStartGain | None:
        """As `warm_start.warm_start_gain`."""
        origins = origins_in(self._store.flagged(self._study_id, FLAG))
        if not origins:
            return None
        top = self.best()
        rate = top.throughput_items_per_s if top is not None else None
        return gain_of(origins, map(int, self.outcomes.number), self.rates(), rate.value if rate else None)

    def worst(self) -> list[TrialRecord]:
        """For each objective a trial in which it is worst, of all that were measured."""
        numbers = set()
        for objective in objectives_of(self._spec):
            value = self._axis(objective).value
            if np.isfinite(value).any():
                numbers.add(int(self.outcomes.number[np.nanargmin(value)]))
        return self._whole(numbers)

    def _deciding(self) -> NDArray[np.int64]:
        """Numbers of the trials from which `scoring.front` makes the same front as from all."""
        objectives = objectives_of(self._spec)
        comparable = self.feasible & self._measured(objectives)
        usable = self._present(comparable)
        axes = [self._axis(o) for o in objectives]
        repeated = usable & self.outcomes.repeated
        kept = _undominated(axes, repeated if repeated.any() else usable)
        chosen = repeated | kept
        if repeated.any():
            new = usable & ~repeated
            for i in np.flatnonzero(kept):
                new &= np.any([axis.better(int(i)) for axis in axes], axis=0)
            chosen |= new
        return self.outcomes.number[chosen | self._witness(comparable)]

    def _witness(self, usable: Mask) -> Mask:
        """One usable trial of the newest regime, so that whoever sees a part only knows which regime that is."""
        found = np.zeros(len(usable), dtype=bool)
        if usable.any():
            found[np.argmax(np.where(usable, self.outcomes.regime, 0))] = True
        return found

    def _present(self, usable: Mask) -> Mask:
        """As `scoring.of_present_regime`."""
        if not usable.any():
            return usable
        newest = int(np.max(self.outcomes.regime[usable]))
        since = any(
            p.role == "final" and p.regime == newest and p.throughput_items_per_s
            for r in self._repeated_records
            if usable[self._at(r.number)]
            for p in r.repetitions
        )
        return usable & (self.outcomes.regime == newest) if since else usable

    @cached_property
    def _again(self) -> list[TrialRecord]:
        return self._whole(self.outcomes.number[self.outcomes.repeated | self.outcomes.failed_again])

    @cached_property
    def _repeated_records(self) -> list[TrialRecord]:
        return [r for r in self._again if is_repeated(r)]

    def _tied(self, members: Sequence[TrialRecord], usable: Mask, objectives: Sequence[Objective]) -> dict[int, list[int]]:
        """For each member, by number: the other usable trials that no objective tells apart from it."""
        again = {r.number: r for r in self._repeated_records if usable[self._at(r.number)]}
        comparison, axes = Comparison(list(again.values())), [self._axis(o) for o in objectives]
        found = {}
        for member in members:
            at = self._at(member.number)
            same = usable & ~np.any([axis.tells(at) for axis in axes], axis=0)
            same[at] = False
            if member.number in again:
                for number, other in again.items():
                    same[self._at(number)] = number != member.number and comparison.are_tied(member, other, objectives)
            found[member.number] = [int(n) for n in self.outcomes.number[same]]
        return found

    def _at(self, number: int) -> int:
        return int(np.searchsorted(self.outcomes.number, number))

    def _measured(self, objectives: Sequence[Objective]) -> Mask:
        found: Mask = np.all([np.isfinite(self._axis(o).value) for o in objectives], axis=0)
        return found

    def _axis(self, objective: Objective) -> _Axis:
        found = self.outcomes
        if objective.name == "memory":
            return _Axis(value=-found.peak_memory_mib, half_width=np.zeros(len(found)))
        column = found.measured[objective.metric]
        if objective.name == "cost":
            column = _cost(column, self._spec.price_per_hour or 0.0)
        half = np.nan_to_num((column.high - column.low) / 2) if objective.has_interval else np.zeros(len(found))
        return _Axis(value=column.value if objective.maximize else -column.value, half_width=half)

    def _whole(self, numbers: Collection[int] | NDArray[np.int64]) -> list[TrialRecord]:
        return self._store.numbered(self._study_id, [int(n) for n in numbers])


_LAST = 16
_NEARLY = 0.1
"""More than what `scoring.best` lets a simpler trial cost, so that it sees all it may choose from."""


def _metrics_of(spec: StudySpec, prefer: str) -> list[str]:
    """The estimates on which the study's constraints and objectives depend."""
    found = ["accuracy", "accuracy_drop", THROUGHPUT]
    found += [objective_named(name, spec).metric for name in (*spec.objectives, prefer) if name not in ("", "memory")]
    found += _PERCENTILES if spec.constraints.latency_p99_ms is not None else ()
    found += ["within_slo"] if spec.load.slo_ms is not None else []
    return list(dict.fromkeys(found))


def _violated(found: Outcomes, spec: StudySpec) -> Mask:
    """As `scoring.violations` above 0 in any constraint; what was not measured violates nothing."""
    limits, rate = spec.constraints, found.measured[THROUGHPUT].value
    broken = np.zeros(len(found), dtype=bool)
    if limits.accuracy_drop is not None:
        broken |= found.measured["accuracy_drop"].value > limits.accuracy_drop
    if limits.accuracy is not None:
        broken |= found.measured["accuracy"].value < limits.accuracy
    if limits.latency_p99_ms is not None:
        tail = np.full(len(found), np.nan)
        for name in _PERCENTILES:
            tail = np.where(np.isnan(tail), found.measured[name].value, tail)
        broken |= tail > limits.latency_p99_ms
    if spec.load.slo_ms is not None and spec.load.searches_rate:
        broken |= np.isfinite(found.slo_percentile) & (rate <= 0)
    elif spec.load.slo_ms is not None:
        broken |= found.measured["within_slo"].value < found.slo_percentile / 100
    if limits.throughput is not None:
        broken |= rate < limits.throughput
    if limits.memory_mib is not None:
        broken |= found.peak_memory_mib > limits.memory_mib
    return broken


def _cost(rate: Column, price_per_hour: float) -> Column:
    """As the objective of that name: the price of a million items; no interval where the rate's reaches 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value, low, high = (
            np.where(end > 0, price_per_hour / 3600 / end * 1e6, np.nan) for end in (rate.value, rate.high, rate.low)
        )
    return Column(value=value, low=low, high=high)


def _undominated(axes: Sequence[_Axis], which: Mask) -> Mask:
    found = np.zeros(len(which), dtype=bool)
    found[which] = front_mask(np.stack([axis.value[which] for axis in axes], axis=1))
    return found


def _highest(value: Array, which: Mask) -> int:
    """The first of the largest among these."""
    return int(np.argmax(np.where(which, value, -np.inf)))
