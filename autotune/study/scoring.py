"""What a record means to the search: objective values, constraint violations, and whether it may stand in the front."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from autotune.pareto import front_mask
from autotune.records import FAILED_AGAIN, Repetition, TrialRecord
from autotune.spec.model import LoadSpec, StudySpec
from autotune.study.comparison import Comparison
from autotune.study.objectives import Objective, objective_named, objectives_of


def violations(record: TrialRecord, spec: StudySpec) -> dict[str, float]:
    """Relative violation of every constraint the study has, always the same keys in the same order; above 0 is violated.

    "runs" is 1 for a trial without a result and −1 otherwise. What was not measured counts as 0, neither kept nor broken,
    because "runs" already says it.
    """
    limits = spec.constraints
    found = {"runs": -1.0 if record.state == "complete" else 1.0}
    drop = record.accuracy_drop.value if record.accuracy_drop else None
    accuracy = record.accuracy.value if record.accuracy else None
    rate = record.throughput_items_per_s.value if record.throughput_items_per_s else None
    if limits.accuracy_drop is not None:
        found["accuracy_drop"] = 0.0 if drop is None else drop_violation(drop, limits.accuracy_drop)
    if limits.accuracy is not None:
        found["accuracy"] = 0.0 if accuracy is None else (limits.accuracy - accuracy) / max(abs(limits.accuracy), 1e-9)
    if limits.latency_p99_ms is not None:
        tail = _least_p99_ms(record)
        found["latency_p99_ms"] = 0.0 if tail is None else (tail - limits.latency_p99_ms) / limits.latency_p99_ms
    if spec.load.slo_ms is not None:
        found["slo"] = _slo_violation(record, spec.load)
    if limits.throughput is not None:
        found["throughput"] = 0.0 if rate is None else (limits.throughput - rate) / limits.throughput
    if limits.memory_mib is not None:
        peak = record.peak_memory_mib
        found["memory_mib"] = 0.0 if peak is None else (peak - limits.memory_mib) / limits.memory_mib
    return found


def drop_violation(drop: float, limit: float) -> float:
    """By what part of the limit an accuracy drop exceeds it."""
    return (drop - limit) / max(limit, 1e-3)


def _slo_violation(record: TrialRecord, load: LoadSpec) -> float:
    """How far the share of requests within the load's SLO misses its percentile, as a part of that.

    Where the arrival rate was searched for, the SLO is kept at the rate that was found, unless there was none.
    """
    if record.load is None or record.load.slo_percentile is None:
        return 0.0
    if load.searches_rate:
        rate = record.throughput_items_per_s
        return 0.0 if rate is None else -1.0 if rate.value > 0 else 1.0
    wanted, within = record.load.slo_percentile / 100, record.load.within_slo
    return 0.0 if within is None else (wanted - within.value) / wanted


def _least_p99_ms(record: TrialRecord) -> float | None:
    """The p99, or where the sample was too small for one the highest percentile there is, which p99 cannot be below."""
    for found in (record.latency_ms.p99, record.latency_ms.p95, record.latency_ms.p90, record.latency_ms.p50):
        if found is not None:
            return found.value
    return None


def is_feasible(record: TrialRecord, spec: StudySpec) -> bool:
    """True when the trial has a result, also each time it was repeated, and breaks no constraint."""
    runs = record.state == "complete" and FAILED_AGAIN not in record.flags
    return runs and all(v <= 0 for v in violations(record, spec).values())


def objective_values(record: TrialRecord, spec: StudySpec, known: Sequence[TrialRecord]) -> list[float]:
    """One finite number per objective. What was not measured gets the worst value among `known`, and 0 before there is any.

    A large penalty instead would stretch the scale that a Gaussian process learns on.
    """
    values = []
    for objective in objectives_of(spec):
        found = objective.read(record)
        if found is None:
            others = [v for r in known if (v := objective.read(r)) is not None]
            found = (min(others) if objective.maximize else max(others)) if others else 0.0
        values.append(float(found))
    return values


WORTH_SIMPLICITY = 0.03
"""What a simpler configuration may cost of the best value: below the 5 % that two studies are to agree within."""


def comparable(records: Sequence[TrialRecord], spec: StudySpec) -> list[TrialRecord]:
    """The feasible trials in which every objective was measured."""
    return [r for r in records if is_feasible(r, spec) and all(o.read(r) is not None for o in objectives_of(spec))]


def front(records: Sequence[TrialRecord], spec: StudySpec) -> list[TrialRecord]:
    """The feasible trials that no other feasible trial dominates, fastest first where throughput is an objective.

    Once finalists were measured again they make the front, and another trial joins it only where it is better than each of them
    in some objective beyond noise: what was measured once and chosen for being fast is not set against what was measured often.
    """
    usable = of_present_regime(comparable(records, spec))
    if not usable:
        return []
    repeated = [r for r in usable if is_repeated(r)]
    kept = _undominated(repeated or usable, spec)
    if repeated:
        comparison, objectives = Comparison(usable), objectives_of(spec)
        others = [r for r in usable if not is_repeated(r)]
        new = [r for r in others if all(any(comparison.is_better(r, k, o) for o in objectives) for k in kept)]
        kept = _undominated([*kept, *new], spec)
    return sorted(kept, key=lambda r: -(r.throughput_items_per_s.value if r.throughput_items_per_s else 0.0))


def _undominated(records: Sequence[TrialRecord], spec: StudySpec) -> list[TrialRecord]:
    return [r for r, keep in zip(records, front_mask(points_of(records, spec)), strict=True) if keep]


def of_present_regime(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Without trials that last ran before the machine changed, once finalists were measured since: nothing compares both."""
    newest = max((r.regime for r in records), default=1)
    since = any(p.role == "final" and p.regime == newest and p.throughput_items_per_s for r in records for p in r.repetitions)
    return [r for r in records if r.regime == newest] if since else list(records)


