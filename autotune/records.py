"""The values that travel from a measurement to the database, the front and the JSON that scripts read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from autotune.candidate import Candidate

TrialState = Literal["running", "complete", "rejected", "crashed"]
TrialRole = Literal["reference", "search", "bench"]
FINISHED: tuple[TrialState, ...] = ("complete", "rejected", "crashed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An uncertain number with its 95 % interval `low`…`high`; `n` is what was counted, `method` how the interval was made."""

    value: float
    low: float
    high: float
    n: int
    method: str

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
class TrialRecord:
    """Everything known of one trial, whatever happened to it. A field that was not measured is None."""

    number: int
    state: TrialState
    candidate: Candidate
    role: TrialRole = "search"
    reject: Rejection | None = None
    metric: str = ""
    accuracy: Estimate | None = None
    accuracy_drop: Estimate | None = None
    throughput_items_per_s: Estimate | None = None
    latency_ms: LatencySummary = field(default_factory=LatencySummary)
    energy_j_per_item: Estimate | None = None
    power_w: Estimate | None = None
    peak_memory_mib: float | None = None
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
    started_at: str | None = None
    finished_at: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The TRIAL document of the command line's `--json`; telemetry is left to the database."""
        document = asdict(replace(self, telemetry=()))
        del document["telemetry"]
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
                "variant": VariantInfo.from_json(values.get("variant")),
                **{k: Estimate.from_json(values.get(k)) for k in ESTIMATES},
                "cached": tuple(values.get("cached", ())),
                "flags": tuple(values.get("flags", ())),
            }
        )


ESTIMATES = ("accuracy", "accuracy_drop", "throughput_items_per_s", "energy_j_per_item", "power_w")
"""The fields of a TrialRecord that are an Estimate."""
