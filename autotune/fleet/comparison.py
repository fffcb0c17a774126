"""Studies of one model on several kinds of devices, side by side: what each device does best, and what that costs there.

Their fronts stay apart. Between devices only the bests are compared, each measured on its own machine: two are tied where the
difference is within the combined 95 % half-widths of their intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotune.errors import SpecError
from autotune.records import Estimate, TrialRecord
from autotune.spec.model import StudySpec
from autotune.spec.prices import PriceTable
from autotune.store.studies import StudyRow
from autotune.study.objectives import cost_per_million
from autotune.study.scoring import best, best_ties, front


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOnDevice:
    """One study and what it has found; its records are the finished trials of the search."""

    row: StudyRow
    spec: StudySpec
    device: str
    records: Sequence[TrialRecord]
    reference: TrialRecord | None
    instructions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResult:
    """What a study found for its device. `best`: by throughput, under the study's constraints; None where nothing keeps them.

    `instructions`: of a CPU, as its fingerprint has them; `own_instructions`: those of them that another CPU of the same name
    in the comparison lacks.
    `ties`: numbers of the trials that no measurement tells from the best. `price_per_hour` and `cost_per_million_items` in
    `currency`; None where no price is known.
    """

    study: str
    device: str
    instructions: tuple[str, ...]
    own_instructions: tuple[str, ...]
    n_trials: int
    reference: TrialRecord | None
    front: tuple[TrialRecord, ...]
    best: TrialRecord | None
    ties: tuple[int, ...]
    price_per_hour: float | None
    cost_per_million_items: Estimate | None

    @property
    def throughput(self) -> Estimate | None:
        """The best's items per second."""
        return None if self.best is None else self.best.throughput_items_per_s

    @property
    def energy(self) -> Estimate | None:
        """The best's joules per item; None where the device's energy was not measured."""
        return None if self.best is None else self.best.energy_j_per_item

    def as_json(self) -> dict[str, Any]:
        """As `compare --json` has it."""
        return {
            "study": self.study,
            "device": self.device,
            "instructions": list(self.instructions),
            "own_instructions": list(self.own_instructions),
            "n_trials": self.n_trials,
            "reference": self.reference.as_json() if self.reference else None,
            "front": [r.as_json() for r in self.front],
            "best": self.best.as_json() if self.best else None,
            "ties": list(self.ties),
            "price_per_hour": self.price_per_hour,
            "cost_per_million_items": asdict(self.cost_per_million_items) if self.cost_per_million_items else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The study that is best in a measure, and those that no measurement tells from it."""

    study: str
    ties: tuple[str, ...]


MEASURES: dict[str, tuple[Callable[[DeviceResult], Estimate | None], bool]] = {
    "throughput": (lambda r: r.throughput, True),
    "energy": (lambda r: r.energy, False),
    "cost": (lambda r: r.cost_per_million_items, False),
}
"""What devices are compared by: how it is read off a result, and whether more is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceComparison:
    """The results, the fastest device first. `leaders`: by measure, for those that two results or more have.

    `differences`: in what the studies themselves differ, so that their numbers are no comparison of devices alone.
    """

    results: tuple[DeviceResult, ...]
    leaders: dict[str, Leader]
    differences: tuple[str, ...]
    currency: str

    def as_json(self) -> dict[str, Any]:
        """The document of `compare --json`."""
        return {
            "studies": [r.as_json() for r in self.results],
            "leaders": {name: asdict(leader) for name, leader in self.leaders.items()},
            "differences": list(self.differences),
            "currency": self.currency or None,
        }


def compare_devices(studies: Sequence[StudyOnDevice], prices: PriceTable | None) -> DeviceComparison:
    """The studies side by side. `prices` replaces their own price per hour; raises SpecError where it lacks a device."""
    results = sorted(
        (_result(s, prices, _own(s, studies)) for s in studies), key=lambda r: -(r.throughput.value if r.throughput else 0.0)
    )
    found = {name: _leader(results, read, more) for name, (read, more) in MEASURES.items()}
    return DeviceComparison(
        results=tuple(results),
        leaders={name: leader for name, leader in found.items() if leader is not None},
        differences=tuple(_differences(studies)),
        currency="" if prices is None else prices.currency,
    )


def _own(study: StudyOnDevice, studies: Sequence[StudyOnDevice]) -> tuple[str, ...]:
    """The instructions of the study's CPU that another one of the same name is known to lack."""
    others = [set(s.instructions) for s in studies if s.device == study.device and s.instructions]
    return tuple(name for name in study.instructions if any(name not in other for other in others))


def _result(study: StudyOnDevice, prices: PriceTable | None, own: tuple[str, ...]) -> DeviceResult:
    chosen = best(study.records, study.spec, "throughput")
    ties = best_ties(study.records, study.spec, "throughput") if chosen else []
    price = study.spec.price_per_hour if prices is None else _price(study.device, prices)
    rate = chosen.throughput_items_per_s if chosen else None
    return DeviceResult(
        study=study.row.name,
        device=study.device,
        instructions=study.instructions,
        own_instructions=own,
        n_trials=len(study.records),
        reference=study.reference,
        front=tuple(front(study.records, study.spec)),
        best=chosen,
        ties=tuple(r.number for r in ties if chosen is not None and r.number != chosen.number),
        price_per_hour=price,
        cost_per_million_items=None if price is None else cost_per_million(rate, price),
    )


def _price(device: str, prices: PriceTable) -> float:
    found = prices.price_of(device)
    if found is None:
        known = ", ".join(prices.per_hour)
        raise SpecError(f"{prices.file}: per_hour: no price of {device!r}; prices of: {known}")
    return found


def _leader(results: Sequence[DeviceResult], read: Callable[[DeviceResult], Estimate | None], more: bool) -> Leader | None:
    measured = [(r.study, e) for r in results if (e := read(r)) is not None]
    if len(measured) < 2:
        return None
    name, top = max(measured, key=lambda pair: pair[1].value if more else -pair[1].value)
    ties = tuple(other for other, e in measured if other != name and _are_tied(top, e))
    return Leader(study=name, ties=ties)


def _are_tied(a: Estimate, b: Estimate) -> bool:
    return abs(a.value - b.value) <= math.hypot(a.half_width, b.half_width)


def _differences(studies: Sequence[StudyOnDevice]) -> list[str]:
    """Names of what is not the same in all studies, of all that a comparison of devices takes for the same."""
    found = []
    if len({s.row.model_digest for s in studies}) > 1:
        found.append("model")
    for key in ("data", "constraints", "load"):
        if len({repr(s.row.spec.get(key)) for s in studies}) > 1:
            found.append(key)
    return found
