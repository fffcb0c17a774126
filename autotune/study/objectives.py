"""The objectives of a study: how each is read off a record, with its interval where it has one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autotune.records import Estimate, TrialRecord, loaded
from autotune.spec.model import StudySpec

THROUGHPUT = "throughput_items_per_s"
"""The one metric of records.LOADED of which more is better."""


def _nothing(_: TrialRecord) -> Estimate | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One objective: how it is read off a record (None where not measured) and whether more is better.

    `estimate` gives the value with its interval, None where values are compared as they are: accuracy is counted on the same
    samples for all trials. `metric`: the estimate from which alone it follows, empty where it is none; of one of records.LOADED
    the rounds decide in which it was measured.
    """

    name: str
    label: str
    maximize: bool
    read: Callable[[TrialRecord], float | None]
    estimate: Callable[[TrialRecord], Estimate | None] = _nothing
    metric: str = ""

    @property
    def has_interval(self) -> bool:
        """True when its values are compared by their intervals."""
        return self.estimate is not _nothing


def _value(estimate: Callable[[TrialRecord], Estimate | None]) -> Callable[[TrialRecord], float | None]:
    def read(record: TrialRecord) -> float | None:
        found = estimate(record)
        return None if found is None else found.value

    return read


def _of_load(name: str, label: str, metric: str) -> Objective:
    """The objective that is one metric of records.LOADED."""

    def estimate(record: TrialRecord) -> Estimate | None:
        return loaded(record, metric)

    more_is_better = metric == THROUGHPUT
    return Objective(name=name, label=label, maximize=more_is_better, read=_value(estimate), estimate=estimate, metric=metric)


OBJECTIVES = {
    o.name: o
    for o in (
        Objective(name="accuracy", label="accuracy", maximize=True, read=_value(lambda r: r.accuracy), metric="accuracy"),
        _of_load("throughput", "throughput (items/s)", THROUGHPUT),
        _of_load("latency_p99", "p99 latency (ms)", "latency_p99"),
        _of_load("energy", "energy (J/item)", "energy_j_per_item"),
        Objective(name="memory", label="peak memory (MiB)", maximize=False, read=lambda r: r.peak_memory_mib),
    )
}


def cost_per_million(rate: Estimate | None, price_per_hour: float) -> Estimate | None:
    """What a million items cost at `rate` items/s on a device of that price; None where the rate may be 0."""
    if rate is None or rate.low <= 0:
        return None
    value, low, high = (price_per_hour / 3600 / r * 1e6 for r in (rate.value, rate.high, rate.low))
    return Estimate(value=value, low=low, high=high, n=rate.n, method=rate.method)


def objective_named(name: str, spec: StudySpec) -> Objective:
    """The objective of that name; cost is the price of a million items at the study's price per hour. Raises KeyError."""
    if name != "cost":
        return OBJECTIVES[name]
    price = spec.price_per_hour or 0.0

    def cost(record: TrialRecord) -> Estimate | None:
        return cost_per_million(record.throughput_items_per_s, price)

    def value(record: TrialRecord) -> float | None:
        rate = record.throughput_items_per_s
        return None if rate is None or rate.value <= 0 else price / 3600 / rate.value * 1e6

    return Objective(name="cost", label="cost per million items", maximize=False, read=value, estimate=cost, metric=THROUGHPUT)


def objectives_of(spec: StudySpec) -> tuple[Objective, ...]:
    """The study's objectives in order. `spec.load` has checked that they are known."""
    return tuple(objective_named(name, spec) for name in spec.objectives)
