"""What a record means to the search: objective values, constraint violations, and whether it may stand in the front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.pareto import front_mask
from autotune.records import TrialRecord
from autotune.spec.model import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One objective: how it is read off a record (None where not measured) and whether more is better."""

    name: str
    label: str
    maximize: bool
    read: Callable[[TrialRecord], float | None]


def _p99(record: TrialRecord) -> float | None:
    return record.latency_ms.p99.value if record.latency_ms.p99 else None


OBJECTIVES = {
    o.name: o
    for o in (
        Objective(name="accuracy", label="accuracy", maximize=True, read=lambda r: r.accuracy.value if r.accuracy else None),
        Objective(
            name="throughput",
            label="throughput (items/s)",
            maximize=True,
            read=lambda r: r.throughput_items_per_s.value if r.throughput_items_per_s else None,
        ),
        Objective(name="latency_p99", label="p99 latency (ms)", maximize=False, read=_p99),
        Objective(
            name="energy",
            label="energy (J/item)",
            maximize=False,
            read=lambda r: r.energy_j_per_item.value if r.energy_j_per_item else None,
        ),
        Objective(name="memory", label="peak memory (MiB)", maximize=False, read=lambda r: r.peak_memory_mib),
    )
}


def objective_named(name: str, spec: StudySpec) -> Objective:
    """The objective of that name; cost is the price of a million items at the study's price per hour. Raises KeyError."""
    if name != "cost":
        return OBJECTIVES[name]
    price = spec.price_per_hour or 0.0

    def cost(record: TrialRecord) -> float | None:
        rate = record.throughput_items_per_s
        return None if rate is None or rate.value <= 0 else price / 3600 / rate.value * 1e6

    return Objective(name="cost", label="cost per million items", maximize=False, read=cost)


def objectives_of(spec: StudySpec) -> tuple[Objective, ...]:
    """The study's objectives in order. `spec.load` has checked that they are known."""
    return tuple(objective_named(name, spec) for name in spec.objectives)


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
        found["accuracy_drop"] = 0.0 if drop is None else (drop - limits.accuracy_drop) / max(limits.accuracy_drop, 1e-3)
    if limits.accuracy is not None:
        found["accuracy"] = 0.0 if accuracy is None else (limits.accuracy - accuracy) / max(abs(limits.accuracy), 1e-9)
    if limits.latency_p99_ms is not None:
        tail = _least_p99_ms(record)
        found["latency_p99_ms"] = 0.0 if tail is None else (tail - limits.latency_p99_ms) / limits.latency_p99_ms
    if limits.throughput is not None:
        found["throughput"] = 0.0 if rate is None else (limits.throughput - rate) / limits.throughput
    if limits.memory_mib is not None:
        peak = record.peak_memory_mib
        found["memory_mib"] = 0.0 if peak is None else (peak - limits.memory_mib) / limits.memory_mib
    return found


def _least_p99_ms(record: TrialRecord) -> float | None:
    """The p99, or where the sample was too small for one the highest percentile there is, which p99 cannot be below."""
    for found in (record.latency_ms.p99, record.latency_ms.p95, record.latency_ms.p90, record.latency_ms.p50):
        if found is not None:
            return found.value
    return None


def is_feasible(record: TrialRecord, spec: StudySpec) -> bool:
    """True when the trial has a result and breaks no constraint."""
    return record.state == "complete" and all(v <= 0 for v in violations(record, spec).values())


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


def front(records: Sequence[TrialRecord], spec: StudySpec) -> list[TrialRecord]:
    """The feasible trials that no other feasible trial dominates, fastest first where throughput is an objective."""
    usable = [r for r in records if is_feasible(r, spec) and all(o.read(r) is not None for o in objectives_of(spec))]
    if not usable:
        return []
    mask = front_mask(points_of(usable, spec))
    kept = [r for r, keep in zip(usable, mask, strict=True) if keep]
    return sorted(kept, key=lambda r: -(r.throughput_items_per_s.value if r.throughput_items_per_s else 0.0))


def points_of(records: Sequence[TrialRecord], spec: StudySpec) -> NDArray[np.float64]:
    """Objective values of fully measured records, shape (n, m), signs turned so that more is better."""
    objectives = objectives_of(spec)
    return np.array([[(1 if o.maximize else -1) * float(o.read(r) or 0.0) for o in objectives] for r in records])


def best(records: Sequence[TrialRecord], spec: StudySpec, prefer: str = "") -> TrialRecord | None:
    """The feasible trial that is best in `prefer` (default: throughput, or the last objective); of ties the simplest.

    A tie is a throughput whose difference from the best lies within the two intervals' combined half-width (their root of
    squares); for other objectives, an equal value.
    """
    name = prefer or ("throughput" if "throughput" in spec.objectives else spec.objectives[-1])
    objective = objective_named(name, spec)
    usable = [r for r in records if is_feasible(r, spec) and objective.read(r) is not None]
    if not usable:
        return None
    top = max(usable, key=lambda r: (1 if objective.maximize else -1) * float(objective.read(r) or 0.0))
    return min((r for r in usable if _ties(r, top, objective)), key=_complexity)


def _ties(record: TrialRecord, top: TrialRecord, objective: Objective) -> bool:
    estimate, best_estimate = record.throughput_items_per_s, top.throughput_items_per_s
    if objective.name == "throughput" and estimate is not None and best_estimate is not None:
        slack = math.hypot(estimate.half_width, best_estimate.half_width)
        return best_estimate.value - estimate.value <= slack
    return objective.read(record) == objective.read(top)


def _complexity(record: TrialRecord) -> tuple[float, ...]:
    """Smaller is simpler: pruning, then streams, batch, threads and memory, then speed, then the earlier trial."""
    c = record.candidate
    rate = record.throughput_items_per_s
    settings = (c.pruning_ratio, c.streams or 1, c.batch_size, c.worker_threads or 1)
    return (*map(float, settings), record.peak_memory_mib or 0.0, -(rate.value if rate else 0.0), record.number)
