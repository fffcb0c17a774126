"""Stages resnet50 and mobilenet: a study of at least 40 trials each, over as many runs as it takes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from autotune.cli.progress import PlainProgress
from autotune.records import FINISHED, TrialRecord
from autotune.store.repository import Store, open_store
from autotune.store.worker import this_worker
from autotune.study.loop import StopSwitch, run_study
from autotune.study.plan import StudyPlan
from autotune.study.scoring import best
from gpu_stages.bench import MLPERF_H200_ITEMS_PER_S, Bench
from gpu_stages.models import mobilenet_plan, resnet50_plan

ASKED_FORMATS = ("fp16", "bf16", "int8", "fp8")
_LAST_TRIAL_S = 60.0
"""What is left free for the trial under way when the study's hours are over: an engine of ResNet-50 takes about that to build.
One that takes longer is put back, and begun again by the next run."""
_MARGIN_S = 15.0
"""For the result, and for Python and its libraries at the beginning, which the process's own clock does not see."""


def resnet50(bench: Bench) -> dict[str, Any]:
    """A study of ResNet-50 with random weights at 224², every format that this GPU and the engines have."""
    found = _study(bench, resnet50_plan(bench))
    if (items := (found.get("best") or {}).get("throughput_items_per_s")) is not None:
        found["mlperf_h200_items_per_s"] = MLPERF_H200_ITEMS_PER_S
        found["share_of_mlperf_h200"] = items["value"] / MLPERF_H200_ITEMS_PER_S
    return found


def mobilenet(bench: Bench) -> dict[str, Any]:
    """A study of MobileNetV2 on real images: at most one point of top-1 under the unmodified model."""
    return _study(bench, mobilenet_plan(bench))


def hours_of(bench: Bench, spent_s: float) -> float:
    """The study's budget, which counts what was spent in earlier runs: so much that this run ends in time, finalists too."""
    return (spent_s + max(1.0, bench.left_s - _MARGIN_S - _LAST_TRIAL_S)) / 3600


def _study(bench: Bench, plan: StudyPlan) -> dict[str, Any]:
    if bench.anew:
        forget_study(plan)
    store, switch = open_store(plan.spec.storage), StopSwitch()
    timers = [threading.Timer(max(0.0, bench.left_s - _MARGIN_S), switch.press) for _ in range(2)]  # twice: at once
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        with _Kept(bench, plan, store) as progress:
            hours = hours_of(bench, _spent_s(plan, store))
            result = run_study(plan, store, this_worker(), progress, switch, hours=hours)
    finally:
        for timer in timers:
            timer.cancel()
    return _told(plan, result.records, result.reference) | {
        "unfinished": result.ended == "stopped" or (result.ended == "hours" and len(result.records) < bench.trials),
        "ended": result.ended,
        "front": [r.as_json() for r in result.front],
        "spent_s": dict(result.overhead_s),
        "study_s": result.wall_s,
    }


def forget_study(plan: StudyPlan) -> None:
    """The study has no trials: its database lies beside, as it was."""
    if plan.spec.file is not None:
        for path in plan.spec.file.parent.glob("study.db*"):
            path.replace(path.with_name(f"before-{path.name}"))


def _spent_s(plan: StudyPlan, store: Store) -> float:
    """What earlier runs of the study spent on trials, as the study itself counts it against its hours."""
    row = store.study(plan.spec.study)
    return 0.0 if row is None else sum(r.duration_s for r in store.trials(row.id, FINISHED, ("search", "final", "canary")))


class _Kept(PlainProgress):
    """Lines for a person, and the result so far for the stage's file, after every trial and every repetition."""

    def __init__(self, bench: Bench, plan: StudyPlan, store: Store) -> None:
        super().__init__()
        self._bench, self._plan, self._store = bench, plan, store

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        """One line, and the result with this trial."""
        super().trial_ended(record, front, reference)
        self._keep()

    def repeated(self, of: TrialRecord, record: TrialRecord, round_: int) -> None:
        """One line, and the result with this repetition."""
        super().repeated(of, record, round_)
        self._keep()

    def _keep(self) -> None:
        row = self._store.study(self._plan.spec.study)
        if row is None:
            return
        records = self._store.trials(row.id, FINISHED, ("search",))
        references = self._store.trials(row.id, ("complete",), ("reference",))
        self._bench.keep(_told(self._plan, records, references[-1] if references else None))


def _formats(plan: StudyPlan, records: Sequence[TrialRecord]) -> dict[str, Any]:
    """For each format that was asked for: the engines that have it and how many trials ran in it, or why there is none."""
    found: dict[str, Any] = {}
    for precision in ASKED_FORMATS:
        engines = [engine for engine, p in plan.space.pairs if p == precision]
        mine = [r for r in records if r.candidate.precision == precision]
        found[precision] = {
            "engines": engines,
            "trials": len(mine),
            "complete": sum(r.state == "complete" for r in mine),
            "refused": {r.engine: r.reason for r in plan.space.removed if r.knob == "precision" and r.what == precision},
        }
    return found


def _told(plan: StudyPlan, records: Sequence[TrialRecord], reference: TrialRecord | None) -> dict[str, Any]:
    winner = best(records, plan.spec)
    reasons: dict[str, int] = {}
    for record in records:
        if record.reject is not None:
            reasons[record.reject.reason] = reasons.get(record.reject.reason, 0) + 1
    return {
        "n_trials": len(records),
        "states": {s: sum(r.state == s for r in records) for s in ("complete", "rejected", "crashed")},
        "rejected_for": reasons,
        "pairs": [list(pair) for pair in plan.space.pairs],
        "formats": _formats(plan, records),
        "reference": reference.as_json() if reference else None,
        "best": winner.as_json() if winner else None,
        "trials": [r.as_json() for r in records],
    }
