"""From what a sweep measured to its table: artifacts with their uncached times, points, and what a rejection implies."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.candidate import Candidate
from autotune.records import Rejection, TrialRecord
from autotune.simulator.table import ARTIFACTS, Artifact, ArtifactKind, EngineFacts, Load, Point, SweepTable
from autotune.study.plan import StudyPlan

_SHARED = {"prune": "prune", "variant": "variant", "engine": "engine", "accuracy": "accuracy"}
"""By the stage of a rejection, the artifact that is rejected with it. In any other stage it is the setting's own fault."""
_LONGEST_MESSAGE = 160


def artifact_key(plan: StudyPlan, kind: ArtifactKind, candidate: Candidate) -> str | None:
    """What the artifact depends on, in words; None where the candidate's trial makes none of that kind.

    Two engines may share a variant whose graph is the same for both; a record knows that, a candidate does not.
    """
    c, ratio = candidate, f"prune {candidate.pruning_ratio:g}"
    if kind == "prune":
        return ratio if c.pruning_ratio > 0 else None
    variant = f"{c.engine}/{c.precision} {ratio}"
    if kind == "engine":
        built = sorted(plan.space.build_knobs_of.get(c.engine, ()))
        return " ".join([variant, *(f"{k}={getattr(c, k)}" for k in built)])
    return variant


def implied_rejection(plan: StudyPlan, candidate: Candidate, known: Iterable[TrialRecord]) -> TrialRecord | None:
    """The rejected trial of another setting that rejects this candidate as well, because both share what was rejected."""
    for record in known:
        kind: Any = _SHARED.get(record.reject.stage) if record.reject and record.state == "rejected" else None
        if kind and artifact_key(plan, kind, record.candidate) == artifact_key(plan, kind, candidate):
            return record
    return None


def compiled_table(
    plan: StudyPlan,
    values: Mapping[str, Any],
    grid: Sequence[Candidate],
    reference: TrialRecord,
    records: Mapping[Candidate, Sequence[TrialRecord]],
    model: Mapping[str, str],
    recorded: Mapping[str, Any],
) -> SweepTable:
    """The table of the grid's candidates that were measured or whose rejection follows from one that was.

    An artifact's time is that of the trial that made it; one that was made in no trial that is known (a variant that the
    reference made, say) has the time that the reference shows for it.
    """
    rows = _Rows(plan)
    for record in (reference, *(r for found in records.values() for r in found)):
        rows.take_in(record)
    rejected = [r for found in records.values() for r in found if r.state == "rejected"]
    points = []
    for candidate in grid:
        found = records.get(candidate, ())
        if found:
            points.append(_point(candidate, found, rows.of(found[-1])))
        elif (like := implied_rejection(plan, candidate, rejected)) is not None:
            points.append(replace(_point(candidate, [like], rows.of_implied(candidate, like)), inferred=True))
    points = _with_probes(points)
    spec = plan.spec
    return SweepTable(
        study=spec.study,
        model=model,
        device=plan.fingerprint,
        metric=spec.data.metric,
        objectives=spec.objectives,
        constraints=spec.constraints,
        load=spec.load,
        price_per_hour=spec.price_per_hour,
        pairs=plan.space.pairs,
        values={k: tuple(v) for k, v in values.items()},
        engines={
            name: EngineFacts(
                knobs=plan.space.knobs_of[name],
                build_knobs=plan.space.build_knobs_of.get(name, frozenset()),
                defaults=dict(plan.space.defaults_of[name]),
            )
            for name in plan.space.engines
        },
        priors=plan.priors,
        reference=replace(reference, telemetry=(), repetitions=()),
        reference_artifacts=rows.of(reference),
        artifacts=tuple(rows.artifacts),
        points=tuple(points),
        missing=len(grid) - len(points),
        recorded=recorded,
    )


