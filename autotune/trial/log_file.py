"""The log of one trial, kept short: its first and its last part stay, and a line between them says how much was cut."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 4 << 20
"""What is left of a log once its trial has ended."""
_RUNNING_BYTES = 16 << 20
"""A log is cut as soon as it is seen to be longer: what an engine prints fills no disk and ends no trial that measures well."""
_HALF_BYTES = MOST_BYTES // 2 - 64
_CUT = re.compile(rb"\n--- (\d+) bytes were cut here ---\n")
_TAIL_BYTES = 64 << 10


def keep_short(log: Path) -> None:
    """The log of a trial under way does not grow without end. The trial opens it to append, so it goes on after the cut."""
    _cut_above(_RUNNING_BYTES, log)


def settle(log: Path) -> None:
    """The log of a trial that has ended is short; an empty one is gone."""
    _cut_above(MOST_BYTES, log)
    with suppress(OSError):
        if log.stat().st_size == 0:
            log.unlink()


def last_lines(log: Path, n: int) -> list[str] | None:
    """The last lines of the log; None where there is no log."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - _TAIL_BYTES))
            return handle.read(_TAIL_BYTES).decode(errors="replace").splitlines()[-n:]
    except OSError:
        return None


def _cut_above(most: int, log: Path) -> None:
    with suppress(OSError):
        if log.stat().st_size > most:
            with log.open("r+b", buffering=0) as handle:
                _cut(handle.fileno())


def _cut(log: int) -> None:
    """The middle is gone. What is written meanwhile stays, but for what comes between the last look and the cut.

    The end is moved before the file is cut, so that a trial which sees its log shorter writes after all that it wrote before.
    """
    size = os.fstat(log).st_size
    before = _CUT.match(os.pread(log, 64, _HALF_BYTES))
    begin = _HALF_BYTES + (len(before[0]) if before else 0)
    tail = os.pread(log, _HALF_BYTES, max(begin, size - _HALF_BYTES))
    n_cut = (int(before[1]) if before else 0) + size - begin - len(tail)
    end = _HALF_BYTES + os.pwrite(log, b"\n--- %d bytes were cut here ---\n" % n_cut + tail, _HALF_BYTES)
    end += os.pwrite(log, os.pread(log, _HALF_BYTES, size), end)
    os.ftruncate(log, end)
