"""SweepTable: every point of a study's grid as it was measured on a real machine, with what each stage of its trial took.

Stages that are made once and reused (`Artifact`: a pruned model, a variant, an engine, an accuracy) are rows of their own, so
that a replay knows what a second setting of the same engine saves, and that a rejected variant rejects all of its settings.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from autotune.candidate import Candidate, Choices, Scalar
from autotune.fingerprint import DeviceFingerprint
from autotune.records import Estimate, Rejection, TrialRecord, TrialState
from autotune.space.capability import SHARED_KNOBS, SearchSpace
from autotune.spec.model import ConstraintsSpec, LoadSpec, StudySpec
from autotune.study.plan import StudyPlan

ArtifactKind = Literal["prune", "variant", "engine", "accuracy"]
ARTIFACTS: tuple[ArtifactKind, ...] = ("prune", "variant", "engine", "accuracy")
"""In the order in which a trial makes them; the first three before the engine is opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What is made once for many points. `seconds`: its stage with nothing cached. Only an accuracy has the two estimates."""

    kind: ArtifactKind
    seconds: float
    accuracy: Estimate | None = None
    drop: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load of a point in a process of its own. `half_width`: of the 95 % interval, relative to the rate; from `windows`.

    What was not measured is None.
    """

    items_per_s: float
    half_width: float
    windows: int
    seconds: float
    p99_ms: float | None = None
    memory_mib: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the grid. `artifacts`: rows of the table by kind, for those that its trial came to.

    `open_s`, `probe_s` (accuracy where it is known) and `other_s` (the process, and whatever no stage covers) are medians over
    its processes. `inferred`: not run, because another point of the same artifact was rejected and this one would be, too.
    """

    candidate: Candidate
    state: TrialState
    reject: Rejection | None = None
    artifacts: Mapping[ArtifactKind, int] = field(default_factory=dict)
    open_s: float = 0.0
    probe_s: float = 0.0
    other_s: float = 0.0
    loads: tuple[Load, ...] = ()
    inferred: bool = False

    @property
    def items_per_s(self) -> float:
        """The geometric mean over its processes. Raises ValueError where there are none."""
        if not self.loads:
            raise ValueError(f"the point {self.candidate} has no load")
        return math.exp(statistics.fmean(math.log(x.items_per_s) for x in self.loads))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What the space knows of an engine: its knobs, those that shape its files, and its defaults."""

    knobs: frozenset[str]
    build_knobs: frozenset[str]
    defaults: Mapping[str, Scalar | None]


