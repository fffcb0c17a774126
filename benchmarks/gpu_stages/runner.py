"""Stages in processes of their own, one JSON file each: what failed is recorded, and what is done is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.errors import AutotuneError, CandidateRejected
from gpu_stages import comparisons, contract, energy, ratio, rtx, studies
from gpu_stages.bench import Bench, machine_facts

Stage = Callable[[Bench], dict[str, Any]]
STAGES: dict[str, Stage] = {
    "rtx": rtx.run,
    "contract": contract.run,
    "resnet50": studies.resnet50,
    "mobilenet": studies.mobilenet,
    "ratio": ratio.run,
    "streams": comparisons.streams,
    "runtimes": comparisons.runtimes,
    "energy": energy.run,
}
"""Name → what it does. It returns the stage's result; with `unfinished` in it when there is more to do in a later run."""

_CARRIED = ("result", "machine", "gpus")
"""What a run that goes on takes over from the document of the one before."""
_PASSING = ("gpu.uuid", "host.memory_mib", "host.system")
"""Facts of a machine by which results are not told apart."""


def result_path(bench: Bench, name: str) -> Path:
    """Where a stage's result lies."""
    return bench.out / f"{name}.json"


def document_of(bench: Bench, name: str) -> dict[str, Any]:
    """What a stage wrote; nothing where it has not run."""
    path = result_path(bench, name)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def state_of(bench: Bench, name: str) -> str:
    """done, unfinished, failed, or "" for a stage that has not run: as `bench` asks for it, with as many rounds and trials."""
    document = document_of(bench, name)
    fewer = any(document.get(what, n) < n for what, n in (("rounds", bench.rounds), ("trials", bench.trials)))
    return "" if _other_loads(bench, document) or fewer else str(document.get("state", ""))


def _other_loads(bench: Bench, document: Mapping[str, Any]) -> bool:
    return bool(document.get("quick", bench.quick) != bench.quick)


def run_until_done(bench: Bench, names: Sequence[str], *, runs: int, again: bool = False) -> int:
    """Every stage has run, and those that are unfinished again, as often as `runs` in all; one that failed once more only.

    0 when all are done, else 1.
    """
    failed: dict[str, int] = {}
    pending = list(names)
    for _ in range(runs):
        run_stages(bench, pending, again=again)
        again = False
        for name in pending:
            failed[name] = failed.get(name, 0) + (state_of(bench, name) == "failed")
        pending = [n for n in pending if state_of(bench, n) != "done" and failed[n] < 2]
        if not pending:
            break
    return 0 if all(state_of(bench, name) == "done" for name in names) else 1


def run_stages(bench: Bench, names: Sequence[str], *, again: bool = False) -> int:
    """Every stage that is not done has been run once. 0 when all are done, else 1."""
    bench.work.mkdir(parents=True, exist_ok=True)
    for name in names:
        if again:
            result_path(bench, name).unlink(missing_ok=True)
        if state_of(bench, name) == "done":
            print(f"{name}: done before, {result_path(bench, name)}")
            continue
        print(f"{name}: …", flush=True)
        began = time.monotonic()
        if (why := _in_process(bench, name)) is not None:
            left = document_of(bench, name)  # what it wrote before it died, or what an earlier run left
            if _other_loads(bench, left):
                left = {}
                set_aside(bench, name)
            left = {k: v for k, v in left.items() if k not in ("rounds", "trials")}
            state = "unfinished" if "result" in left else "failed"
            _write(bench, name, {**left, "state": state, "error": why, "wall_s": time.monotonic() - began})
        print(f"{name}: {state_of(bench, name)} after {time.monotonic() - began:.0f} s", flush=True)
    return 0 if all(state_of(bench, name) == "done" for name in names) else 1


