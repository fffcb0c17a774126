"""What TensorRT says, kept, and what it means: TensorRT fails by answering None or False and a line in its log."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autotune.engines.tensorrt_api import Trt
from autotune.errors import BuildFailed, CandidateRejected, OutOfMemory, Unstable, Unsupported

_KEPT = 20_000
"""Lines kept of one log: a long build at level 5 writes hundreds of thousands, and its end is what tells."""
_SHOWN, _SHOWN_CHARACTERS = 3, 500

_WORKSPACE = re.compile(
    r"within workspace limit|workspace memory|insufficient memory on requested size|memory is insufficient to use tactic|"
    r"increas\w* the .*workspace",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"out of memory|OutOfMemory|MemoryAllocation|bad_alloc|CUDA error 2\b|cudaError 2\b", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"not supported|unsupported|does(n't| not) support|HW-specific datatypes|cannot compile operation|"
    r"requires? hardware|no kernel image|not (been )?implemented",
    re.IGNORECASE,
)
"""The words of TensorRT 10, as public reports quote them, and of TensorRT for RTX 1.7, where they were provoked."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """`severity`: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE."""

    severity: str
    text: str


class Log(Protocol):
    """TensorRT's ILogger that keeps its lines, the last of them where there are too many."""

    lines: deque[LogLine]


def make_log(trt: Trt) -> Log:
    """A new logger. It must live as long as whatever it was given to; TensorRT may write from any thread."""

    base = trt.ILogger

    class KeptLines(base):  # type: ignore[misc, valid-type]  # the base is there at run time only
        def __init__(self) -> None:
            base.__init__(self)
            self.lines: deque[LogLine] = deque(maxlen=_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            self.lines.append(LogLine(severity.name, msg))  # an exception here would end the process

    made: Log = KeptLines()
    return made


def write_log(log: Log, path: Path) -> None:
    """The kept lines are in the file."""
    path.write_text("".join(f"[{line.severity}] {line.text}\n" for line in list(log.lines)), encoding="utf-8")


def words(log: Log, *, extra: Iterable[str] = ()) -> str:
    """What went wrong in TensorRT's own words: `extra`, then the first errors, or the last warnings where there are none."""
    lines = list(log.lines)
    errors = _of(lines, "INTERNAL_ERROR", "ERROR")
    told = [*extra, *errors] or _of(lines, "WARNING")[-_SHOWN:]
    shown = [" ".join(text.split())[:_SHOWN_CHARACTERS] for text in dict.fromkeys(told)][:_SHOWN]
    return " | ".join(shown) or "TensorRT gave no reason"


def rejection(
    log: Log, what: str, stage: str, *, pool_mib: int | None = None, extra: Iterable[str] = (), exc: BaseException | None = None
) -> CandidateRejected:
    """What TensorRT's refusal means for the candidate. `what`: what was asked, and answered by None or False.

    `pool_mib`: the workspace limit of the build under way, which is then named where it is too small. `exc`: what the bindings
    raised. Unstable where nothing more is known of a failure under load, else BuildFailed.
    """
    raised = [] if exc is None else [f"{type(exc).__name__}: {exc}"]
    lines = list(log.lines)
    errors = " ".join([*extra, *raised, *_of(lines, "INTERNAL_ERROR", "ERROR")])
    told = f"{what}: {words(log, extra=[*extra, *raised])}"
    cramped = _WORKSPACE.search(errors + " ".join(_of(lines, "WARNING")))
    if cramped and stage == "engine" and pool_mib is not None:
        return BuildFailed(f"memory_pool_mib={pool_mib} is too small a workspace for the builder. {told}", stage=stage)
    if _MEMORY.search(errors) or cramped:
        cap = f" with memory_pool_mib={pool_mib}" if pool_mib is not None else ""
        return OutOfMemory(f"TensorRT ran out of memory{cap}. {told}", stage=stage)
    if _UNSUPPORTED.search(errors):
        return Unsupported(told, stage=stage)
    return Unstable(told, stage=stage) if stage == "load" else BuildFailed(told, stage=stage)


def _of(lines: Iterable[LogLine], *severities: str) -> list[str]:
    return [line.text for line in lines if line.severity in severities]
