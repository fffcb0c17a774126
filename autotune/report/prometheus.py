"""A study as Prometheus sees it: metric families from one sample of it, and the endpoint that serves them.

Names, units and suffixes follow https://prometheus.io/docs/practices/naming/: base units, `_total` for what only grows. Labels
take few values: the study's name, states, roles, stages; the one text that does not, the last error, is a single series.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from autotune.errors import EnvironmentProblem

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

BUCKETS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""From a cached stage to the recovery of a pruned network."""
_MOST_LABELS, _MOST_TELEMETRY = 16, 40
_MESSAGE = 160
_INSTALL = "pip install 'autotune[metrics]'"
_OBJECTIVES: Mapping[str, tuple[str, float, str]] = {
    "accuracy": ("accuracy", 1.0, "in the unit of the study's metric"),
    "throughput": ("throughput_items_per_second", 1.0, "items per second"),
    "latency_p99": ("latency_p99_seconds", 1e-3, "seconds"),
    "energy": ("energy_joules_per_item", 1.0, "joules per item"),
    "memory": ("memory_bytes", 2.0**20, "bytes"),
    "cost": ("cost_per_million_items", 1.0, "in the currency of price_per_hour"),
}
"""Objective → name with its base unit, the factor to that unit, and how it reads."""
_UNITS: Mapping[str, tuple[str, str, float]] = {
    "%": ("percent", "ratio", 0.01),
    "MiB": ("mib", "bytes", 2.0**20),
    "MHz": ("mhz", "hertz", 1e6),
    "W": ("w", "watts", 1.0),
    "J": ("j", "joules", 1.0),
    "°C": ("c", "celsius", 1.0),
    "s": ("s", "seconds", 1.0),
}
"""Telemetry's unit → the suffix it has in our names, Prometheus' base unit, and the factor to it."""


@dataclass(slots=True)
class Durations:
    """A histogram of seconds by one label, which only grows; beyond 16 values of the label the rest count as "other"."""

    label: str
    counts: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, value: str, seconds: float) -> None:
        """One more duration."""
        key = value if value in self.counts or len(self.counts) < _MOST_LABELS else "other"
        self.counts.setdefault(key, [0] * (len(BUCKETS_S) + 1))[bisect_left(BUCKETS_S, seconds)] += 1
        self.sums[key] = self.sums.get(key, 0.0) + seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSample:
    """The last error: of which trial, why and where, and when (ISO 8601)."""

    trial: int
    role: str
    reason: str
    stage: str
    message: str
    at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySample:
    """A study at one moment. What was not measured is None or absent, and then has no series.

    `states`: every state a study may be in, of which `state` is its own. `best`, `reference`: objective → value in the units of
    a record. `hypervolume_ratio`: see `docs/daemon.md`. `telemetry`: (metric, unit, value).
    """

    study: str
    state: str
    states: Sequence[str]
    is_paused: bool
    began_at: str
    n_trials: Mapping[str, int]
    n_running: int
    target: int
    n_repetitions: Mapping[str, int]
    n_front: int
    n_workers: Mapping[str, int]
    best: Mapping[str, float]
    reference: Mapping[str, float]
    hypervolume_ratio: float | None
    trial_s: Durations
    stage_s: Durations
    last_error: ErrorSample | None
    telemetry: Sequence[tuple[str, str, float]]
    telemetry_at: str | None


def families(sample: StudySample) -> Iterator[Metric]:
    """Every metric family of the study."""
    one = _Families(sample.study)
    finished = {state: n for state, n in sample.n_trials.items() if state != "running"}
    yield one.counter("trials", "Finished search trials by outcome.", "state", finished)
    yield one.gauge("trials_running", "Search trials under way.", sample.n_running)
    yield one.gauge("trials_target", "Search trials that the study is to have.", sample.target)
    queued = max(0, sample.target - sum(finished.values()) - sample.n_running)
    yield one.gauge("trials_queued", "Search trials to go until the target, those under way not counted.", queued)
    yield one.counter("repetitions", "Measurements again, of finalists and of the reference.", "role", sample.n_repetitions)
    yield one.gauges("workers", "Workers on all hosts by what they do.", "state", sample.n_workers)
    yield one.gauge("paused", "1 while the study is paused.", float(sample.is_paused))
    states = {s: float(s == sample.state) for s in sample.states}
    yield one.gauges("study_state", "1 for the state that the study is in.", "state", states)
    yield one.gauge("study_created_timestamp_seconds", "When the study was begun.", _timestamp(sample.began_at))
    yield one.gauge("front_size", "Configurations in the front.", sample.n_front)
    hypervolume = "Volume that the front dominates, each objective as a ratio to the reference; the reference alone has 1."
    yield one.gauge("hypervolume_ratio", hypervolume, sample.hypervolume_ratio)
    for name, value in sample.best.items():
        yield _objective(one, "best", "Best in the front", name, value)
    for name, value in sample.reference.items():
        yield _objective(one, "reference", "The unmodified model", name, value)
    yield one.histogram("trial_duration_seconds", "Wall time of finished trials by role.", sample.trial_s)
    yield one.histogram("stage_duration_seconds", "Wall time of the stages of finished trials.", sample.stage_s)
    yield from _errors(one, sample.last_error)
    yield from _telemetry(one, sample)


