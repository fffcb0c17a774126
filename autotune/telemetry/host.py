"""Probes of the host: processor time, steal, frequency, resident memory, and energy where RAPL may be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.telemetry.sampler import Probe

_POWERCAP = Path("/sys/class/powercap")


class FunctionProbe:
    """A probe from a function that reads the value; `absent` when it cannot be read even once."""

    def __init__(self, metric: str, unit: str, read: Callable[[], float], *, every: int = 1) -> None:
        self.metric, self.unit, self._read, self.every = metric, unit, read, every
        self.absent: str | None = None
        try:
            read()
        except (OSError, RuntimeError, ValueError, AttributeError, IndexError, NotImplementedError) as exc:
            self.absent = f"{type(exc).__name__}: {exc}"

    def read(self) -> float:
        """The metric now."""
        return self._read()


class RaplEnergy:
    """Energy of all CPU packages since some moment, in joules, from Linux powercap (Intel and AMD Zen).

    Readable by root only since Linux 5.10 (CVE-2020-8694) and absent in virtual machines. The counters wrap at
    max_energy_range_uj, which is taken into account as long as it is read once per wrap.
    """

    def __init__(self, root: Path = _POWERCAP) -> None:
        self._packages = sorted(p for p in root.glob("*-rapl:*") if p.name.count(":") == 1)
        self._last: dict[Path, int] = {}
        self._total_uj = 0

    def read_j(self) -> float:
        """Joules since the first call. Raises OSError when no counter is there or may be read."""
        if not self._packages:
            raise FileNotFoundError("no RAPL counter under /sys/class/powercap (virtual machine, or no driver)")
        for package in self._packages:
            now = int((package / "energy_uj").read_text())
            step = now - self._last.get(package, now)
            if step < 0:
                step += int((package / "max_energy_range_uj").read_text())
            self._last[package] = now
            self._total_uj += step
        return self._total_uj / 1e6


def host_probes(pid: int | None = None) -> tuple[Probe, ...]:
    """Probes of this host and of the process `pid` (default: this one)."""
    import psutil

    process: Any = psutil.Process(pid or os.getpid())
    psutil.cpu_percent()
    process.cpu_percent()
    return (
        FunctionProbe("cpu_percent", "%", psutil.cpu_percent),
        FunctionProbe("process_cpu_percent", "%", process.cpu_percent),
        FunctionProbe("process_rss_mib", "MiB", lambda: process.memory_info().rss / 2**20),
        FunctionProbe("available_memory_mib", "MiB", lambda: psutil.virtual_memory().available / 2**20),
        FunctionProbe("cpu_frequency_mhz", "MHz", lambda: float(psutil.cpu_freq().current)),
        FunctionProbe("cpu_steal_s", "s", lambda: float(psutil.cpu_times().steal)),
        FunctionProbe("cpu_energy_j", "J", RaplEnergy().read_j),
    )
