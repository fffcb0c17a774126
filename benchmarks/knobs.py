"""What each of the six knobs does on each CPU engine: one varied, the others fixed, every row in a process of its own.

    python benchmarks/knobs.py STUDY.yaml --out benchmarks/results/knobs.json

STUDY.yaml gives model, data and load (for instance the one that benchmarks/mobilenet.py leaves in its --work folder). Prints
throughput with its interval and peak memory. The memory pool is varied at the largest batch, where it matters.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.candidate import Candidate
from autotune.cli.running import checked_plan
from autotune.records import TrialRecord
from autotune.study.apart import run_apart
from autotune.study.lock import device_lock
from autotune.study.plan import StudyPlan
from autotune.trial.isolation import TrialProcess

VALUES: dict[str, tuple[Any, ...]] = {
    "precision": ("fp32", "fp16", "bf16", "int8"),
    "pruning_ratio": (0.0, 0.2, 0.5),
    "batch_size": (1, 4, 16),
    "streams": (1, 2, 4),
    "worker_threads": (1, 2),
    "memory_pool_mib": (16, 32, 64, 128, 256, None),
}


def candidates(plan: StudyPlan, engine: str) -> Iterator[tuple[str, Candidate]]:
    """Pairs of the varied knob and the candidate; knobs and precisions that the engine lacks are left out."""
    base = replace(plan.space.default_candidate(engine), batch_size=4, streams=2)
    for knob, values in VALUES.items():
        if not (knob in ("precision", "pruning_ratio") or knob in plan.space.knobs_of[engine]):
            continue
        able = plan.backends[engine].capabilities().precisions
        for value in values:
            if knob == "precision" and value not in able:
                continue
            start = replace(base, batch_size=16) if knob == "memory_pool_mib" else base
            yield knob, replace(start, **{knob: value})


def main() -> None:
    """Prints a row per candidate and writes all records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    plan = checked_plan(arguments.study)
    rows = []
    with TrialProcess(plan.preload) as process, device_lock("cpu"):
        reference = _run(plan, process, plan.reference, None)
        for engine in plan.space.engines:
            for knob, candidate in candidates(plan, engine):
                record = _run(plan, process, candidate, reference.scores_key)
                rows.append({"knob": knob, **record.as_json()})
                print(_line(knob, record), flush=True)
    if arguments.out:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.out).write_text(json.dumps({"device": plan.fingerprint.device, "rows": rows}, indent=2) + "\n")


def _line(knob: str, record: TrialRecord) -> str:
    head = f"{record.candidate.engine:<12} {knob:<16} {getattr(record.candidate, knob)!s:>6}"
    rate = record.throughput_items_per_s
    if rate is None:
        return f"{head}  {record.state}: {record.reject.message.splitlines()[0] if record.reject else ''}"
    accuracy = record.accuracy.value if record.accuracy else float("nan")
    return f"{head}  {rate.value:9.1f} ±{rate.half_width:6.1f} items/s  {record.peak_memory_mib or 0:7.1f} MiB  {accuracy:.4f}"


def _run(plan: StudyPlan, process: TrialProcess, candidate: Candidate, scores: str | None) -> TrialRecord:
    unconstrained = plan.spec.model_copy(update={"constraints": type(plan.spec.constraints)()})
    return run_apart(plan, process, candidate, scores, spec=unconstrained)


if __name__ == "__main__":
    main()
