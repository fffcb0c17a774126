"""SQL for repetitions: a trial's candidate measured again, once per round, whoever asks first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from autotune.candidate import Candidate
from autotune.errors import StoreError
from autotune.records import RepeatedRole, TrialRecord, TrialRole
from autotune.store.reported import lock_study
from autotune.store.tables import repetitions, trials
from autotune.store.trials import begin
from autotune.store.worker import WorkerIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRepetition:
    """A repetition that this worker is to measure: the id of its row, and its number among those of its role."""

    trial_id: int
    number: int
    role: RepeatedRole
    candidate: Candidate


def begin_repetition(
    connection: Connection,
    study_id: int,
    of: TrialRecord,
    role: RepeatedRole,
    round_: int,
    worker: WorkerIdentity,
    environment_key: str | None = None,
) -> BegunRepetition | None:
    """The repetition of `of` in this round, now running at `worker`; None when somebody else has or had it already."""
    lock_study(connection, study_id)
    mine = (trials.c.study_id == study_id, trials.c.role == of.role, trials.c.number == of.number)
    of_id: int | None = connection.execute(select(trials.c.id).where(*mine)).scalar()
    if of_id is None:
        raise StoreError(f"{of.role} trial {of.number} is not stored; it cannot be measured again.")
    taken = select(repetitions.c.trial_id).where(
        repetitions.c.of_trial_id == of_id, repetitions.c.role == role, repetitions.c.round == round_
    )
    if (trial_id := connection.execute(taken).scalar()) is not None:
        return _own(connection, trial_id, role, of, worker)
    number = _next_number(connection, study_id, role)
    trial_id = begin(connection, study_id, number, role, of.candidate, worker, environment_key)
    connection.execute(insert(repetitions).values(trial_id=trial_id, of_trial_id=of_id, role=role, round=round_))
    return BegunRepetition(trial_id=trial_id, number=number, role=role, candidate=of.candidate)


def _own(
    connection: Connection, trial_id: int, role: RepeatedRole, of: TrialRecord, worker: WorkerIdentity
) -> BegunRepetition | None:
    """The repetition if this very worker runs it: it was begun, and the database went away before it could say so."""
    mine = (trials.c.id == trial_id, trials.c.state == "running", trials.c.worker_id == worker.worker_id)
    number: int | None = connection.execute(select(trials.c.number).where(*mine)).scalar()
    return None if number is None else BegunRepetition(trial_id=trial_id, number=number, role=role, candidate=of.candidate)


def begin_reference(
    connection: Connection, study_id: int, candidate: Candidate, worker: WorkerIdentity, environment_key: str | None
) -> tuple[int, int]:
    """The id and the number of the study's next reference, now running at `worker`; no other worker is given the same number.

    The one that this worker runs already, where it was begun and the answer was lost.
    """
    lock_study(connection, study_id)
    mine = (trials.c.study_id == study_id, trials.c.role == "reference", trials.c.worker_id == worker.worker_id)
    own = connection.execute(select(trials.c.id, trials.c.number).where(*mine, trials.c.state == "running")).first()
    if own is not None:
        return int(own.id), int(own.number)
    number = _next_number(connection, study_id, "reference")
    return begin(connection, study_id, number, "reference", candidate, worker, environment_key), number


def _next_number(connection: Connection, study_id: int, role: TrialRole) -> int:
    """One more than the highest number of that role, from 0. The study must be locked."""
    highest = select(func.max(trials.c.number)).where(trials.c.study_id == study_id, trials.c.role == role)
    before: int | None = connection.execute(highest).scalar()
    return 0 if before is None else before + 1
