"""How often a trial is tried: twice, whatever ended the first try, and not a third time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.errors import DeviceFault
from autotune.records import PROCESS_ENDED, Rejection, TrialRecord
from autotune.store.failed_tries import FailedTry
from autotune.study.session import StudySession
from autotune.trial.pipeline import now_utc
from autotune.trial.request import TrialRequest

MAX_TRIES = 2
"""One failure may be the machine's (its out-of-memory killer, a driver that was restarted), a second is the candidate's."""


def tried(run: StudySession, request: TrialRequest, once: Callable[[], TrialRecord]) -> TrialRecord:
    """The record of the first try that came to an end of its own, or a rejection that tells of all that did not.

    A try fails when its process dies, has to be ended, or loses the device. Those of dead workers count too; the database
    remembers them.
    """
    counted = request.role != "reference"
    failed = run.store.failed_tries(run.study.id, request.role, request.candidate, request.number) if counted else []
    found: TrialRecord | None = None
    while len(failed) < MAX_TRIES:
        found = once()
        if not is_failed_try(found) or found.reject is None:
            return found
        attempt = sum(f.number == request.number for f in failed)
        failed.append(FailedTry(number=request.number, attempt=attempt, rejection=found.reject))
        if counted:
            run.store.add_failed_try(run.study.id, request.role, request.candidate, run.worker, failed[-1])
        if len(failed) < MAX_TRIES:
            run.observer.note(
                f"{request.role} trial {request.number} is tried once more, in a fresh process: {_line(found.reject)}"
            )
    return _rejected(found or _untried(request), failed)


def is_failed_try(record: TrialRecord) -> bool:
    """True when the trial's process died, was ended at a limit, or could not use the device any more."""
    return PROCESS_ENDED in record.flags or (record.reject is not None and record.reject.reason == DeviceFault.reason)


def _rejected(record: TrialRecord, failed: Sequence[FailedTry]) -> TrialRecord:
    last = failed[-1].rejection
    told = "; before that: ".join(_line(f.rejection) for f in reversed(failed))
    message = f"{len(failed)} tries failed, so it is not tried again: {told}\n{last.message}"
    return replace(record, state="rejected", reject=replace(last, message=message))


def _untried(request: TrialRequest) -> TrialRecord:
    """Of a candidate whose workers all died: nobody is left who could tell more."""
    now = now_utc()
    return TrialRecord(
        number=request.number,
        role=request.role,
        candidate=request.candidate,
        state="rejected",
        metric=request.spec.data.metric,
        flags=(PROCESS_ENDED,),
        started_at=now,
        finished_at=now,
    )


def _line(rejection: Rejection) -> str:
    lines = rejection.message.splitlines() or [rejection.reason]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]
