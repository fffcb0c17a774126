"""Everything that can go wrong, as one tree.

    AutotuneError
    ├── SpecError            the user's YAML, model or data is wrong    exit 2
    ├── EnvironmentProblem   missing library, device or permission      exit 3
    │   └── DiskFull         no space, no quota or no permission to write
    ├── StoreError           database unreachable or wrong schema       exit 4
    └── ExportError          bundle incomplete or fails its check       exit 5

    CandidateRejected        one trial cannot be; recorded, the study goes on (not an AutotuneError)
    ├── Unsupported          the model, the engine or the device cannot do this
    ├── BuildFailed          the engine's builder or the variant's maker gave up
    ├── OutOfMemory          the engine or the trial's process needs more than it may have
    ├── Unstable             the engine ran but gave wrong, missing or non-finite results
    │   └── DeviceFault      the device failed in a way that its process cannot recover from
    ├── DeadlineExceeded     the trial took longer than it may
    ├── WorkerCrashed        the trial's process died (signal, exit code)
    ├── AccuracyTooLow       measured, and under the study's constraint
    └── BuiltOnly            the engine was built, as asked, and nothing was measured

`cli` catches AutotuneError, `trial.pipeline` catches CandidateRejected; nothing else catches either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.redact import without_password


class AutotuneError(Exception):
    """Something the user can mend; the message says what was asked, what was found and what to do."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecProblem:
    """One fault in a study file. `file` and `line` (from 1) say where; `key` is the dotted path; `allowed` what would do."""

    key: str
    found: str
    allowed: str
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line is not None else f"{self.file}: " if self.file else ""
        # What stands in a wrong place may be the URL of a database.
        return without_password(f"{where}{self.key}: found {self.found}; allowed: {self.allowed}")


class SpecError(AutotuneError):
    """The study file, or a model or data file it names, is wrong; `problems` lists every fault found."""

    exit_code = 2

    def __init__(self, problems: Sequence[SpecProblem] | str) -> None:
        self.problems: tuple[SpecProblem, ...] = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, self.problems)))


class EnvironmentProblem(AutotuneError):
    """This machine lacks a library, a device or a permission; `remedy` is the command that helps."""

    exit_code = 3

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(f"{message} Try: {remedy}" if remedy else message)


class DiskFull(EnvironmentProblem):
    """The disk that should hold an artifact takes no more; the message says which, how much is free and what to do."""


class StoreError(AutotuneError):
    """The database cannot be reached, or its schema is not the one this version writes."""

    exit_code = 4


class StoreAway(StoreError):
    """The user stopped the study while it waited for a database that is away; nothing measured is lost."""

    exit_code = 130


class ExportError(AutotuneError):
    """A deployment bundle is incomplete, damaged or misses its promise."""

    exit_code = 5


class CandidateRejected(Exception):
    """One candidate cannot be deployed as asked; recorded with `reason`, `stage` and message.

    `deterministic` says that trying again on this machine gives the same answer, so that the cache may remember it.
    """

    reason = "rejected"
    deterministic = True

    def __init__(self, message: str, *, stage: str, log_path: Path | None = None) -> None:
        self.stage = stage
        self.log_path = log_path
        super().__init__(message)


class Unsupported(CandidateRejected):
    """The model, the engine or the device cannot do what the candidate asks; the obstacle is named."""

    reason = "unsupported"


class BuildFailed(CandidateRejected):
    """The engine's builder, or a tool that makes the variant, gave up."""

    reason = "build_failed"


class OutOfMemory(CandidateRejected):
    """The arena, the device or the trial's process needs more memory than it may have."""

    reason = "out_of_memory"
    deterministic = False


class Unstable(CandidateRejected):
    """The engine ran, but its results are wrong, missing or not finite. Other settings of the same engine may do better."""

    reason = "unstable"
    deterministic = False


class DeadlineExceeded(CandidateRejected):
    """The trial took longer than its deadline and was ended."""

    reason = "deadline_exceeded"
    deterministic = False


class WorkerCrashed(CandidateRejected):
    """The trial's process died: a signal, an exit code, or an unexpected exception whose traceback is the message."""

    reason = "worker_crashed"
    deterministic = False


class DeviceFault(Unstable):
    """The device failed so that the process can do nothing more with it: what CUDA calls a sticky error."""

    reason = "device_fault"


class AccuracyTooLow(CandidateRejected):
    """The built engine's accuracy misses the study's constraint."""

    reason = "accuracy_too_low"


class BuiltOnly(CandidateRejected):
    """The variant and the engine are there, which was all that was asked for; nothing was opened or measured."""

    reason = "built_only"
    deterministic = False
