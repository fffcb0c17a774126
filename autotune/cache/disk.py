"""Disks that are full: told apart from other failures, and said so that somebody can mend it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.errors import DiskFull

_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
}
_PROBE_BYTES = 1 << 20


def disk_fault(exc: BaseException | None) -> int | None:
    """The errno of a full disk, a used-up quota or a read-only file system among the causes of `exc`; else None."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        if isinstance(exc, OSError) and exc.errno in _CAUSES:
            return exc.errno
        exc = exc.__cause__ or exc.__context__
    return None


def fault_of(folder: Path) -> int | None:
    """The errno that a megabyte more in the folder fails with; None where it fits.

    Libraries that run out of space say so in a hundred ways, some as a failed build: the disk is asked instead.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(os.urandom(_PROBE_BYTES))  # not zeros, which some file systems do not store
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as exc:
        return exc.errno if exc.errno in _CAUSES else None
    return None


def disk_full(folder: Path, number: int) -> DiskFull:
    """What is told of a write in `folder` that failed with that errno."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = ""
    try:
        found = shutil.disk_usage(place)
        free = f" Free there: {shown_bytes(found.free)} of {shown_bytes(found.total)}."
    except OSError:
        pass
    return DiskFull(
        f"cannot write to {folder}: {_CAUSES.get(number, os.strerror(number))} ({os.strerror(number)}).{free} What was "
        "measured is kept, nothing half-written is left, and the next start goes on.",
        remedy="autotune cache clean; or free space there, or another folder as `cache:` of the study or in $AUTOTUNE_CACHE",
    )


@contextmanager
def telling_disk_faults(folder: Path) -> Iterator[None]:
    """A disk that is full inside the block is told as DiskFull of `folder`; everything else is raised as it is."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as exc:
        number = disk_fault(exc)
        if number is None:
            raise
        raise disk_full(folder, number) from exc


def shown_bytes(n: float) -> str:
    """Bytes in the unit that people would say."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while abs(n) >= 1024 and power < len(units) - 1:
        n, power = n / 1024, power + 1
    return f"{n:.0f} {units[power]}" if power < 3 else f"{n:.1f} {units[power]}"
