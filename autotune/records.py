"""The values that travel from a measurement to the database, the front and the JSON that scripts read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Literal

from autotune.candidate import Candidate

TrialState = Literal["running", "complete", "rejected", "crashed"]
TrialRole = Literal["reference", "search", "bench", "final", "canary"]
RepeatedRole = Literal["final", "canary"]
"""Roles that measure the candidate of another trial again: a finalist's, or the reference's between the search's trials."""
FAILED_AGAIN = "failed_when_repeated"
"""Flag of a trial whose candidate ran once and did not in a later process: nothing to deploy."""
GIVEN_UP = "given_up"
"""Flag of a trial whose load was ended early, because a faster one that is at least as accurate was known."""
PROCESS_ENDED = "process_ended"
"""Flag of a trial that could not write its own record: its process died, or was ended at a limit."""
STOPPED_EARLY = "accuracy_stopped_early"
"""Flag of a rejected trial whose accuracy and drop are estimated from the first samples, because those were enough."""
FINISHED: tuple[TrialState, ...] = ("complete", "rejected", "crashed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An uncertain number with its 95 % interval `low`…`high`; `n` is what was counted, `method` how the interval was made."""

    value: float
    low: float
    high: float
    n: int
    method: str

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            if (number := getattr(self, name)) == 0:
                object.__setattr__(self, name, abs(number))  # a zero has no sign: SQLite would keep none

    @property
    def half_width(self) -> float:
        """Half the width of the interval, in the unit of the value."""
        return (self.high - self.low) / 2

    @staticmethod
    def from_json(values: Mapping[str, Any] | None) -> Estimate | None:
        """The estimate, or None where nothing was measured."""
        return None if values is None else Estimate(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Latency percentiles in milliseconds; None where the sample is too small for an interval."""

    p50: Estimate | None = None
    p90: Estimate | None = None
    p95: Estimate | None = None
    p99: Estimate | None = None

    @staticmethod
    def from_json(values: Mapping[str, Any] | None) -> LatencySummary:
        """The summary; missing percentiles read None."""
        return LatencySummary(**{k: Estimate.from_json(v) for k, v in (values or {}).items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFigures:
    """How a trial was loaded, and what that load says beyond throughput and latency; None where it says nothing.

    `offered_items_per_s`: the rate at which samples arrived. `within_slo`: share of requests within `slo_ms` of their scheduled
    arrival; `goodput_items_per_s`: so many per second. `peak_items_per_s`: of a closed loop at full load, measured before an
    arrival rate was searched for. `queued_share`: of requests that found every stream busy. `late_share`: of requests that the
    load itself handed over late. `mean_batch`: samples that ran together. `foreign_cpu_share`: of the CPUs that others took.
    """

    scenario: str
    driver: str = "autotune"
    n_requests: int = 0
    offered_items_per_s: float | None = None
    slo_ms: float | None = None
    slo_percentile: int | None = None
    within_slo: Estimate | None = None
    goodput_items_per_s: Estimate | None = None
    peak_items_per_s: Estimate | None = None
    queued_share: float | None = None
    late_share: float | None = None
    mean_batch: float | None = None
    foreign_cpu_share: float | None = None
    n_repeated_windows: int = 0

    @property
    def throughput_means(self) -> str:
        """What the trial's throughput is, in words."""
        if self.slo_ms is None:
            return {"server": "items/s served of those that arrive", "trace": "items/s served of those that arrive"}.get(
                self.scenario, f"items/s of the closed loop ({self.scenario})"
            )
        slo = f"p{self.slo_percentile} ≤ {self.slo_ms:g} ms"
        if self.peak_items_per_s is not None:
            return f"the highest arrival rate at which {slo}"
        return f"items/s within {self.slo_ms:g} ms, of {self.offered_items_per_s or 0:g} that arrive; wanted: {slo}"

    @staticmethod
    def from_json(values: Mapping[str, Any] | None) -> LoadFigures | None:
        """The figures, or None where the trial was never loaded."""
        if values is None:
            return None
        return LoadFigures(**{**values, **{k: Estimate.from_json(values.get(k)) for k in LOAD_ESTIMATES}})


LOAD_ESTIMATES = ("within_slo", "goodput_items_per_s", "peak_items_per_s")
"""The fields of LoadFigures that are an Estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a trial has no result: `reason` (errors.CandidateRejected.reason), the stage that gave up, and the message."""

    reason: str
    stage: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One telemetry metric over a trial. `t_s`: seconds since the load began; `values` in `unit`; same length.

    `absent` says why the metric could not be read; then both tuples are empty.
    """

    metric: str
    unit: str
    t_s: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    absent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantInfo:
    """What a compressed model is: `params` and `macs` (per sample) are counted on the graph, not asked for."""

    key: str
    precision: str
    scheme: str
    pruning_ratio: float
    achieved_pruning: float
    params: int
    macs: int | None
    model_bytes: int
    notes: tuple[str, ...] = ()

    @staticmethod
    def from_json(values: Mapping[str, Any] | None) -> VariantInfo | None:
        """The variant, or None where the trial never had one."""
        return None if values is None else VariantInfo(**{**values, "notes": tuple(values.get("notes", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDrop:
    """A class that lost answers beyond noise. `p_value` and the interval of `drop` are corrected for the number of classes."""

    label: int
    drop: Estimate
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the answers compare with the reference's on the same samples.

    `top1`: share of samples on which both name the same class. `output_difference`: mean of ‖output − reference's‖ over
    ‖reference's‖. `n_classes`: classes that were tested for losses; `classes`: the worst of those that lost beyond noise.
    """

    top1: Estimate | None = None
    output_difference: Estimate | None = None
    n_classes: int | None = None
    classes: tuple[ClassDrop, ...] = ()

    @staticmethod
    def from_json(values: Mapping[str, Any] | None) -> Agreement | None:
        """The agreement, or None where it was not measured."""
        if values is None:
            return None
        return Agreement(
            top1=Estimate.from_json(values["top1"]),
            output_difference=Estimate.from_json(values["output_difference"]),
            n_classes=values["n_classes"],
            classes=tuple(ClassDrop(**{**c, "drop": Estimate(**c["drop"])}) for c in values["classes"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """A trial's candidate measured once more, in a process of its own. `regime`: the state of the machine then, from 1.

    Repetitions of one `round` were measured one after the other, so that what disturbs a round disturbs them alike. A failed
    one has no throughput.
    """

    role: RepeatedRole
    round: int
    regime: int
    state: TrialState
    throughput_items_per_s: Estimate | None
    started_at: str | None
    finished_at: str | None
    latency_ms: LatencySummary = field(default_factory=LatencySummary)
    energy_j_per_item: Estimate | None = None
    power_w: Estimate | None = None

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Repetition:
        """The repetition that a TRIAL document holds."""
        estimates = {name: Estimate.from_json(values.get(name)) for name in _ONE_RUN}
        return Repetition(**{**values, **estimates, "latency_ms": LatencySummary.from_json(values.get("latency_ms"))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A state of the machine in which the reference's speed is steady. `since`: trials begun from then on belong to it.

    `steady_until`: up to then the machine was as before; what began in between ran under one or the other. `ratio`: the
    reference's throughput against the regime before; `reason` says it in words.
    """

    number: int
    since: str
    steady_until: str
    ratio: float
    reason: str


def regime_at(instant: str | None, since: Sequence[str]) -> int:
    """The number of the regime, from 1, in which something began at `instant` (ISO 8601; None: in the first).

    `since`: when each regime but the first began, ascending.
    """
    if instant is None:
        return 1
    return 1 + bisect_right([datetime.fromisoformat(s) for s in since], datetime.fromisoformat(instant))


def seconds_between(began: str | None, ended: str | None) -> float:
    """From one instant (ISO 8601) to the other; 0 where one is not known, or the clock was set back."""
    if not (began and ended):
        return 0.0
    return max(0.0, (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """Everything known of one trial, whatever happened to it. A field that was not measured is None.

    Throughput, latency, energy and power are what is reported: once the study knows more than the trial's own load did
    (repetitions, the spread between processes), estimates from all of it, and the fields `…_one_run…` are then the load's own.
    `regime`: the one of the reported throughput, from 1. `pool_peak_mib`: the most that the engine's own memory pool handed
    out, where it has one that it counts; `peak_memory_mib` is what the whole device or process held.
    """

    number: int
    state: TrialState
    candidate: Candidate
    role: TrialRole = "search"
    reject: Rejection | None = None
    metric: str = ""
    accuracy: Estimate | None = None
    accuracy_drop: Estimate | None = None
    agreement: Agreement | None = None
    throughput_items_per_s: Estimate | None = None
    throughput_one_run: Estimate | None = None
    latency_ms: LatencySummary = field(default_factory=LatencySummary)
    latency_one_run_ms: LatencySummary = field(default_factory=LatencySummary)
    load: LoadFigures | None = None
    energy_j_per_item: Estimate | None = None
    energy_one_run_j_per_item: Estimate | None = None
    power_w: Estimate | None = None
    power_one_run_w: Estimate | None = None
    peak_memory_mib: float | None = None
    pool_peak_mib: float | None = None
    model_bytes: int | None = None
    variant: VariantInfo | None = None
    engine_key: str | None = None
    scores_key: str | None = None
    build_s: float | None = None
    measure_s: float | None = None
    stage_s: Mapping[str, float] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    telemetry: tuple[Series, ...] = ()
    regime: int = 1
    repetitions: tuple[Repetition, ...] = ()
    started_at: str | None = None
    finished_at: str | None = None

    @property
    def duration_s(self) -> float:
        """Wall time from beginning to end; 0 where it is not known."""
        return seconds_between(self.started_at, self.finished_at)

    def as_json(self) -> dict[str, Any]:
        """The TRIAL document of the command line's `--json`; telemetry is left to the database."""
        document = {name: _plain(getattr(self, name)) for name in _field_names(TrialRecord) if name != "telemetry"}
        document["candidate"] = self.candidate.as_json()
        return document

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> TrialRecord:
        """The record that `as_json` described."""
        reject = values.get("reject")
        return TrialRecord(
            **{
                **values,
                "candidate": Candidate.from_json(values["candidate"]),
                "reject": Rejection(**reject) if reject else None,
                "latency_ms": LatencySummary.from_json(values.get("latency_ms")),
                "latency_one_run_ms": LatencySummary.from_json(values.get("latency_one_run_ms")),
                "load": LoadFigures.from_json(values.get("load")),
                "variant": VariantInfo.from_json(values.get("variant")),
                "agreement": Agreement.from_json(values.get("agreement")),
                **{k: Estimate.from_json(values.get(k)) for k in (*ESTIMATES, *_ONE_RUN.values())},
                "repetitions": tuple(Repetition.from_json(r) for r in values.get("repetitions", ())),
                "cached": tuple(values.get("cached", ())),
                "flags": tuple(values.get("flags", ())),
            }
        )


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


def _plain(value: Any) -> Any:
    """As dataclasses.asdict, which copies every leaf: a list of a thousand studies would spend most of its time there."""
    if value is None or isinstance(value, str | int | float):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value


ESTIMATES = ("accuracy", "accuracy_drop", "throughput_items_per_s", "energy_j_per_item", "power_w")
"""The fields of a TrialRecord that are an Estimate which the trial itself measured."""

_ONE_RUN = {
    "throughput_items_per_s": "throughput_one_run",
    "energy_j_per_item": "energy_one_run_j_per_item",
    "power_w": "power_one_run_w",
}
LATENCIES = {f"latency_{f.name}": f.name for f in fields(LatencySummary)}
"""The metric of each percentile that a LatencySummary holds."""
LOADED = (*_ONE_RUN, *LATENCIES)
"""Metrics of what a load measures. They differ from process to process, so more may be reported than one load gave."""


def loaded(of: TrialRecord | Repetition, metric: str) -> Estimate | None:
    """What is reported of one metric of LOADED."""
    found: Estimate | None = getattr(of.latency_ms, LATENCIES[metric]) if metric in LATENCIES else getattr(of, metric)
    return found


def own_load(record: TrialRecord, metric: str) -> Estimate | None:
    """What the trial's own load gave for one metric of LOADED, whatever is reported."""
    found: Estimate | None
    if metric in LATENCIES:
        found = getattr(record.latency_one_run_ms, LATENCIES[metric])
    else:
        found = getattr(record, _ONE_RUN[metric])
    return loaded(record, metric) if found is None else found


def loaded_fields(own: Mapping[str, Estimate | None], reported: Mapping[str, Estimate]) -> dict[str, Any]:
    """The fields of a TrialRecord for the metrics of LOADED: what is reported, or else the load's own; beside what is reported
    the load's own.
    """
    shown, beside = {**own, **reported}, {metric: own.get(metric) for metric in reported}
    return {
        **{metric: shown.get(metric) for metric in _ONE_RUN},
        **{name: beside.get(metric) for metric, name in _ONE_RUN.items()},
        "latency_ms": LatencySummary(**{name: shown.get(metric) for metric, name in LATENCIES.items()}),
        "latency_one_run_ms": LatencySummary(**{name: beside.get(metric) for metric, name in LATENCIES.items()}),
    }


def with_reported(record: TrialRecord, reported: Mapping[str, Estimate]) -> TrialRecord:
    """The record with these estimates reported, by metric of LOADED, and its own load's for the others."""
    return replace(record, **loaded_fields({metric: own_load(record, metric) for metric in LOADED}, reported))
