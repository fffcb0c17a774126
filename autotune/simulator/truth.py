"""The truth of a table: what each of its points is without noise, and how much of it a search has found."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from autotune.candidate import Candidate
from autotune.errors import SpecError
from autotune.pareto import hypervolume
from autotune.records import Estimate, LatencySummary, TrialRecord
from autotune.simulator.table import Point, SweepTable
from autotune.spec.model import StudySpec
from autotune.study.objectives import objectives_of
from autotune.study.scoring import comparable, points_of

_BEYOND = 0.1
"""The corner lies a tenth of the range beyond the worst feasible value, so that the ends of the front count, too."""


class Truth:
    """The feasible points of a table, each at the mean over its processes, and the exhaustive sweep's hypervolume.

    Objectives are those of `spec`, signs turned so that more is better. The hypervolume's corner is the worst value that any
    feasible point has in each objective, moved out by a tenth of the range. Raises SpecError where no point is feasible.
    """

    def __init__(self, table: SweepTable, spec: StudySpec) -> None:
        records = comparable([true_record(table, p) for p in table.points], spec)
        if not records:
            raise SpecError(f"no point of the table {table.study!r} keeps to the constraints, so there is nothing to find")
        self.values: Mapping[Candidate, NDArray[np.float64]] = dict(
            zip((r.candidate for r in records), points_of(records, spec), strict=True)
        )
        self.rate = {r.candidate: rate.value for r in records if (rate := r.throughput_items_per_s) is not None}
        stacked = np.stack(list(self.values.values()))
        worst, best = stacked.min(axis=0), stacked.max(axis=0)
        # A range of nothing (one feasible accuracy, say) would make every volume zero.
        span = np.where(best > worst, best - worst, np.maximum(np.abs(best), 1.0))
        self.corner: NDArray[np.float64] = worst - _BEYOND * span
        self.whole = hypervolume(stacked, self.corner)
        self.objectives = objectives_of(spec)

    def share(self, found: Iterable[Candidate]) -> float:
        """The hypervolume of the feasible ones among these candidates, as a share of the exhaustive sweep's: 0 to 1."""
        known = [self.values[c] for c in found if c in self.values]
        return hypervolume(np.stack(known), self.corner) / self.whole if known else 0.0


def true_record(table: SweepTable, point: Point) -> TrialRecord:
    """The point as a trial that was measured without noise: means over its processes."""
    row = point.artifacts.get("accuracy")
    found = None if row is None else table.artifacts[row]
    if point.state != "complete" or found is None:
        return TrialRecord(number=0, candidate=point.candidate, state=point.state, reject=point.reject)
    return TrialRecord(
        number=0,
        candidate=point.candidate,
        state="complete",
        accuracy=found.accuracy,
        accuracy_drop=found.drop,
        throughput_items_per_s=_exact(point.items_per_s),
        latency_ms=LatencySummary(p99=_mean(point, "p99_ms")),
        peak_memory_mib=m.value if (m := _mean(point, "memory_mib")) else None,
        energy_j_per_item=_mean(point, "energy_j"),
    )


def _mean(point: Point, what: str) -> Estimate | None:
    known = [v for load in point.loads if (v := getattr(load, what)) is not None]
    return _exact(statistics.fmean(known)) if known else None


def _exact(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value, n=1, method="mean over the recorded processes")
