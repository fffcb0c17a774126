"""Journal: finished trials that are on their way to the database, on this host's disk.

A line is written and synced before a record is sent to the database, and taken away when the database has it. So what was
measured outlives an absence of the database, also when the process is killed meanwhile. Each worker has a file of its own:

    FOLDER/WORKER.jsonl     {"digest": SHA-256 of the entry, "entry": {"trial_id": …, "worker": {…}, "record": {…}}} per line
    FOLDER/WORKER.damaged   lines of such a file that could not be read, kept for a person to look at
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autotune.records import Series, TrialRecord
from autotune.store.worker import WorkerIdentity, is_alive

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A finished trial, the id of its row, and who measured it."""

    trial_id: int
    worker: WorkerIdentity
    record: TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What a file of a journal holds: entries in the order of writing, and how many lines were set aside as damaged."""

    entries: tuple[Entry, ...]
    n_damaged: int


class Journal:
    """One worker's journal of one study. A disk that cannot be written to costs the carry-over, not the study."""

    def __init__(self, folder: Path, worker: WorkerIdentity) -> None:
        self.folder = folder
        self._worker = worker
        self.path = folder / f"{worker.worker_id}.jsonl"
        self.n_waiting = 0

    def add(self, trial_id: int, record: TrialRecord) -> None:
        """The record is on this host's disk, if the disk takes it."""
        line = line_of(Entry(trial_id=trial_id, worker=self._worker, record=record))
        try:
            with exclusive(self.folder):
                _append(self.path, line)
        except OSError as exc:
            _log.warning("journal=%s trial=%d not kept: %s", self.path, record.number, exc)
            return
        self.n_waiting += 1

    def settle(self) -> None:
        """The database has all that was added: nothing waits any more."""
        self.n_waiting = 0
        try:
            remove(self.path)
        except OSError as exc:
            _log.warning("journal=%s is stored already, but stays: %s", self.path, exc)


def left_behind(folder: Path, me: WorkerIdentity) -> list[Path]:
    """The files of workers that are not alive, oldest first, and of `me`. The folder's lock must be held."""
    found = []
    for path in sorted(filter(_is_ours, folder.glob("*.jsonl")), key=lambda p: p.stat().st_mtime):
        owners = {e.worker for e in _lines(path)[0]}
        if all(o.worker_id == me.worker_id or is_alive(o) is not True for o in owners):
            found.append(path)
    return found


def _is_ours(path: Path) -> bool:
    """A file, and no link, pipe or folder: anything else was put there by somebody, and could hang or mislead who opens it."""
    return path.is_file() and not path.is_symlink()


def remove(path: Path) -> None:
    """The file is gone, and was not while another process looked at it."""
    with exclusive(path.parent):
        path.unlink(missing_ok=True)


def read(path: Path) -> Pages:
    """The file's entries. Damaged lines are set aside with a warning; a last line that a kill cut off is dropped."""
    entries, damaged = _lines(path)
    if damaged:
        _log.warning("journal=%s n_damaged=%d set aside in %s", path, len(damaged), path.with_suffix(".damaged"))
        _append(path.with_suffix(".damaged"), b"".join(line + b"\n" for line in damaged))
    return Pages(entries=tuple(entries), n_damaged=len(damaged))


def _lines(path: Path) -> tuple[list[Entry], list[bytes]]:
    entries, damaged = [], []
    *whole, torn = path.read_bytes().split(b"\n")
    for line in whole:
        entry = entry_of(line)
        if entry is not None:
            entries.append(entry)
        else:
            damaged.append(line)
    if torn:
        # The process was killed while it wrote: the trial's end was not told to anybody yet, and it is measured again.
        _log.info("journal=%s its last line was cut off", path)
    return entries, damaged


def line_of(entry: Entry) -> bytes:
    """The entry as a line, with its digest."""
    record = {**entry.record.as_json(), "telemetry": [asdict(s) for s in entry.record.telemetry]}
    values = {"trial_id": entry.trial_id, "worker": asdict(entry.worker), "record": record}
    # Through JSON once, so that the digest is that of what will be read.
    values = json.loads(json.dumps(values))
    return json.dumps({"digest": _digest(values), "entry": values}).encode() + b"\n"


def _digest(values: Any) -> str:
    # Not the canonical JSON: a dying engine's message may hold what UTF-8 does not, and telemetry what is not finite.
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def entry_of(line: bytes) -> Entry | None:
    """The entry that the line holds, None where it is not what was written."""
    try:
        document = json.loads(line)
        values: dict[str, Any] = document["entry"]
        if document["digest"] != _digest(values):
            return None
        record = dict(values["record"])
        telemetry = tuple(_series(s) for s in record.pop("telemetry"))
        worker = WorkerIdentity(**values["worker"])
        hash(worker)  # of texts and numbers: a list would fail later
        return Entry(
            trial_id=int(values["trial_id"]),
            worker=worker,
            record=replace(TrialRecord.from_json(record), telemetry=telemetry),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _series(values: dict[str, Any]) -> Series:
    return Series(**{**values, "t_s": tuple(values["t_s"]), "values": tuple(values["values"])})


def _append(path: Path, content: bytes) -> None:
    """The content stands at the file's end, on the disk, in one piece or, after an error, not at all."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before = os.fstat(file).st_size
        try:
            if os.write(file, content) != len(content):
                raise OSError(errno.ENOSPC, "no space for the whole line")
            os.fsync(file)
        except OSError:
            os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Inside the block no other process of this host reads or writes the folder's journals. The folder is there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