class _Rows:
    """The artifacts' rows. A key is the artifact's own where a record tells it, so that engines share what they share."""

    def __init__(self, plan: StudyPlan) -> None:
        self.artifacts: list[Artifact] = []
        self._plan = plan
        self._row_of: dict[tuple[ArtifactKind, str], int] = {}

    def take_in(self, record: TrialRecord) -> None:
        """What the trial made is a row; what it found is one, too, of no time until the trial that made it is seen."""
        for kind in ARTIFACTS:
            key = self._key(kind, record)
            if key is None or kind not in record.stage_s:
                continue
            row = self._row_of.setdefault((kind, key), len(self.artifacts))
            if row == len(self.artifacts):
                self.artifacts.append(Artifact(kind=kind, seconds=0.0))
            made = self.artifacts[row]
            if kind not in record.cached:
                made = replace(made, seconds=max(made.seconds, record.stage_s[kind]))
            if kind == "accuracy":
                made = replace(made, accuracy=record.accuracy, drop=record.accuracy_drop)
            self.artifacts[row] = made

    def of(self, record: TrialRecord) -> dict[ArtifactKind, int]:
        """The rows of what the trial made or found."""
        found = {}
        for kind in ARTIFACTS:
            key = self._key(kind, record)
            if key is not None and (kind, key) in self._row_of:
                found[kind] = self._row_of[kind, key]
        return found

    def of_implied(self, candidate: Candidate, like: TrialRecord) -> dict[ArtifactKind, int]:
        """The rows that a candidate would use whose rejection follows from that of `like`: the same, up to the engine.

        Where a build knob differs its engine is another one, taken to cost as much to build as that of `like`.
        """
        found = self.of(like)
        key = artifact_key(self._plan, "engine", candidate) or ""
        if "engine" in found and key != artifact_key(self._plan, "engine", like.candidate):
            row = self._row_of.setdefault(("engine", f"implied {key}"), len(self.artifacts))
            if row == len(self.artifacts):
                self.artifacts.append(self.artifacts[found["engine"]])
            found["engine"] = row
        return found

    def _key(self, kind: ArtifactKind, record: TrialRecord) -> str | None:
        if kind == "variant" and record.variant is not None:
            return record.variant.key
        if kind == "engine" and record.engine_key is not None:
            return record.engine_key
        if kind == "accuracy" and record.scores_key is not None:
            return record.scores_key
        return artifact_key(self._plan, kind, record.candidate)


def _point(candidate: Candidate, found: Sequence[TrialRecord], artifacts: Mapping[ArtifactKind, int]) -> Point:
    """The candidate's point from its trials, of which one without a result decides."""
    failed = next((r for r in found if r.state != "complete"), None)
    last = failed or found[-1]
    return Point(
        candidate=candidate,
        state=last.state,
        reject=None if last.reject is None else _tidy(last.reject),
        artifacts=artifacts,
        open_s=_median(r.stage_s.get("open") for r in found),
        probe_s=_median(r.stage_s.get("accuracy") if "accuracy" in r.cached else None for r in found),
        other_s=_median(max(0.0, r.duration_s - sum(s for k, s in r.stage_s.items() if k != "data")) for r in found),
        loads=() if failed else tuple(load for r in found if (load := _load(r)) is not None),
    )


def _with_probes(points: Sequence[Point]) -> list[Point]:
    """The points; one that ran only where its accuracy was not known yet has the median time that its engine's others took."""
    known: dict[str, list[float]] = {}
    for p in points:
        if p.probe_s > 0:
            known.setdefault(p.candidate.engine, []).append(p.probe_s)
    usual = {engine: statistics.median(found) for engine, found in known.items()}
    return [p if p.probe_s > 0 else replace(p, probe_s=usual.get(p.candidate.engine, 0.0)) for p in points]


def _load(record: TrialRecord) -> Load | None:
    rate = record.throughput_items_per_s
    if rate is None or rate.value <= 0:
        return None
    p99, energy = record.latency_ms.p99, record.energy_j_per_item
    return Load(
        items_per_s=rate.value,
        half_width=rate.half_width / rate.value,
        windows=rate.n,
        seconds=record.stage_s["load"],
        p99_ms=p99.value if p99 else None,
        memory_mib=record.peak_memory_mib,
        energy_j=energy.value if energy else None,
    )


def _median(values: Iterable[float | None]) -> float:
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else 0.0


def _tidy(reject: Rejection) -> Rejection:
    """The reason's first line without folders of the machine."""
    line = reject.message.splitlines()[0] if reject.message else ""
    return replace(reject, message=without_folders(line)[:_LONGEST_MESSAGE])


def without_folders(text: str) -> str:
    """The text with every absolute path cut to its file's name."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "…/", text)


def model_of(plan: StudyPlan, digest: str) -> dict[str, str]:
    """Name and digest of the study's model, for the table."""
    source: Path | None = plan.spec.model.path or plan.spec.model.weights
    return {"name": source.name if source else str(plan.spec.model.torch), "digest": digest}
