"""What others took of this host's CPUs: steal by the hypervisor, and the time of foreign processes, from /proc/stat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from autotune.fingerprint import usable_cores

_LIMIT_SHARE, _LIMIT_CORES = 0.05, 0.5
"""A window is disturbed when others held more than 5 % of the usable CPUs, or more than half of one: on many cores one busy
neighbour is a small share, but an engine's threads wait for each other at the end of every layer."""
_BUSY = (0, 1, 2, 5, 6)
_STEAL = 7
"""Columns of a cpu line in /proc/stat (proc(5)): user, nice, system, irq, softirq; steal. Guests count as user already."""


class HostCpu:
    """A meter of the CPUs that this process may run on. Reading it costs two small files and no thread of its own.

    `lap()` gives the share of the usable CPU time since the last call that this process could not have had. Where a container's
    quota lets it use fewer CPUs than it may run on, others matter only as far as they leave fewer free than that.
    """

    def __init__(
        self,
        stat: Path = Path("/proc/stat"),
        own_s: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
        cpus: frozenset[int] | None = None,
        usable: int | None = None,
        ticks_per_s: int | None = None,
    ) -> None:
        self._stat, self._own_s, self._clock = stat, own_s, clock
        self._cpus = frozenset(os.sched_getaffinity(0)) if cpus is None else cpus
        self._usable = usable_cores() if usable is None else usable
        self._ticks_per_s = ticks_per_s or os.sysconf("SC_CLK_TCK")
        self.limit = min(_LIMIT_SHARE, _LIMIT_CORES / self._usable)
        self._last = self._read()

    def lap(self) -> float:
        """The share since the last call, 0…1. Raises OSError where there is no /proc."""
        now, before = self._read(), self._last
        self._last = now
        elapsed, busy, steal, own = (b - a for a, b in zip(before, now, strict=True))
        if elapsed <= 0:
            return 0.0
        foreign = max(0.0, busy - own) / elapsed + steal / elapsed
        free = len(self._cpus) - foreign
        return min(1.0, max(0.0, self._usable - free) / self._usable)

    def _read(self) -> tuple[float, float, float, float]:
        """Wall time, busy and stolen time of our CPUs, and this process's own, all in seconds."""
        busy = steal = 0
        for line in self._stat.read_text().splitlines():
            name, *columns = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in self._cpus:
                ticks = [int(c) for c in columns]
                busy += sum(ticks[i] for i in _BUSY if i < len(ticks))
                steal += ticks[_STEAL] if len(ticks) > _STEAL else 0
        return self._clock(), busy / self._ticks_per_s, steal / self._ticks_per_s, self._own_s()


def host_cpu() -> HostCpu | None:
    """The meter, or None where the host does not tell."""
    try:
        meter = HostCpu()
        meter.lap()
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return meter
