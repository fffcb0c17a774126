"""SQL for failed tries: trials whose process died, or had to be ended, counted until the candidate is given up.

They are counted here and not in a worker's memory, because a candidate may well end the worker that tries it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, select, true

from autotune.candidate import Candidate
from autotune.records import Rejection, TrialRole
from autotune.store import rows
from autotune.store.tables import database_now, failed_tries, trials
from autotune.store.trials import discard, insert_missing
from autotune.store.worker import WorkerIdentity

WORKER_DIED = "worker_died"
"""The reason of a try whose worker was found dead; of the others it is that of errors.CandidateRejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTry:
    """One try of a candidate that ended without a record of its own."""

    number: int
    attempt: int
    rejection: Rejection


def add(
    connection: Connection,
    study_id: int,
    role: TrialRole,
    candidate: Candidate,
    worker: WorkerIdentity,
    failed: FailedTry,
) -> None:
    """The try is stored; once, however often it is told."""
    values: dict[str, Any] = {
        "study_id": study_id,
        "role": role,
        "number": failed.number,
        "attempt": failed.attempt,
        "candidate_digest": candidate.digest,
        "worker_id": worker.worker_id,
        "reason": failed.rejection.reason,
        "stage": failed.rejection.stage,
        "message": rows.storable_text(failed.rejection.message),
        "at": database_now(connection.dialect.name),
    }
    insert_missing(connection, failed_tries, values)


def fetch(connection: Connection, study_id: int, role: TrialRole, candidate: Candidate, number: int) -> list[FailedTry]:
    """The failed tries that count when the candidate is to be tried as trial `number`, in order.

    A search trial that is put back gets another number, so all count since the candidate last came through. A repetition that
    is begun again keeps its number, and the next one is another matter.
    """
    came_through = select(func.max(trials.c.number)).where(
        trials.c.study_id == study_id,
        trials.c.role == role,
        trials.c.candidate_digest == candidate.digest,
        trials.c.state == "complete",
    )
    since: int | None = connection.execute(came_through).scalar()
    ours = and_(
        failed_tries.c.study_id == study_id,
        failed_tries.c.role == role,
        failed_tries.c.candidate_digest == candidate.digest,
        failed_tries.c.number > (-1 if since is None else since),
        true() if role == "search" else failed_tries.c.number == number,
    )
    return [
        FailedTry(
            number=row["number"],
            attempt=row["attempt"],
            rejection=Rejection(reason=row["reason"], stage=row["stage"], message=row["message"]),
        )
        for row in connection.execute(select(failed_tries).where(ours).order_by(failed_tries.c.id)).mappings()
    ]


def bury(connection: Connection, study_id: int, trial_id: int, worker: WorkerIdentity) -> bool:
    """The running trial of a dead worker is gone, and counted as a failed try. False: it is finished, or gone already."""
    wanted = select(trials).where(trials.c.id == trial_id, trials.c.state == "running").with_for_update()
    row = connection.execute(wanted).mappings().one_or_none()
    if row is None:
        return False
    tries = and_(
        failed_tries.c.study_id == study_id, failed_tries.c.role == row["role"], failed_tries.c.number == row["number"]
    )
    n_before = connection.execute(select(func.count()).where(tries)).scalar() or 0
    message = f"the worker {worker.worker_id} (process {worker.pid} on {worker.host}) died while it ran the trial"
    rejection = Rejection(reason=WORKER_DIED, stage="", message=message)
    failed = FailedTry(number=row["number"], attempt=n_before, rejection=rejection)
    add(connection, study_id, row["role"], rows.candidate_from_row(row), worker, failed)
    return discard(connection, trial_id)
