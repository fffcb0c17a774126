"""Making room: the artifacts that were not used for longest go, but none that a front needs, that is in use or being made."""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autotune.cache.artifact import MANIFEST
from autotune.cache.disk import shown_bytes
from autotune.cache.inventory import SCRATCH_SUFFIX, Entry, entries, lock_path, scratch_prefix
from autotune.cache.locks import is_free, locked
from autotune.cache.pins import pinned, pins
from autotune.errors import EnvironmentProblem

_log = logging.getLogger(__name__)
_LEAST_BYTES = 4096
"""Smaller ones are remembered rejections and the like: they free nothing and save a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What making room did: what is left in the cache, and the artifacts that are gone (or would be)."""

    left_bytes: int
    gone: tuple[Entry, ...] = ()

    @property
    def freed_bytes(self) -> int:
        """The size of what is gone."""
        return sum(e.size_bytes for e in self.gone)


def make_room(root: Path, at_most_bytes: int, found: Iterable[Entry] | None = None) -> Room:
    """Artifacts are removed, least recently used first, until the rest takes at most so many bytes or no other may go.

    `found`: what is there, if it is known. A pin that cannot be read keeps everything.
    """
    found = entries(root) if found is None else list(found)
    left = sum(e.size_bytes for e in found)
    gone = []
    try:
        kept: Container[str] = pinned(root, pins(root)) if left > at_most_bytes else ()
    except EnvironmentProblem as exc:
        _log.warning("%s", exc)
        return Room(left_bytes=left)
    for entry in sorted(found, key=lambda e: (e.used_at, e.name)):
        if left <= at_most_bytes:
            break
        if entry.size_bytes >= _LEAST_BYTES and entry.name not in kept and remove(entry):
            left -= entry.size_bytes
            gone.append(entry)
    if gone:
        freed = shown_bytes(sum(e.size_bytes for e in gone))
        _log.info("cache=%s evicted=%d freed=%r left=%r", root, len(gone), freed, shown_bytes(left))
    return Room(left_bytes=left, gone=tuple(gone))


def remove(entry: Entry) -> bool:
    """True when the artifact is gone; False, and it is as it was, where somebody makes, reads, uses or has just used it.

    It vanishes as a whole, by rename, before its files are removed one by one.
    """
    manifest = entry.folder / MANIFEST
    try:
        with locked(lock_path(entry.folder), wait=False) as alone:
            if not alone or not is_free(manifest) or manifest.stat().st_mtime > entry.used_at:
                return False
            # A name of our own: on a full disk not even an empty folder can be made.
            grave = entry.folder.with_name(f"{scratch_prefix(entry.key)}{secrets.token_hex(4)}{SCRATCH_SUFFIX}")
            entry.folder.rename(grave)
            shutil.rmtree(grave, ignore_errors=True)
            lock_path(entry.folder).unlink(missing_ok=True)
    except OSError as exc:
        with suppress(OSError):
            if not entry.folder.exists():
                return True
        _log.info("cache artifact %s was not removed: %s", entry.name, exc)
        return False
    return True
