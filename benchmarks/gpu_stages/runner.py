"""Stages in processes of their own, one JSON file each: what failed is recorded, and what is done is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autotune.errors import AutotuneError, CandidateRejected
from gpu_stages import comparisons, contract, energy, ratio, studies
from gpu_stages.bench import Bench, machine_facts

LIMIT_S = 480.0
"""A stage that takes longer is ended: whoever lends a GPU may take it back after ten minutes."""

Stage = Callable[[Bench], dict[str, Any]]
STAGES: dict[str, Stage] = {
    "contract": contract.run,
    "resnet50": studies.resnet50,
    "mobilenet": studies.mobilenet,
    "ratio": ratio.run,
    "streams": comparisons.streams,
    "runtimes": comparisons.runtimes,
    "energy": energy.run,
}
"""Name → what it does. It returns the stage's result; with `unfinished` in it when there is more to do in a later run."""


def result_path(bench: Bench, name: str) -> Path:
    """Where a stage's result lies."""
    return bench.out / f"{name}.json"


def state_of(bench: Bench, name: str) -> str:
    """done, unfinished, failed, or "" for a stage that has not run."""
    path = result_path(bench, name)
    return str(json.loads(path.read_text())["state"]) if path.exists() else ""


def run_stages(bench: Bench, names: Sequence[str], *, again: bool = False, limit_s: float = LIMIT_S) -> int:
    """Every stage that is not done has been run. 0 when all are done, else 1."""
    bench.work.mkdir(parents=True, exist_ok=True)
    for name in names:
        if state_of(bench, name) == "done" and not again:
            print(f"{name}: done before, {result_path(bench, name)}")
            continue
        print(f"{name}: …", flush=True)
        began = time.monotonic()
        if (why := _in_process(bench, name, limit_s)) is not None:
            _write(bench, name, {"state": "failed", "error": why, "wall_s": time.monotonic() - began})
        print(f"{name}: {state_of(bench, name)} after {time.monotonic() - began:.0f} s", flush=True)
    return 0 if all(state_of(bench, name) == "done" for name in names) else 1


def _in_process(bench: Bench, name: str, limit_s: float) -> str | None:
    """None where the stage's process wrote its own result, else why it did not."""
    before = result_path(bench, name).stat().st_mtime_ns if result_path(bench, name).exists() else None
    process = subprocess.Popen(bench.command(name), start_new_session=True)
    try:
        status = process.wait(limit_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as exc:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the trials' processes end with it
        process.wait()
        if isinstance(exc, KeyboardInterrupt):
            raise
        return f"did not end within {limit_s:g} s"
    path = result_path(bench, name)
    if path.exists() and path.stat().st_mtime_ns != before:
        return None
    return f"its process ended with status {status} and left no result"


def run_one(bench: Bench, name: str) -> int:
    """The stage has run in this process, and its result or its error is written."""
    document: dict[str, Any] = {"stage": name, "state": "failed", "began": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    began = time.monotonic()
    bench.work.mkdir(parents=True, exist_ok=True)
    try:
        document["machine"] = machine_facts()
        result = STAGES[name](bench)
        document |= {"result": result, "state": "unfinished" if result.get("unfinished") else "done"}
    except (AutotuneError, CandidateRejected) as exc:
        document["error"] = f"{type(exc).__name__}: {exc}"
    except Exception:
        document["error"] = traceback.format_exc()
    document["wall_s"] = time.monotonic() - began
    _write(bench, name, document)
    if "error" in document:
        print(document["error"], file=sys.stderr)
    return 0 if document["state"] == "done" else 1


def _write(bench: Bench, name: str, document: dict[str, Any]) -> None:
    bench.out.mkdir(parents=True, exist_ok=True)
    document = {"stage": name, "quick": bench.quick, **document}
    partial = result_path(bench, name).with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1, default=str) + "\n")
    partial.replace(result_path(bench, name))
