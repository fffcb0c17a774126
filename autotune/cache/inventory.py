"""What lies in a cache: finished artifacts with their size and last use, and what killed processes left behind."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autotune.cache.artifact import MANIFEST
from autotune.cache.locks import locked

PINS = "pins"
NOT_KINDS = frozenset({"logs", "timings", "journal", PINS})
"""Folders of a cache that hold no artifacts. The logs of trials count nevertheless: see `trial_logs`."""
_SCRATCH = re.compile(r"^\.(?P<key>.+)-[a-z0-9_]{8}\.part$")
_OLDER_SCRATCH = re.compile(r"^\.(?P<key>[0-9a-f]{24})-[a-z0-9_]{8}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A finished artifact, or the log of a trial (`trial_logs`). `size_bytes`: of its files. `used_at`: seconds since 1970, the
    time of its manifest, or of the log's last change.
    """

    kind: str
    key: str
    folder: Path
    size_bytes: int
    used_at: float

    @property
    def name(self) -> str:
        """kind/key."""
        return f"{self.kind}/{self.key}"


def scratch_prefix(key: str) -> str:
    """With it begins the folder in which an artifact is made; `SCRATCH_SUFFIX` ends it."""
    return f".{key}-"


SCRATCH_SUFFIX = ".part"


def entries(root: Path) -> list[Entry]:
    """Every finished artifact, those that are removed meanwhile left out. Nothing else below `root` is taken for one."""
    return [entry for kind in kind_folders(root) for entry in _entries_of(kind)]


def kind_folders(root: Path) -> list[Path]:
    """The folders that hold artifacts, by name."""
    with suppress(OSError):
        found = (p for p in root.iterdir() if not p.name.startswith(".") and p.name not in NOT_KINDS)
        return sorted(p for p in found if p.is_dir() and not p.is_symlink())
    return []


def _entries_of(folder: Path) -> Iterator[Entry]:
    with suppress(OSError), os.scandir(folder) as found:
        for item in found:
            if item.name.startswith(".") or not item.is_dir(follow_symlinks=False):
                continue
            path = Path(item.path)
            with suppress(OSError):
                used_at = (path / MANIFEST).stat().st_mtime
                yield Entry(kind=folder.name, key=item.name, folder=path, size_bytes=size_of(path), used_at=used_at)


def size_of(folder: Path) -> int:
    """The bytes of all files below the folder; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118  # ten thousands of them
    return total


def _scratches(folder: Path) -> Iterator[tuple[str, Path]]:
    """(key, folder) of every place in which an artifact of this kind is or was being made."""
    with suppress(OSError), os.scandir(folder) as items:
        for item in [i for i in items if i.name.startswith(".")]:
            found = _SCRATCH.match(item.name) or _OLDER_SCRATCH.match(item.name)
            if found is not None and item.is_dir(follow_symlinks=False):
                yield found["key"], Path(item.path)


def leftovers(folder: Path) -> Iterator[Path]:
    """Folders in which a process that is gone was making an artifact of this kind, each while nobody can begin to make it."""
    for key, path in _scratches(folder):
        with locked(lock_path(folder / key), wait=False) as alone:
            if alone:
                yield path


def clear_own_leftovers(target: Path) -> None:
    """Folders in which processes that are gone were making this artifact are removed. The caller holds its lock."""
    for key, path in _scratches(target.parent):
        if key == target.name:
            shutil.rmtree(path, ignore_errors=True)


def lock_path(target: Path) -> Path:
    """The file whose lock whoever makes, reads or removes the artifact in the folder `target` holds."""
    return target.with_name(f"{target.name}.lock")


def sweep(folder: Path) -> int:
    """No leftovers are in this kind's folder; the bytes they took."""
    freed = 0
    for path in leftovers(folder):
        freed += size_of(path)
        shutil.rmtree(path, ignore_errors=True)
    return freed