def _together(samples: Sequence[StudySample]) -> Iterable[Metric]:
    """The families of all samples: each name once, as the format asks, with the series of every study in it."""
    found: dict[str, Metric] = {}
    for sample in samples:
        for family in families(sample):
            found.setdefault(family.name, family)
            if found[family.name] is not family:
                found[family.name].samples.extend(family.samples)
    return found.values()


def _objective(one: _Families, prefix: str, what: str, name: str, value: float) -> Metric:
    spelled, factor, unit = _OBJECTIVES.get(name, (_clean(name), 1.0, "as in the study"))
    return one.gauge(f"{prefix}_{spelled}", f"{what}: {name}, {unit}.", value * factor)


def _errors(one: _Families, error: ErrorSample | None) -> Iterator[Metric]:
    if error is None:
        return
    message = " ".join(error.message.split())
    labels = {"trial": str(error.trial), "role": error.role, "reason": error.reason, "stage": error.stage}
    labels["message"] = message if len(message) <= _MESSAGE else message[: _MESSAGE - 1] + "…"
    yield one.gauge("last_error_info", "The newest trial that failed for another reason than its accuracy.", 1.0, labels)
    if error.at is not None:
        yield one.gauge("last_error_timestamp_seconds", "When that trial ended.", _timestamp(error.at))


def _telemetry(one: _Families, sample: StudySample) -> Iterator[Metric]:
    for metric, unit, value in sample.telemetry[:_MOST_TELEMETRY]:
        suffix, base, factor = _UNITS.get(unit, ("", "", 1.0))
        stem = _clean(metric).removesuffix(f"_{suffix}") if suffix else _clean(metric)
        name = f"telemetry_{stem}_{base}" if base else f"telemetry_{stem}"
        yield one.gauge(name, f"Last sample of {metric} in the newest trial that has some.", value * factor)
    if sample.telemetry and sample.telemetry_at is not None:
        yield one.gauge("telemetry_timestamp_seconds", "When that trial ended.", _timestamp(sample.telemetry_at))


def _clean(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name).lower()


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class _Families:
    """Makes families that are called `autotune_…` and carry the study's name."""

    def __init__(self, study: str) -> None:
        self._study = study

    def gauge(self, name: str, text: str, value: float | None, labels: Mapping[str, str] | None = None) -> Metric:
        """One series, or none where the value is None."""
        from prometheus_client.core import GaugeMetricFamily

        more = dict(labels or {})
        family = GaugeMetricFamily(f"autotune_{name}", text, labels=["study", *more])
        if value is not None:
            family.add_metric([self._study, *more.values()], float(value))
        return family

    def gauges(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        """A series per value of the label."""
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(f"autotune_{name}", text, labels=["study", label])
        for key, value in values.items():
            family.add_metric([self._study, key], float(value))
        return family

    def counter(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        """As `gauges`, of what only grows; the name gets `_total`."""
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(f"autotune_{name}", text, labels=["study", label])
        for key, value in values.items():
            family.add_metric([self._study, key], float(value))
        return family

    def histogram(self, name: str, text: str, durations: Durations) -> Metric:
        """Cumulative buckets for each value of the label."""
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(f"autotune_{name}", text, labels=["study", durations.label])
        for key, counts in durations.counts.items():
            running, buckets = 0, []
            for bound, n in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
                running += n
                buckets.append((bound, running))
            family.add_metric([self._study, key], buckets, durations.sums[key])
        return family


def registry_of(look: Callable[[], StudySample | Sequence[StudySample] | None]) -> CollectorRegistry:
    """A registry that looks at the study, or its parts, anew for each scrape. `look` returns None while the database is away.

    Raises EnvironmentProblem where prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
        from prometheus_client.core import GaugeMetricFamily
    except ImportError as exc:
        raise EnvironmentProblem(f"metrics need prometheus-client: {exc}.", remedy=_INSTALL) from exc

    class Study:
        def collect(self) -> Iterable[Metric]:
            found = look()
            up = "1 when the database answered this scrape; without it only this series is there."
            yield GaugeMetricFamily("autotune_database_up", up, value=float(found is not None))
            yield from _together([found] if isinstance(found, StudySample) else found or [])

    registry = CollectorRegistry()
    registry.register(Study())
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> str:
    """One scrape as text."""
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def serve(registry: CollectorRegistry, host: str, port: int) -> tuple[str, Callable[[], None]]:
    """The endpoint's address, once it is served from threads of its own, and the call that ends it.

    Raises EnvironmentProblem where the port cannot be had.
    """
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except (OSError, OverflowError, UnicodeError) as exc:
        remedy = "another port; 0 takes a free one"
        raise EnvironmentProblem(f"cannot serve metrics on {host}:{port}: {exc}.", remedy=remedy) from exc

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=1.0)

    return f"http://{f'[{host}]' if ':' in host else host}:{_port_of(server)}/metrics", end


def _port_of(server: Any) -> int:
    return int(server.server_address[1])
