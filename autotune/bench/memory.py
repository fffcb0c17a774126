"""Peak resident memory of this process over a span, from the kernel's own high-water mark."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_mib() -> float:
    """Resident memory now, in MiB, after giving free heap pages back. Raises OSError where there is no /proc."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # not glibc: the figure then holds what the allocator keeps
    return _field("VmRSS")


def reset_peak() -> None:
    """The high-water mark starts again from the resident memory of now (proc(5): clear_refs, value 5)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The high-water mark of resident memory since the last reset, in MiB."""
    return _field("VmHWM")


def _field(name: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{_STATUS} has no {name}")