@dataclass(frozen=True, kw_only=True)
class SweepTable:
    """A recorded sweep. `values`: by knob, the values of the grid; `recorded`: when, how long and by which version.

    `model`: its name and the digest of its file. `missing`: points of the grid that are not in the table.
    """

    study: str
    model: Mapping[str, str]
    device: DeviceFingerprint
    metric: str
    objectives: tuple[str, ...]
    constraints: ConstraintsSpec
    load: LoadSpec
    price_per_hour: float | None
    pairs: tuple[tuple[str, str], ...]
    values: Mapping[str, tuple[Scalar, ...]]
    engines: Mapping[str, EngineFacts]
    priors: tuple[Candidate, ...]
    reference: TrialRecord
    reference_artifacts: Mapping[ArtifactKind, int]
    artifacts: tuple[Artifact, ...]
    points: tuple[Point, ...]
    missing: int = 0
    recorded: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def by_candidate(self) -> Mapping[Candidate, Point]:
        """The points by what was measured."""
        return {p.candidate: p for p in self.points}

    @cached_property
    def process_noise(self) -> tuple[float, ...]:
        """Deviations of log throughput between fresh processes of one point, all points together; empty if none ran twice.

        Each is blown up by √(n/(n − 1)), because the deviations from a mean of n are that much too small.
        """
        found = []
        for point in self.points:
            n = len(point.loads)
            if n > 1:
                logs = [math.log(x.items_per_s) for x in point.loads]
                mean = statistics.fmean(logs)
                found += [(x - mean) * math.sqrt(n / (n - 1)) for x in logs]
        return tuple(found)

    @property
    def process_sd(self) -> float | None:
        """The standard deviation of `process_noise`; None if no point ran twice."""
        noise = self.process_noise
        return math.sqrt(statistics.fmean(x * x for x in noise)) if noise else None

    @property
    def exhaustive_s(self) -> float:
        """What measuring every point once takes with caches, in seconds: artifacts once, and a load of each point."""
        made = {row for p in self.points for row in p.artifacts.values()}
        once = sum(self.artifacts[row].seconds for row in made)
        loads = sum(statistics.fmean(x.seconds for x in p.loads) for p in self.points if p.loads)
        return once + loads + sum(p.open_s + p.probe_s + p.other_s for p in self.points)

    def space(self) -> SearchSpace:
        """The grid as a search space."""
        return SearchSpace(
            pairs=self.pairs,
            domains={k: Choices(values=self.values[k]) for k in SHARED_KNOBS if k in self.values},
            knobs_of={name: e.knobs for name, e in self.engines.items()},
            defaults_of={name: e.defaults for name, e in self.engines.items()},
            removed=(),
            build_knobs_of={name: e.build_knobs for name, e in self.engines.items()},
            graphs=self._graphs(),
        )

    def _graphs(self) -> dict[tuple[str, str], str]:
        """As `SearchSpace.graphs`: the first variant that a pair was built from tells it."""
        first: dict[tuple[str, str], int] = {}
        for point in self.points:
            row, pair = point.artifacts.get("variant"), (point.candidate.engine, point.candidate.precision)
            if row is not None:
                first[pair] = min(row, first.get(pair, row))
        return {pair: f"variant {row}" for pair, row in first.items()}

    def spec(self, **changes: Any) -> StudySpec:
        """A study of the table, whose model and data are named but not there."""
        sections: dict[str, Any] = {
            "study": self.study,
            "model": {"path": Path(self.model["name"])},
            "data": {"validation": {"npz": Path("recorded.npz")}, "metric": self.metric},
            "engines": tuple(self.engines),
            "space": {k: Choices(values=v) for k, v in self.values.items()},
            "objectives": self.objectives,
            "constraints": self.constraints,
            "load": self.load,
            "price_per_hour": self.price_per_hour,
        }
        return StudySpec.model_validate(sections | changes)

    def plan(self, **changes: Any) -> StudyPlan:
        """A study's plan on the machine of the table; `changes` replace sections of its spec.

        Certain is the first of the priors alone: the others count as those of a preset.
        """
        return StudyPlan(
            spec=self.spec(**changes),
            space=self.space(),
            backends={},
            fingerprint=self.device,
            reference=self.reference.candidate,
            priors=self.priors,
            doubts={},
            cache_root=Path("recorded"),
            certain=self.priors[:1],
        )

    def restricted(self, engines: Sequence[str]) -> SweepTable:
        """The part of the table with these engines only. Raises ValueError where nothing is left."""
        points = tuple(p for p in self.points if p.candidate.engine in engines)
        if not points:
            raise ValueError(f"no point of the table runs on {', '.join(engines)}; it holds {', '.join(self.engines)}")
        changes: dict[str, Any] = {
            "study": f"{self.study}.{'.'.join(engines)}",
            "pairs": tuple(p for p in self.pairs if p[0] in engines),
            "engines": {k: v for k, v in self.engines.items() if k in engines},
            "priors": tuple(c for c in self.priors if c.engine in engines),
            "points": points,
        }
        used = {k for e in changes["engines"].values() for k in e.knobs} | {"pruning_ratio"}
        changes["values"] = {k: v for k, v in self.values.items() if k in used}
        return SweepTable(**{f: getattr(self, f) for f in self.__dataclass_fields__} | changes)