def is_repeated(record: TrialRecord) -> bool:
    """True when the trial's candidate was measured again as a finalist."""
    return bool(_as_finalist(record))


def _as_finalist(record: TrialRecord) -> list[Repetition]:
    return [p for p in record.repetitions if p.role == "final" and p.throughput_items_per_s is not None]


def often_repeated(records: Sequence[TrialRecord], spec: StudySpec) -> list[TrialRecord]:
    """Those that were measured again in at least half as many finalists' rounds as any of them, under the regime of each.

    What the best has beyond the study's `finalists.rounds` is for its precision, and makes no other's rounds too few.
    """
    rounds = {r.number: sum(p.regime == r.regime for p in _as_finalist(r)) for r in records if is_repeated(r)}
    most = min(max(rounds.values(), default=0), max(1, spec.finalists.rounds))
    return [r for r in records if r.number in rounds and 2 * rounds[r.number] >= most]


def ties_of(members: Sequence[TrialRecord], records: Sequence[TrialRecord], spec: StudySpec) -> dict[int, list[int]]:
    """For each member, by number: the other feasible trials that differ from it in no objective beyond what noise explains."""
    usable, objectives = of_present_regime(comparable(records, spec)), objectives_of(spec)
    comparison = Comparison(usable)
    return {
        m.number: [r.number for r in usable if r.number != m.number and comparison.are_tied(m, r, objectives)] for m in members
    }


def points_of(records: Sequence[TrialRecord], spec: StudySpec) -> NDArray[np.float64]:
    """Objective values of fully measured records, shape (n, m), signs turned so that more is better."""
    objectives = objectives_of(spec)
    return np.array([[(1 if o.maximize else -1) * float(o.read(r) or 0.0) for o in objectives] for r in records])


def best(records: Sequence[TrialRecord], spec: StudySpec, prefer: str = "") -> TrialRecord | None:
    """The feasible trial that is best in `prefer` (default: throughput, or the last objective); of ties the simplest.

    Of those ties, though, that are at most 3 % worse by what was measured: where that is little much ties, and simplicity is
    not worth more.
    """
    objective = objective_named(prefer or preferred(spec), spec)
    ties, comparison = _ties(records, spec, objective)
    if not ties:
        return None
    top = top_of(ties, objective, comparison)
    return min((r for r in ties if comparison.behind(r, top, objective) <= WORTH_SIMPLICITY), key=_complexity)


def best_ties(records: Sequence[TrialRecord], spec: StudySpec, prefer: str = "") -> list[TrialRecord]:
    """The trials among which no measurement can say which is best in `prefer`; empty where nothing is feasible.

    Those that were measured again, in at least half as many rounds as any, stand for all, unless another is better than the
    best of them beyond noise: one round may have been a lucky one.
    """
    return _ties(records, spec, objective_named(prefer or preferred(spec), spec))[0]


def _ties(records: Sequence[TrialRecord], spec: StudySpec, objective: Objective) -> tuple[list[TrialRecord], Comparison]:
    """As `best_ties`, and what compares them: all the rounds, of which those of the ties alone may be too few."""
    usable = of_present_regime([r for r in records if is_feasible(r, spec) and objective.read(r) is not None])
    comparison = Comparison(usable)
    repeated = often_repeated(usable, spec)
    if repeated:
        top = top_of(repeated, objective, comparison)
        standing = {r.number for r in repeated}
        better = [r for r in usable if r.number not in standing and comparison.is_better(r, top, objective)]
        usable = better or repeated
    if not usable:
        return [], comparison
    top = top_of(usable, objective, comparison)
    return [r for r in usable if comparison.is_tie(r, top, objective)], comparison


def preferred(spec: StudySpec) -> str:
    """The objective by which one configuration is chosen: throughput, or where it is none the last."""
    return "throughput" if "throughput" in spec.objectives else spec.objectives[-1]


def top_of(records: Sequence[TrialRecord], objective: Objective, comparison: Comparison) -> TrialRecord:
    """The best of at least one record by what was measured, in rounds where these compare them, else by value."""
    return reduce(lambda top, r: r if comparison.behind(top, r, objective) > 0 else top, records)


def _complexity(record: TrialRecord) -> tuple[float, ...]:
    """Smaller is simpler: pruning, then streams, batch, threads and memory, then speed, then the earlier trial."""
    c = record.candidate
    rate = record.throughput_items_per_s
    settings = (c.pruning_ratio, c.streams or 1, c.batch_size, c.worker_threads or 1)
    return (*map(float, settings), record.peak_memory_mib or 0.0, -(rate.value if rate else 0.0), record.number)
