"""The real engines, in which a fault strikes when the benchmark orders one; autotune finds them as any engine of outsiders.

Orders are files in the folder that AUTOTUNE_FAULTS names. The process that takes one renames it, so that one process takes it:
`order-build.json`, `order-open.json` and `order-run.json`, each {"kind": segv | hang | oom | exit, "spare": [candidates]}.
Imported by a study's process, this module also writes down what its observer hears (events.jsonl), and shifts the wall clock by
the seconds in the file `clock`: that of the study and of its trials, in `datetime.now` as they use it. The monotonic clock, the
database's clock and the files' times are not shifted.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np

from autotune.candidate import Candidate
from autotune.engines.onnxruntime_cpu import OnnxRuntimeCpu
from autotune.engines.openvino_cpu import OpenVinoCpu
from autotune.engines.protocol import Engine, Session
from autotune.variants.variant import ModelVariant

FOLDER = Path(os.environ.get("AUTOTUNE_FAULTS", "/nonexistent"))
_LOOK_EVERY_S = 0.02
"""How often an execution looks for an order: seldom enough not to be seen in a throughput."""


class _Faulty:
    """What both engines have in common: a look for orders before the real work."""

    preload: tuple[str, ...] = ("fault_injection.engines",)

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The real build, unless a fault is ordered."""
        strike_if_ordered("build", candidate)
        super().build(variant, candidate, folder)  # type: ignore[misc]  # the engine that it is mixed into

    def open(self, engine: Engine, candidate: Candidate) -> Session:
        """The real session, whose executions look for orders."""
        strike_if_ordered("open", candidate)
        session: Any = super().open(engine, candidate)  # type: ignore[misc]
        session.submit = _watched(session.submit, candidate)
        return session  # type: ignore[no-any-return]


class FaultyOnnxRuntime(_Faulty, OnnxRuntimeCpu):
    """ONNX Runtime."""

    name = "faulty-onnxruntime"
    preload = (*OnnxRuntimeCpu.preload, *_Faulty.preload)


class FaultyOpenVino(_Faulty, OpenVinoCpu):
    """OpenVINO."""

    name = "faulty-openvino"
    preload = (*OpenVinoCpu.preload, *_Faulty.preload)


def _watched(submit: Callable[[Any, int], None], candidate: Candidate) -> Callable[[Any, int], None]:
    next_look = 0.0

    def watched(inputs: Any, slot: int) -> None:
        nonlocal next_look
        now = time.monotonic()
        if now >= next_look:
            next_look = now + _LOOK_EVERY_S
            strike_if_ordered("run", candidate)
        submit(inputs, slot)

    return watched


def strike_if_ordered(where: str, candidate: Candidate) -> None:
    """The process dies, hangs or eats memory, if that was ordered for this place and not for everybody but this candidate."""
    path = FOLDER / f"order-{where}.json"
    if not path.exists():
        return
    try:
        order = json.loads(path.read_text())
        if str(candidate) in order["spare"]:
            return
        path.rename(FOLDER / f"taken-{os.getpid()}.json")
    except (OSError, ValueError):
        return  # another process took it
    kind = order["kind"]
    if kind == "segv":
        ctypes.string_at(0)
    elif kind == "hang":
        threading.Event().wait()
    elif kind == "exit":
        os._exit(7)
    hoard = []
    while True:
        hoard.append(np.ones(16 << 20, dtype=np.uint8))
        time.sleep(0.002)


class _Shifted(datetime):
    """The wall clock, as far from the real one as the file `clock` says."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        try:
            offset = float((FOLDER / "clock").read_text())
        except (OSError, ValueError):
            offset = 0.0
        return datetime.now(tz) + timedelta(seconds=offset)


def _shift_clocks() -> None:
    from autotune.trial import pipeline

    pipeline.datetime = _Shifted  # type: ignore[attr-defined]
    if canary := sys.modules.get("autotune.study.canary"):
        canary.datetime = _Shifted  # type: ignore[attr-defined]


def _write_down(event: str, **facts: Any) -> None:
    line = json.dumps({"t": time.time(), "pid": os.getpid(), "event": event, **facts}) + "\n"
    with (FOLDER / "events.jsonl").open("a") as log:
        log.write(line)


def _listen(progress: Any) -> None:
    """What the observer hears is written down before it hears it."""
    facts: dict[str, Callable[..., dict[str, Any]]] = {
        "planned": lambda plan, n_finished, target: {"study": plan.spec.study},
        "trial_began": lambda number, candidate, role: {"number": number, "candidate": str(candidate), "role": role},
        "stage_began": lambda stage: {"stage": stage},
        "trial_ended": lambda record, front, reference: {
            "number": record.number, "role": record.role, "state": record.state,
            "reject": record.reject and record.reject.message.splitlines()[0],
        },
        "repeated": lambda of, record, round_: {"number": record.number, "role": record.role, "state": record.state},
        "note": lambda text: {"text": text},
    }  # fmt: skip
    for name, told in facts.items():
        _listen_to(progress.PlainProgress, name, told)


def _listen_to(observer: Any, name: str, told: Callable[..., dict[str, Any]]) -> None:
    original = getattr(observer, name)

    def heard(self: Any, *args: Any) -> None:
        _write_down(name, **told(*args))
        original(self, *args)

    setattr(observer, name, heard)


if FOLDER.is_dir():
    _shift_clocks()
    if found := sys.modules.get("autotune.cli.progress"):
        _listen(found)
