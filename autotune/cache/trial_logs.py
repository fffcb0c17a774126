"""The logs of trials, which count in a cache's size and go like its artifacts: the oldest first, a study's newest never."""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import get_args

from autotune.cache.inventory import Entry, entries, size_of
from autotune.cache.locks import is_free
from autotune.records import TrialRole

KIND = "trial-logs"
KEPT_LOGS = 300
"""Of each study so many stay, the newest: who looks for the reason of a failure looks there."""
_LOG, _LOADGEN = ".log", ".loadgen"
AHEAD = "ahead"
"""What the log of a build is called that was made ahead, beside the trial of that number."""
_NAME = re.compile(rf"^(?:{'|'.join((*get_args(TrialRole), AHEAD))})-\d{{5,}}(?={_LOG}$|{_LOADGEN}$)")
"""Not start.log, worker-1.log and their like, which rotate by themselves."""


def everything(root: Path) -> list[Entry]:
    """All that counts in the size of the cache: finished artifacts and logs of trials."""
    return entries(root) + trial_logs(root)


def trial_logs(root: Path) -> list[Entry]:
    """The logs of all trials, each with what LoadGen wrote beside it. `key`: STUDY/ROLE-NUMBER; `used_at`: the last change."""
    found = []
    for study in _folders(root / "logs"):
        stems = set()
        with suppress(OSError), os.scandir(study) as items:
            stems = {match[0] for item in items if (match := _NAME.match(item.name))}
        for stem in stems:
            files = [study / f"{stem}{suffix}" for suffix in (_LOG, _LOADGEN)]
            times = [t for t in map(_changed_at, files) if t is not None]
            if times:
                size = log_bytes(files[0])
                found.append(
                    Entry(kind=KIND, key=f"{study.name}/{stem}", folder=study / stem, size_bytes=size, used_at=max(times))
                )
    return found


def log_bytes(log: Path) -> int:
    """The size of a trial's log and of what LoadGen wrote beside it."""
    size = size_of(log.with_suffix(_LOADGEN))
    with suppress(OSError):
        size += log.stat().st_size
    return size


def newest_logs(found: Iterable[Entry]) -> set[str]:
    """The names of the logs that stay."""
    studies: dict[str, list[Entry]] = defaultdict(list)
    for entry in found:
        if entry.kind == KIND:
            studies[entry.folder.parent.name].append(entry)
    newest = (sorted(logs, key=lambda e: (e.used_at, e.name))[-KEPT_LOGS:] for logs in studies.values())
    return {entry.name for logs in newest for entry in logs}


def remove_log(entry: Entry) -> bool:
    """True when the log is gone; False where its trial is under way or wrote to it since. A trial holds a lock on its log."""
    log = entry.folder.with_name(entry.folder.name + _LOG)
    loadgen = log.with_suffix(_LOADGEN)
    if log.exists() and not is_free(log):
        return False
    if any((at := _changed_at(path)) is not None and at > entry.used_at for path in (log, loadgen)):
        return False
    shutil.rmtree(loadgen, ignore_errors=True)
    with suppress(OSError):
        log.unlink(missing_ok=True)
    return not log.exists()


def _folders(logs: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(p for p in logs.iterdir() if p.is_dir() and not p.is_symlink())
    return []


def _changed_at(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except OSError:
        return None