def _in_process(bench: Bench, name: str) -> str | None:
    """None where the stage's process ended by itself with a result, else why it did not."""
    path = result_path(bench, name)
    before = path.stat().st_mtime_ns if path.exists() else None
    process = subprocess.Popen(bench.command(name), start_new_session=True)
    try:
        status = process.wait(bench.limit_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as exc:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the trials' processes end with it
        process.wait()
        if isinstance(exc, KeyboardInterrupt):
            raise
        return f"did not end within {bench.limit_s:g} s"
    if status not in (0, 1):
        return f"its process ended with status {status}"
    written = path.exists() and path.stat().st_mtime_ns != before
    return None if written else f"its process ended with status {status} and left no result"


def run_one(bench: Bench, name: str) -> int:
    """The stage has run in this process, and its result or its error is written; while it runs, its result so far."""
    document: dict[str, Any] = {"stage": name, "state": "failed", "began": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    began = time.monotonic()
    bench.work.mkdir(parents=True, exist_ok=True)
    left = document_of(bench, name)
    if _other_loads(bench, left):
        _tell_anew(bench, name, f"--quick was {'on' if left['quick'] else 'off'} before")
        left = {}
    document |= {k: left[k] for k in _CARRIED if k in left}  # kept where this run fails before it has something of its own

    def keep(result: Mapping[str, Any]) -> None:
        document["result"] = {**result, "unfinished": True}
        _write(bench, name, {**document, "state": "unfinished", "wall_s": time.monotonic() - began})

    try:
        now = machine_facts()
        if why := why_anew(left.get("machine"), now):
            _tell_anew(bench, name, why)
            document = {k: v for k, v in document.items() if k not in _CARRIED} | {"began_anew": why}
        document["machine"] = now
        document["gpus"] = sorted({*document.get("gpus", ()), uuid_of(now)})
        result = STAGES[name](replace(bench, keep=keep, before=document.get("result", {}), anew=bool(why)))
        document |= {"result": result, "state": "unfinished" if result.get("unfinished") else "done"}
        if document["state"] == "done" and result.get("failed"):
            document |= {
                "state": "failed",
                "error": f"{result['failed']} of the checks failed: {', '.join(result['failures'])}",
            }
    except (AutotuneError, CandidateRejected) as exc:
        document["error"] = f"{type(exc).__name__}: {exc}"
    except Exception:
        document["error"] = traceback.format_exc()
    document["wall_s"] = time.monotonic() - began
    _write(bench, name, document)
    if "error" in document:
        print(document["error"], file=sys.stderr)
    return 0 if document["state"] == "done" else 1


def why_anew(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """Why what was measured on the machine `then` does not go on here: the facts that differ; empty where none does.

    Another card of the same kind is no other machine: lent GPUs come and go, and the result names all that it was measured on.
    """
    if then is None:
        return ""
    before, here = (dict(_leaves(json.loads(json.dumps(facts, default=str)))) for facts in (then, now))
    names = [n for n in {**before, **here} if n not in _PASSING and before.get(n) != here.get(n)]
    return "; ".join(f"{n} was {before.get(n)}, is {here.get(n)}" for n in names)


def uuid_of(machine: Mapping[str, Any]) -> str:
    """The card, as the driver knows it."""
    gpu = machine["gpu"]
    return str(gpu.get("uuid", "")) if isinstance(gpu, Mapping) else str(gpu)


def _leaves(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _tell_anew(bench: Bench, name: str, why: str) -> None:
    print(f"{name}: begins anew: {why}; what there was lies in {set_aside(bench, name)}", flush=True)


def set_aside(bench: Bench, name: str) -> Path:
    """The stage's result lies where no run looks for it; the place."""
    place = bench.out / f"{name}.before.json"
    result_path(bench, name).replace(place)
    return place


def _write(bench: Bench, name: str, document: dict[str, Any]) -> None:
    bench.out.mkdir(parents=True, exist_ok=True)
    asked = {"quick": bench.quick, "rounds": bench.rounds, "trials": bench.trials}
    document = {"stage": name, **asked, **document}
    partial = result_path(bench, name).with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1, default=str) + "\n")
    partial.replace(result_path(bench, name))
