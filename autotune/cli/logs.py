"""Logs for days of running: files that rotate with everything the process prints, and one JSON object per line on request."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from autotune.candidate import Candidate
from autotune.cli.options import writing
from autotune.cli.progress import PlainProgress, outcome_text, repetition_text
from autotune.cli.saying import TextFormatter, say
from autotune.records import TrialRecord

LogFormat = Literal["text", "json"]
FORMATS = ("text", "json")
MAX_BYTES = 10 * 2**20
N_KEPT = 5
"""Five files of 10 MiB beside the one that is written: at about 300 bytes a trial, more than 100,000 trials."""
_log = logging.getLogger("autotune.study")


@dataclass(slots=True, kw_only=True)
class LogContext:
    """What every line of a worker's log says beside its message. `trial`: the number under way, None between trials."""

    study: str
    worker: str = ""
    trial: int | None = None


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC, ISO 8601), level, logger, message, study, trial, worker; the traceback if any."""

    is_structured = True

    def __init__(self, context: LogContext) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "study": self._context.study,
            "trial": self._context.trial,
            "worker": self._context.worker,
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False, default=str)


class RotatingOutput(RotatingFileHandler):
    """A log file that is moved to `.1`, `.2`, … when it is full, and takes the descriptors that it was given along.

    What native libraries print on stdout and stderr goes to the file by its descriptor, with no pipe between: a crash loses
    nothing, and nobody waits for a reader. Processes that were started before keep the file that they had.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, n_kept: int = N_KEPT, descriptors: Sequence[int] = ()) -> None:
        self._descriptors = tuple(descriptors)
        self._told = False
        super().__init__(path, maxBytes=max_bytes, backupCount=n_kept, encoding="utf-8", errors="backslashreplace")
        self._lead()

    @property
    def leads_stderr(self) -> bool:
        """True where what is printed on stderr goes to the file as well."""
        return 2 in self._descriptors

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # the base class's name
        """True when the file is full, whoever filled it."""
        return os.fstat(self._file()).st_size >= self.maxBytes

    def doRollover(self) -> None:  # the base class's name
        """A new file is begun; the oldest is gone."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        super().doRollover()
        self._lead()

    def handleError(self, record: logging.LogRecord) -> None:  # the base class's name
        """A log that cannot be written is told once, where people look; the study goes on without."""
        fault = sys.exc_info()[1]
        if not isinstance(fault, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            say(f"the log {self.baseFilename} cannot be written: {fault.strerror}", before="warning: ")

    def _lead(self) -> None:
        for descriptor in self._descriptors:
            os.dup2(self._file(), descriptor)

    def _file(self) -> int:
        if self.stream is None:
            self.stream = self._open()
        return self.stream.fileno()


def set_up_logs(log_format: LogFormat, log_file: Path | None, context: LogContext) -> None:
    """The process logs from INFO on in the format, to a file that rotates or to stderr; text to stderr stays as it is.

    Where stdout leads to the file already, as in a process without a terminal, it and stderr follow its rotation; as JSON, what
    is printed past the log goes to `.out` beside it, because it is none. Raises EnvironmentProblem where the file
    cannot be written.
    """
    root = logging.getLogger()
    if log_file is None and log_format == "text":
        return
    handler: logging.Handler
    if log_file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        with writing(log_file):
            handler = _to_file(log_file, log_format)
    handler.setFormatter(JsonFormatter(context) if log_format == "json" else TextFormatter())
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(min(root.level, logging.INFO))


def _to_file(path: Path, log_format: LogFormat) -> logging.Handler:
    if not (path.exists() and os.path.samestat(os.fstat(1), path.stat())):
        return RotatingOutput(path)
    if log_format == "text":
        return RotatingOutput(path, descriptors=(1, 2))
    printed = RotatingOutput(path.with_suffix(".out"), descriptors=(1, 2))
    if os.fstat(1).st_size >= MAX_BYTES:
        printed.doRollover()
    return RotatingOutput(path)


def append_rotating(path: Path, content: bytes, max_bytes: int = MAX_BYTES, n_kept: int = N_KEPT) -> None:
    """The content stands at the end of the file, which is moved to `.1`, `.2`, … first where it is full; the oldest is gone.

    For a log that another host wrote and that arrives in pieces: a line is never parted between two files.
    """
    if path.exists() and path.stat().st_size >= max_bytes and tail(path, 1)[0].endswith(b"\n"):
        full = RotatingFileHandler(path, backupCount=n_kept, encoding="utf-8", delay=True)
        full.doRollover()
        full.close()
    with path.open("ab") as log:
        log.write(content)


class LoggedProgress(PlainProgress):
    """A study's progress as log records, for logs that machines read; `context` follows the trial under way."""

    def __init__(self, context: LogContext) -> None:
        super().__init__()
        self._context = context

    def trial_began(self, number: int, candidate: Candidate, role: str) -> None:
        """The number is on every line until the trial has ended."""
        self._context.trial = number
        _log.info("%s %d began: %s", role, number, candidate)

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        """One line for the reference; the study logs the others by itself."""
        if record.role == "reference":
            self._say(outcome_text(record, reference))
        self._context.trial = None

    def repeated(self, of: TrialRecord, record: TrialRecord, round_: int) -> None:
        """One line: of which trial, in which round, result."""
        self._say(repetition_text(of, record, round_))
        self._context.trial = None

    def _say(self, text: str) -> None:
        _log.info("%s", text.strip())


def tail(path: Path, n_lines: int) -> list[bytes]:
    """The last lines of a file, without reading what is before; fewer where it has fewer."""
    with path.open("rb") as file:
        position, found = file.seek(0, os.SEEK_END), b""
        while position > 0 and found.count(b"\n") <= n_lines:
            step = min(position, 65536)
            position -= step
            file.seek(position)
            found = file.read(step) + found
    return found.splitlines(keepends=True)[-n_lines:] if n_lines else []
