"""LoadSpec: how each candidate is loaded while it is measured, and the forms in which a study file may say it.

The canonical form names the scenario and gives its settings in a section of that name: `load: {scenario: server, server: {qps:
200, slo_ms: 50}}`. People may leave out either the name or the section's braces; `canonical_load` puts the rest in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from autotune.spec.section import Section

Scenario = Literal["offline", "singlestream", "multistream", "server", "trace"]
Percentile = Literal[50, 90, 95, 99]
_KNEE_RUNS = 4.0
"""A search for the knee takes seven to ten short loads; four times the cap of one leaves room for those that reach it."""


class ServerSpec(Section):
    """Single samples arrive at random (Poisson) at a rate, wait in one queue, and are batched as streams become free."""

    qps: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="samples per second that arrive; auto: the highest rate at which the SLO is kept is searched for"
    )
    slo_ms: float | None = Field(None, gt=0, description="latency from the scheduled arrival that `percentile` must keep to")
    percentile: Percentile = Field(99, description="of latency, which the SLO is about")
    batch_wait_ms: float = Field(0.0, ge=0, le=60_000, description="a batch that is not full waits so long for more arrivals")
    max_search_s: float | None = Field(None, gt=0, description="cap of the search for the rate; default: four times max_s")

    @model_validator(mode="after")
    def _has_a_goal(self) -> ServerSpec:
        if self.qps == "auto" and self.slo_ms is None:
            raise ValueError("slo_ms together with qps: auto, or a number as qps")
        return self


class MultistreamSpec(Section):
    """Queries of several samples, each issued when the one before is answered; a query ends with its last sample."""

    samples_per_query: int = Field(8, ge=1, le=4096)


class TraceSpec(Section):
    """Arrivals as they were recorded: a CSV with the seconds of each arrival and, if it has a second column, its samples."""

    file: Path = Field(description="CSV with the header second[,samples]")
    slo_ms: float | None = Field(None, gt=0, description="latency from the recorded arrival that `percentile` must keep to")
    percentile: Percentile = Field(99, description="of latency, which the SLO is about")
    batch_wait_ms: float = Field(0.0, ge=0, le=60_000, description="a batch that is not full waits so long for more arrivals")


SECTIONS: Mapping[str, type[Section]] = {"server": ServerSpec, "multistream": MultistreamSpec, "trace": TraceSpec}


class LoadSpec(Section):
    """How each candidate is loaded while it is measured, and when the measurement may stop."""

    scenario: Scenario = Field("offline", description="docs/scenarios.md")
    server: ServerSpec | None = None
    multistream: MultistreamSpec | None = None
    trace: TraceSpec | None = None
    driver: Literal["autotune", "loadgen"] = Field("autotune", description="who issues the queries; loadgen: MLPerf's LoadGen")
    window_s: float = Field(1.0, ge=0.05, le=60, description="length of one measuring window")
    min_windows: int = Field(5, ge=3, le=1000)
    max_s: float = Field(15.0, gt=0, description="cap of the measurement, without the warm-up")
    warmup_s: float = Field(1.0, ge=0, le=60)
    precision: float = Field(0.01, gt=0, lt=1, description="stop when the 95 % half-width is this share of the mean")

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        form = canonical_load(values)
        if form.faults:
            raise ValueError("; ".join(f"{allowed}, found {key}" for key, _, allowed in form.faults))
        return form.values

    @model_validator(mode="after")
    def _one_scenario(self) -> LoadSpec:
        given = [name for name in SECTIONS if getattr(self, name) is not None]
        if given not in ([], [self.scenario]) or (self.scenario in SECTIONS and not given):
            raise ValueError(f"one scenario, and its own section only; found {self.scenario} and {', '.join(given) or 'none'}")
        return self

    @property
    def arrivals(self) -> ServerSpec | TraceSpec | None:
        """The section of an open loop, in which arrivals do not wait for answers; None in a closed one."""
        return self.server or self.trace

    @property
    def slo_ms(self) -> float | None:
        """What the latency must keep to, where the load says so."""
        return None if self.arrivals is None else self.arrivals.slo_ms

    @property
    def searches_rate(self) -> bool:
        """True when the arrival rate is not given but searched for."""
        return self.server is not None and self.server.qps == "auto"

    @property
    def samples_per_query(self) -> int | None:
        """How many samples one query has, where queries follow each other; None in the other scenarios."""
        if self.scenario == "singlestream":
            return 1
        return None if self.multistream is None else self.multistream.samples_per_query

    @property
    def search_s(self) -> float:
        """Cap of the search for the arrival rate, in seconds; 0 where none is searched for."""
        if self.server is None or self.server.qps != "auto":
            return 0.0
        return self.server.max_search_s or _KNEE_RUNS * self.max_s

    @property
    def longest_s(self) -> float:
        """The most that all measured spans of one trial take, warm-ups apart."""
        # Before the search the peak is measured, and after it the rate that was found, each for at most max_s.
        return self.max_s + (self.search_s + self.max_s if self.searches_rate else 0.0)

    def identity(self) -> dict[str, Any]:
        """What makes two loads different things; empty for the closed loop, as in studies from before there were others."""
        named = self.model_dump(mode="json", include={"scenario", "driver", *SECTIONS}, exclude_none=True)
        return {} if named == {"scenario": "offline", "driver": "autotune"} else named


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadForm:
    """A load section in canonical form. `spelled`: canonical key → the key that the file has for it, relative to the section.

    `faults`: (key as the file has it, found, allowed) for what no form allows.
    """

    values: dict[str, Any]
    spelled: dict[str, str] = field(default_factory=dict)
    faults: tuple[tuple[str, str, str], ...] = ()


def canonical_load(load: Mapping[str, Any]) -> LoadForm:
    """The load section as LoadSpec has it; what it does not understand stays as it is, for the validation to refuse.

    Understood besides the canonical form: `server: {…}` without a scenario; `scenario: {server: {…}}`; `scenario: server` with
    the section's keys beside it; `scenario: FILE.csv` and `trace: FILE.csv`.
    """
    values, spelled = dict(load), {}
    scenario = values.get("scenario")
    if isinstance(scenario, Mapping) and len(scenario) == 1 and (name := next(iter(scenario))) in SECTIONS:
        if values.get(name) is None:
            values |= {"scenario": name, name: scenario[name] if scenario[name] is not None else {}}
            spelled[name] = f"scenario.{name}"
    elif _is_csv(scenario) and values.get("trace") is None:
        values |= {"scenario": "trace", "trace": {"file": scenario}}
        spelled["trace.file"] = "scenario"
    if isinstance(values.get("trace"), str | Path):
        values["trace"] = {"file": values["trace"]}
        spelled["trace.file"] = "trace"
    if "scenario" not in values:
        present = [name for name in SECTIONS if name in values]
        if present:  # the others are faults
            values["scenario"] = present[0]
    faults = _gathered(values, spelled)
    return LoadForm(values=values, spelled=spelled, faults=tuple(faults))


def _is_csv(value: Any) -> bool:
    return isinstance(value, str | Path) and str(value).lower().endswith(".csv")


def _gathered(values: dict[str, Any], spelled: dict[str, str]) -> list[tuple[str, str, str]]:
    """The scenario's section holds the keys that stood beside it; sections and keys of other scenarios are faults."""
    scenario, faults = values.get("scenario", "offline"), []
    if isinstance(scenario, str) and scenario in SECTIONS and values.get(scenario) is None:
        values[scenario] = {}
    for name in SECTIONS:
        if name != scenario and values.get(name) is not None:
            other = f"one scenario; this study's is {scenario}" if isinstance(scenario, str) else "one scenario"
            faults.append((spelled.get(name, name), f"a section of the scenario {name}", other))
            del values[name]
    section = values.get(scenario) if isinstance(scenario, str) else None
    for key in [k for k in values if k not in LoadSpec.model_fields]:
        homes = [name for name, kind in SECTIONS.items() if key in kind.model_fields]
        if scenario in homes and isinstance(section, Mapping) and key not in section:
            section = values[scenario] = {**section, key: values.pop(key)}
            spelled[f"{scenario}.{key}"] = key
        elif homes:
            faults.append((key, f"a key of the scenario {' and '.join(homes)}", f"keys of the scenario {scenario}, each once"))
            del values[key]
    if scenario == "trace" and values.get("driver") == "loadgen":
        faults.append(("driver", "loadgen", "autotune for a recorded trace, which LoadGen does not replay"))
        del values["driver"]
    return faults
