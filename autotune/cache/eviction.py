"""Making room: what was not used for longest goes, but nothing that a front needs, that is in use or being made.

Logs of trials go with the artifacts, but for the newest of each study.
"""

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
from autotune.cache.inventory import SCRATCH_SUFFIX, Entry, lock_path, scratch_prefix
from autotune.cache.locks import is_free, locked
from autotune.cache.pins import pinned, pins
from autotune.cache.trial_logs import KIND, everything, newest_logs, remove_log
from autotune.errors import EnvironmentProblem

_log = logging.getLogger(__name__)
_LEAST_BYTES = 4096
"""Smaller artifacts are remembered rejections and the like: they free nothing and save a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What making room did: what is left in the cache, and the artifacts and logs that are gone (or would be)."""

    left_bytes: int
    gone: tuple[Entry, ...] = ()

    @property
    def freed_bytes(self) -> int:
        """The size of what is gone."""
        return sum(e.size_bytes for e in self.gone)


def make_room(root: Path, at_most_bytes: int, found: Iterable[Entry] | None = None) -> Room:
    """Artifacts and logs are removed, least recently used first, until the rest takes at most so many bytes or no other may go.

    `found`: what is there, if it is known. A pin that cannot be read keeps everything.
    """
    found = everything(root) if found is None else list(found)
    left = sum(e.size_bytes for e in found)
    gone = []
    try:
        kept: Container[str] = {*pinned(root, pins(root)), *newest_logs(found)} if left > at_most_bytes else ()
    except EnvironmentProblem as exc:
        _log.warning("%s", exc)
        return Room(left_bytes=left)
    for entry in sorted(found, key=lambda e: (e.used_at, e.name)):
        if left <= at_most_bytes:
            break
        large = entry.size_bytes >= _LEAST_BYTES or entry.kind == KIND
        if large and entry.name not in kept and remove(entry):
            left -= entry.size_bytes
            gone.append(entry)
    if gone:
        freed = shown_bytes(sum(e.size_bytes for e in gone))
        _log.info("cache=%s evicted=%d freed=%r left=%r", root, len(gone), freed, shown_bytes(left))
    return Room(left_bytes=left, gone=tuple(gone))


def remove(entry: Entry) -> bool:
    """True when the artifact or log is gone; False, and it is as it was, where somebody makes, reads, uses or has just used it.

    An artifact vanishes as a whole, by rename, before its files are removed one by one.
    """
    if entry.kind == KIND:
        return remove_log(entry)
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
