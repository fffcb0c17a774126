"""VirtualDevice: runs trials as a recorded machine did, on a clock that only it moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from autotune.bench.statistics import t_quantile
from autotune.errors import SpecError
from autotune.records import GIVEN_UP, Estimate, LatencySummary, TrialRecord
from autotune.simulator.table import ARTIFACTS, Load, Point, SweepTable
from autotune.trial.request import TrialRequest

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_LEAST_WINDOWS = 3
"""As the real load loop: before, nothing is given up."""
_OPENED = frozenset({"open", "accuracy", "load"})
"""Stages that a trial comes to only after its engine was opened."""


class VirtualDevice:
    """Stands in for `TrialProcess`. `now_s`: virtual seconds since its making; a trial moves it by what its stages took.

    With `caches`, an artifact costs its time once, as in a study; without, every trial makes everything anew. Throughput is the
    point's mean over its recorded processes, times a deviation drawn from those that were seen between processes anywhere in
    the table, or normal on the log scale with `noise_sd`; intervals are those of a recorded run of the point. Equal tables,
    seeds and requests give equal records.
    """

    def __init__(self, table: SweepTable, *, seed: int = 0, caches: bool = True, noise_sd: float | None = None) -> None:
        self.now_s = 0.0
        self.spent_s: dict[str, float] = {}
        self._table, self._caches = table, caches
        self._made: set[int] = set()
        self._noise_sd = noise_sd
        self._rng = np.random.default_rng(seed)

    def advance(self, what: str, seconds: float) -> None:
        """So much virtual time has gone into `what`."""
        self.now_s += seconds
        self.spent_s[what] = self.spent_s.get(what, 0.0) + seconds

    def measure_reference(self) -> TrialRecord:
        """The reference's record, as it was when it was measured, in the time that it took."""
        record = self._table.reference
        began_s = self.now_s
        self.advance("reference", record.duration_s)
        self._made.update(self._table.reference_artifacts.values())
        return replace(record, started_at=self._instant(began_s), finished_at=self._instant(self.now_s))

    def run(
        self,
        request: TrialRequest,
        on_stage: Callable[[str], None] = lambda stage: None,
        should_abort: Callable[[], bool] = lambda: False,
    ) -> TrialRecord:
        """The trial's record, as `TrialProcess.run`. Raises SpecError where the table does not hold the candidate."""
        point = self._table.by_candidate.get(request.candidate)
        if point is None:
            raise SpecError(f"the table {self._table.study!r} has no point {request.candidate}")
        began_s = self.now_s
        stage_s, cached = self._stages(point, on_stage)
        known = self._known(point)
        if point.state == "complete" and request.with_load:
            on_stage("load")
            load, flags = self._drawn(point, request)
            stage_s["load"] = load.seconds
            self.advance("load", load.seconds)
            known |= _measured(load) | {"flags": flags}
        return TrialRecord(
            number=request.number, role=request.role, candidate=request.candidate, state=point.state, reject=point.reject,
            metric=self._table.metric, device=self._table.device.device, stage_s=stage_s, cached=cached,
            started_at=self._instant(began_s), finished_at=self._instant(self.now_s), **known,
        )  # fmt: skip

    def _stages(self, point: Point, on_stage: Callable[[str], None]) -> tuple[dict[str, float], tuple[str, ...]]:
        """What every stage before the load took, and which were known."""
        self.advance("other", point.other_s)
        stage_s: dict[str, float] = {}
        cached = []
        opened = point.state == "complete" or (point.reject is not None and point.reject.stage in _OPENED)
        for kind in ARTIFACTS:
            if kind == "accuracy" and opened:
                stage_s["open"] = point.open_s
            row = point.artifacts.get(kind)
            if row is None:
                continue
            known = self._caches and row in self._made
            seconds = point.probe_s if kind == "accuracy" else 0.0
            stage_s[kind] = seconds if known else self._table.artifacts[row].seconds
            cached += [kind] if known else []
            self._made.add(row)
        for stage, seconds in stage_s.items():
            on_stage(stage)
            self.advance(stage, seconds)
        return stage_s, tuple(cached)

    def _known(self, point: Point) -> dict[str, Any]:
        row = point.artifacts.get("accuracy")
        if row is None:
            return {}
        found = self._table.artifacts[row]
        return {"accuracy": found.accuracy, "accuracy_drop": found.drop, "scores_key": f"accuracy {row}"}

    def _drawn(self, point: Point, request: TrialRequest) -> tuple[Load, tuple[str, ...]]:
        """One more load of the point, ended early where a rival is certainly better."""
        deviation = math.exp(self._deviation())
        like = point.loads[self._rng.integers(len(point.loads))]
        load = replace(
            like,
            items_per_s=point.items_per_s * deviation,
            p99_ms=_mean_of(point, "p99_ms", 1 / deviation),
            memory_mib=_mean_of(point, "memory_mib", 1.0),
            energy_j=_mean_of(point, "energy_j", 1 / deviation),
        )
        accuracy = self._table.artifacts[point.artifacts["accuracy"]].accuracy
        enough = request.give_up_below(accuracy.value if accuracy else 0.0)
        for n in range(min(_LEAST_WINDOWS, load.windows), load.windows) if enough > 0 else ():
            # The interval of n windows, if those of the whole run are independent.
            wider = math.sqrt(load.windows / n) * t_quantile(n - 1) / t_quantile(load.windows - 1)
            if load.items_per_s * (1 + load.half_width * wider) < enough:
                saved_s = min(load.seconds, (load.windows - n) * self._table.load.window_s)
                return replace(load, half_width=load.half_width * wider, windows=n, seconds=load.seconds - saved_s), (GIVEN_UP,)
        return load, ()

    def _deviation(self) -> float:
        """Of log throughput, between this process and the mean over all; 0 where neither table nor caller knows of any."""
        if self._noise_sd is not None:
            return float(self._rng.normal(0.0, self._noise_sd))
        noise = self._table.process_noise
        return noise[self._rng.integers(len(noise))] if noise else 0.0

    @staticmethod
    def _instant(seconds: float) -> str:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def _mean_of(point: Point, what: str, factor: float) -> float | None:
    found = [value for load in point.loads if (value := getattr(load, what)) is not None]
    return factor * sum(found) / len(found) if found else None


def _measured(load: Load) -> dict[str, Any]:
    low, high = load.items_per_s * max(0.0, 1 - load.half_width), load.items_per_s * (1 + load.half_width)
    rate = Estimate(value=load.items_per_s, low=low, high=high, n=load.windows, method="replayed")
    return {
        "throughput_items_per_s": rate,
        "latency_ms": LatencySummary(p99=_as_estimate(load.p99_ms)),
        "peak_memory_mib": load.memory_mib,
        "energy_j_per_item": _as_estimate(load.energy_j),
    }


def _as_estimate(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value=value, low=value, high=value, n=1, method="replayed")
