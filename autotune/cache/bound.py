"""How large a cache may become, and how large it is without looking at every file after every artifact."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from autotune.errors import EnvironmentProblem

VARIABLE = "AUTOTUNE_CACHE_MAX_GIB"
LOW_WATER = 0.9
"""Share of the bound that is left once it was met, so that not every further artifact begins with a look at all of them."""
_TALLY = ".size"
_VALID_S = 24 * 3600.0
"""After a day everything is counted again: people remove files, older versions add some."""


def bound_bytes(root: Path, max_gib: float | None, used_bytes: int) -> int:
    """The most that artifacts may take: `max_gib`, else $AUTOTUNE_CACHE_MAX_GIB, else half of what were free without them.

    Raises EnvironmentProblem where the variable is no number above 0.
    """
    if max_gib is None and (text := os.environ.get(VARIABLE)):
        try:
            max_gib = float(text)
        except ValueError:
            max_gib = -1.0
        if not 0 < max_gib <= 1e9:
            raise EnvironmentProblem(f"{VARIABLE} is {text!r}.", remedy=f"{VARIABLE}=50, a number of GiB above 0")
    if max_gib is not None:
        return int(max_gib * 2**30)
    return (shutil.disk_usage(root).free + used_bytes) // 2


class Tally:
    """The bytes in a cache as all processes that use it have counted them, in a small file. Wrong numbers mend themselves."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = root / _TALLY, clock

    def add(self, n_bytes: int) -> int | None:
        """The bytes with `n_bytes` more; None where they must be counted anew."""
        with suppress(OSError, ValueError):
            descriptor = os.open(self._path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                counted, at = os.read(descriptor, 100).decode("ascii").split()
                total = int(counted) + n_bytes
                if not 0 <= self._clock() - float(at) < _VALID_S:
                    return None
                self._write(descriptor, f"{total} {at}")
                return total
            finally:
                os.close(descriptor)
        return None

    def set(self, n_bytes: int) -> None:
        """This many were counted just now."""
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._write(descriptor, f"{n_bytes} {self._clock():.0f}")
            finally:
                os.close(descriptor)

    @staticmethod
    def _write(descriptor: int, text: str) -> None:
        os.pwrite(descriptor, text.encode("ascii"), 0)
        os.ftruncate(descriptor, len(text))
