"""The journal of a sweep under way: one JSON line per event, appended, so that a sweep that was killed goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.candidate import Candidate
from autotune.errors import SpecError
from autotune.records import TrialRecord

_CLOCK_S = 2.0
"""File systems keep times more coarsely than the clock; what was made within so much of a trial's beginning belongs to it."""


@dataclass(slots=True)
class Journal:
    """What a sweep has measured so far. `identity`: of study, grid and machine; a journal of another is refused.

    `reference`: its record. `records`: of each candidate, in the order in which they were measured.
    """

    path: Path
    identity: str
    reference: TrialRecord | None = None
    records: dict[Candidate, list[TrialRecord]] = field(default_factory=dict)
    spent_s: float = 0.0
    begun_at: str = ""
    interrupted_at: float | None = None

    @staticmethod
    def open(path: Path, identity: str, now: str) -> Journal:
        """The journal at `path`, begun `now` or found. Raises SpecError where it belongs to another sweep."""
        journal = Journal(path=path, identity=identity, begun_at=now)
        events = list(_lines(path)) if path.exists() else []
        if not events:
            journal.append({"sweep": identity, "at": now})
            return journal
        if events[0].get("sweep") != identity:
            raise SpecError(
                f"{path}: was begun with another study, grid or machine; allowed: the same ones, or another --out, or "
                "remove the file to begin anew"
            )
        journal.begun_at = events[0]["at"]
        for event in events[1:]:
            journal._take_in(event)
        return journal

    def _take_in(self, event: Mapping[str, Any]) -> None:
        if "begin" in event:
            self.interrupted_at = float(event["begin"])
            return
        self.interrupted_at = None
        record = TrialRecord.from_json(event["record"])
        self.spent_s += record.duration_s
        if record.role == "reference":
            self.reference = record
        else:
            self.records.setdefault(record.candidate, []).append(record)

    def begin(self, now_s: float) -> None:
        """A measurement begins: if no result follows, it was interrupted."""
        self.append({"begin": now_s})

    def add(self, record: TrialRecord) -> None:
        """The measurement that had begun is done."""
        event = {"record": record.as_json()}
        self.append(event)
        self._take_in(event)

    def append(self, event: Mapping[str, Any]) -> None:
        """The line is on the disk."""
        with self.path.open("a") as handle:
            handle.write(json.dumps(event, separators=(",", ":")) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def forget_interrupted(self, cache_root: Path) -> None:
        """What an interrupted measurement left in the cache is gone, for nobody knows how long it took to make."""
        if self.interrupted_at is None:
            return
        for folder in cache_root.glob("*/*"):
            if folder.is_dir() and folder.stat().st_mtime >= self.interrupted_at - _CLOCK_S:
                shutil.rmtree(folder)
        self.interrupted_at = None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The events; a last line that was cut off in the middle of writing is cut off from the file, too."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as handle:
            handle.truncate(whole)
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            event = json.loads(line)
        except ValueError as exc:
            raise SpecError(f"{path}:{number}: found no JSON ({exc}); allowed: a journal of `autotune sweep`") from exc
        yield event


def wall_s() -> float:
    """Seconds since 1970, the clock of file systems."""
    return time.time()
