"""Stages resnet50 and mobilenet: a study of at least 40 trials each, over as many runs as it takes."""

from __future__ import annotations

import threading
from typing import Any

from autotune.cli.progress import PlainProgress
from autotune.store.repository import open_store
from autotune.store.worker import this_worker
from autotune.study.loop import StopSwitch, StudyResult, run_study
from autotune.study.plan import StudyPlan
from autotune.study.scoring import best
from gpu_stages.bench import Bench
from gpu_stages.models import mobilenet_plan, resnet50_plan

STOP_AFTER_S = 330.0
"""Then no further trial begins: the last one may take 90 s, and 60 s are the finalists'."""
MLPERF_H200_ITEMS_PER_S = 94_620
"""ResNet-50, offline, per H200: what MLPerf Inference's published results come to, in int8, with trained weights, on servers of
eight. Set beside our figure for its scale: neither software, accuracy nor host are the same."""


def resnet50(bench: Bench) -> dict[str, Any]:
    """A study of ResNet-50 with random weights at 224², every format that this GPU and the engines have."""
    found = _study(resnet50_plan(bench))
    if (items := (found.get("best") or {}).get("throughput_items_per_s")) is not None:
        found["mlperf_h200_items_per_s"] = MLPERF_H200_ITEMS_PER_S
        found["share_of_mlperf_h200"] = items["value"] / MLPERF_H200_ITEMS_PER_S
    return found


def mobilenet(bench: Bench) -> dict[str, Any]:
    """A study of MobileNetV2 on real images: at most one point of top-1 under the unmodified model."""
    return _study(mobilenet_plan(bench))


def _study(plan: StudyPlan) -> dict[str, Any]:
    switch = StopSwitch()
    timer = threading.Timer(STOP_AFTER_S, switch.press)
    timer.daemon = True
    timer.start()
    with PlainProgress() as progress:
        result = run_study(plan, open_store(plan.spec.storage), this_worker(), progress, switch)
    timer.cancel()
    return _told(plan, result)


def _told(plan: StudyPlan, result: StudyResult) -> dict[str, Any]:
    winner = best(result.records, plan.spec)
    reasons: dict[str, int] = {}
    for record in result.records:
        if record.reject is not None:
            reasons[record.reject.reason] = reasons.get(record.reject.reason, 0) + 1
    return {
        "unfinished": result.ended == "stopped",
        "ended": result.ended,
        "n_trials": len(result.records),
        "states": {s: sum(r.state == s for r in result.records) for s in ("complete", "rejected", "crashed")},
        "rejected_for": reasons,
        "pairs": [list(pair) for pair in plan.space.pairs],
        "reference": result.reference.as_json() if result.reference else None,
        "best": winner.as_json() if winner else None,
        "front": [r.as_json() for r in result.front],
        "trials": [r.as_json() for r in result.records],
        "spent_s": dict(result.overhead_s),
        "study_s": result.wall_s,
    }
