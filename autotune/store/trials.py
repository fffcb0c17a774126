"""SQL for trials: begun, finished, found again. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, and_, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from autotune.candidate import Candidate
from autotune.errors import StoreError
from autotune.records import FINISHED, Estimate, Series, TrialRecord, TrialRole, TrialState, VariantInfo
from autotune.store import rows
from autotune.store.reported import RegimeClock, fetch_repetitions
from autotune.store.tables import database_now, engines, loads, measurements, studies, telemetry, trials, variants
from autotune.store.worker import WorkerIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A trial that somebody began. `heartbeat_age_s`: seconds since its worker was last heard of, by the database's clock."""

    trial_id: int
    number: int
    role: TrialRole
    candidate: Candidate
    worker: WorkerIdentity
    started_at: str
    heartbeat_age_s: float
    heartbeat_at: str = ""


def insert_missing(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """A row with these values' key is there; one that was there stays as it is."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    connection.execute(dialect.insert(table).values(**values).on_conflict_do_nothing())


def begin(
    connection: Connection,
    study_id: int,
    number: int,
    role: TrialRole,
    candidate: Candidate,
    worker: WorkerIdentity,
    environment_key: str | None,
) -> int:
    """The id of the running trial, which is now `worker`'s, whoever began it before. Raises StoreError if it is finished."""
    now = database_now(connection.dialect.name)
    theirs = select(studies.c.environment_key).where(studies.c.id == study_id).scalar_subquery()
    key = {"study_id": study_id, "number": number, "role": role}
    values = {
        **rows.candidate_values(candidate),
        "state": "running",
        "worker_id": worker.worker_id,
        "host": worker.host,
        "pid": worker.pid,
        "pid_started": worker.pid_started,
        "boot_id": worker.boot_id,
        "environment_key": environment_key or theirs,
        "started_at": now,
        "heartbeat_at": now,
    }
    insert_missing(connection, trials, {**key, **values})
    mine = and_(*(trials.c[name] == value for name, value in key.items()))
    connection.execute(update(trials).where(mine, trials.c.state == "running").values(**values))
    trial_id, state = connection.execute(select(trials.c.id, trials.c.state).where(mine)).one()
    if state != "running":
        raise StoreError(f"{role} trial {number} of this study is {state} already; give a new trial the next free number.")
    return int(trial_id)


def finish(connection: Connection, trial_id: int, record: TrialRecord) -> bool:
    """The record, its measurements, variant, engine and telemetry are stored. False: it was finished before and stays so."""
    if record.state not in FINISHED:
        raise ValueError(f"trial {record.number} is {record.state}: only a finished trial can be stored")
    wanted = select(trials.c.state, trials.c.number, trials.c.role).where(trials.c.id == trial_id).with_for_update()
    found = connection.execute(wanted).one_or_none()
    if found is None:
        raise StoreError(f"{record.role} trial {record.number} (id {trial_id}) was discarded; it cannot be finished.")
    if (found.number, found.role) != (record.number, record.role):
        raise ValueError(f"id {trial_id} is {found.role} trial {found.number}, the record {record.role} trial {record.number}")
    if found.state != "running":
        return False
    if record.variant is not None:
        insert_missing(connection, variants, rows.variant_values(record.variant))
    if record.engine_key is not None:
        insert_missing(connection, engines, _engine_values(connection, record))
    connection.execute(update(trials).where(trials.c.id == trial_id).values(**rows.trial_values(record)))
    belonging = (
        (measurements, rows.measurement_values(record)),
        (loads, rows.load_values(record)),
        (telemetry, rows.telemetry_values(record)),
    )
    for table, found_rows in belonging:
        if found_rows:
            connection.execute(insert(table), [{"trial_id": trial_id, **r} for r in found_rows])
    return True


Kept = Literal["stored", "known", "superseded"]
"""What became of a finished trial that was brought to the database: it is there now, was there before, or is not needed."""


def bring(connection: Connection, study_id: int, trial_id: int, record: TrialRecord, worker: WorkerIdentity) -> Kept:
    """The record is stored, wherever its trial went meanwhile.

    While its worker was not heard of, others may have put the trial back: then it is stored all the same, unless its candidate
    was measured since, or it was a repetition, whose place in its round is another's.
    """
    mine = and_(trials.c.study_id == study_id, trials.c.role == record.role, trials.c.number == record.number)
    found = connection.execute(select(trials.c.id, trials.c.state).where(mine).with_for_update()).one_or_none()
    if found is not None and found.id == trial_id:
        return "stored" if finish(connection, trial_id, record) else "known"
    if found is not None or record.role not in ("search", "reference"):
        return "superseded"
    if fetch_finished(connection, study_id, record.candidate, (record.role,)) is not None:
        return "superseded"
    finish(connection, begin(connection, study_id, record.number, record.role, record.candidate, worker, None), record)
    return "stored"


def _engine_values(connection: Connection, record: TrialRecord) -> dict[str, Any]:
    return {
        "key": record.engine_key,
        "engine": record.candidate.engine,
        "variant_key": record.variant.key if record.variant else None,
        "created_at": database_now(connection.dialect.name),
    }


def discard(connection: Connection, trial_id: int) -> bool:
    """The running trial is gone, as if it had not begun. False: it is finished, and stays, or was never there."""
    mine = and_(trials.c.id == trial_id, trials.c.state == "running")
    return connection.execute(delete(trials).where(mine)).rowcount > 0


def beat(connection: Connection, worker_id: str) -> int:
    """The worker's running trials, whose number is returned, carry the database's time as their heartbeat."""
    mine = and_(trials.c.worker_id == worker_id, trials.c.state == "running")
    return connection.execute(update(trials).where(mine).values(heartbeat_at=database_now(connection.dialect.name))).rowcount


def fetch(connection: Connection, *where: ColumnElement[bool]) -> list[TrialRecord]:
    """The records of the trials that `where` selects, by role and number, without telemetry; six statements however many."""
    return list(fetch_by_id(connection, *where).values())


def fetch_by_id(connection: Connection, *where: ColumnElement[bool]) -> dict[int, TrialRecord]:
    """As `fetch`, by the ids of the trials' rows, in the same order."""
    values = select(measurements).join(trials).where(*where)
    estimates: dict[int, dict[str, Estimate]] = {}
    for m in connection.execute(values).mappings():
        estimate = Estimate(value=m["value"], low=m["low"], high=m["high"], n=m["n"], method=m["method"])
        estimates.setdefault(m["trial_id"], {})[m["metric"]] = estimate
    loaded = {m["trial_id"]: m for m in connection.execute(select(loads).join(trials).where(*where)).mappings()}
    known: dict[str, VariantInfo] = {}
    wanted = select(variants).where(variants.c.digest.in_(select(trials.c.variant_digest).where(*where)))
    for v in connection.execute(wanted).mappings():
        known[v["digest"]] = VariantInfo.from_json({k: v[k] for k in v if k != "digest"})  # type: ignore[assignment]  # not None
    order = (trials.c.role, trials.c.number)
    clock = RegimeClock(connection)
    again = fetch_repetitions(connection, clock, *where)
    return {
        row["id"]: rows.record_from_rows(
            row,
            known.get(row["variant_digest"]),
            estimates.get(row["id"], {}),
            loaded.get(row["id"]),
            again.get(row["id"], ()),
            clock.regime(row["study_id"], row["started_at"]),
        )
        for row in connection.execute(select(trials).where(*where).order_by(*order)).mappings()
    }


def fetch_finished(c: Connection, study_id: int, candidate: Candidate, roles: Iterable[TrialRole]) -> TrialRecord | None:
    """The newest trial of the candidate that ended with a result, else the newest rejected one."""
    digest = candidate.digest
    ours = and_(trials.c.study_id == study_id, trials.c.candidate_digest == digest, trials.c.role.in_(tuple(roles)))
    ended = select(trials.c.id).where(ours, trials.c.state.in_(("complete", "rejected")))
    # "complete" sorts before "rejected".
    trial_id = c.execute(ended.order_by(trials.c.state, trials.c.id.desc()).limit(1)).scalar()
    return None if trial_id is None else fetch(c, trials.c.id == trial_id)[0]


def fetch_telemetry(connection: Connection, *where: ColumnElement[bool]) -> tuple[Series, ...]:
    """The series of the one trial that `where` selects, in the order in which they were stored."""
    wanted = select(telemetry).join(trials).where(*where).order_by(telemetry.c.position)
    return tuple(rows.series_from_row(row) for row in connection.execute(wanted).mappings())


def fetch_running(connection: Connection, study_id: int) -> list[RunningTrial]:
    """The trials that nobody has finished, by number."""
    now = database_now(connection.dialect.name).label("now")
    # The roles are named so that the index on study, role and state leads to the few that run among thousands.
    ours = (trials.c.study_id == study_id, trials.c.role.in_(get_args(TrialRole)), trials.c.state == "running")
    wanted = select(trials, now).where(*ours).order_by(trials.c.number)
    return [_running(row) for row in connection.execute(wanted).mappings()]


def _running(row: RowMapping) -> RunningTrial:
    who = ("worker_id", "host", "pid", "pid_started", "boot_id")
    age = datetime.fromisoformat(row["now"]) - datetime.fromisoformat(row["heartbeat_at"])
    return RunningTrial(
        trial_id=row["id"],
        number=row["number"],
        role=row["role"],
        candidate=rows.candidate_from_row(row),
        worker=WorkerIdentity(**{name: row[name] for name in who}),
        started_at=row["started_at"],
        heartbeat_age_s=max(0.0, age.total_seconds()),
        heartbeat_at=row["heartbeat_at"],
    )


def fetch_counts(connection: Connection, study_id: int, roles: Iterable[TrialRole]) -> dict[TrialState, int]:
    """How many trials are in each state; states that none is in read 0."""
    ours = and_(trials.c.study_id == study_id, trials.c.role.in_(tuple(roles)))
    found = connection.execute(select(trials.c.state, func.count()).where(ours).group_by(trials.c.state))
    states: tuple[TrialState, ...] = ("running", *FINISHED)
    return dict.fromkeys(states, 0) | {state: n for state, n in found}
