"""SQL for who works on a study and what was ordered of them. Every function works inside the caller's transaction.

Workers on other hosts are reached through the database alone: each has a row here while it works, also between its trials, and
looks for orders. Times are the database's, so that hosts need not agree on theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, Connection, and_, delete, select, update

from autotune.store.tables import database_now, orders, workers
from autotune.store.trials import insert_missing
from autotune.store.worker import WorkerIdentity

WorkerState = Literal["working", "paused"]
OrderKind = Literal["pause", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentWorker:
    """A worker that said it works on a study and has not said that it left. `heartbeat_age_s`: since it was last heard of."""

    worker: WorkerIdentity
    study_id: int
    state: WorkerState
    began_at: str
    heartbeat_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A standing order: since when, by whom, and whether the trial under way is put back instead of finished."""

    given_at: str
    given_by: str
    at_once: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a worker is to do. `n_stops`: how often it was told to stop since it began; more than once means at once."""

    pause: Order | None = None
    n_stops: int = 0

    @property
    def puts_back(self) -> bool:
        """True when the trial under way is not to be finished."""
        return self.n_stops > 1 or (self.pause is not None and self.pause.at_once)


def enlist(connection: Connection, study_id: int, worker: WorkerIdentity) -> None:
    """The worker works on the study. Stops that a clock which was ahead has dated into its future are none for it."""
    ahead = orders.c.given_at > database_now(connection.dialect.name)
    connection.execute(delete(orders).where(_is(study_id, "stop"), ahead))
    _list(connection, study_id, worker)


def _list(connection: Connection, study_id: int, worker: WorkerIdentity) -> None:
    now = database_now(connection.dialect.name)
    values = {
        "worker_id": worker.worker_id,
        "study_id": study_id,
        "host": worker.host,
        "pid": worker.pid,
        "pid_started": worker.pid_started,
        "boot_id": worker.boot_id,
        "state": "working",
        "began_at": now,
        "heartbeat_at": now,
    }
    insert_missing(connection, workers, values)


def beat(connection: Connection, study_id: int, worker: WorkerIdentity, state: WorkerState) -> None:
    """The worker was just heard of, in this state; it is enlisted anew where somebody took it for dead meanwhile."""
    _list(connection, study_id, worker)
    now = database_now(connection.dialect.name)
    mine = workers.c.worker_id == worker.worker_id
    connection.execute(update(workers).where(mine).values(heartbeat_at=now, state=state))


def discharge(connection: Connection, worker_id: str) -> None:
    """The worker is gone."""
    connection.execute(delete(workers).where(workers.c.worker_id == worker_id))


def fetch_workers(connection: Connection, study_id: int | None) -> list[PresentWorker]:
    """The study's workers, or those of all, the dead among them, in the order in which they came."""
    now = database_now(connection.dialect.name).label("now")
    wanted = select(workers, now).order_by(workers.c.began_at, workers.c.worker_id)
    wanted = wanted if study_id is None else wanted.where(workers.c.study_id == study_id)
    return [
        PresentWorker(
            worker=WorkerIdentity(**{n: row[n] for n in ("worker_id", "host", "pid", "pid_started", "boot_id")}),
            study_id=row["study_id"],
            state=row["state"],
            began_at=row["began_at"],
            heartbeat_age_s=max(0.0, (_moment(row["now"]) - _moment(row["heartbeat_at"])).total_seconds()),
        )
        for row in connection.execute(wanted).mappings()
    ]


def order(connection: Connection, study_id: int, order_id: str, kind: OrderKind, by: str, *, at_once: bool) -> Order:
    """The order stands; a pause that stood before keeps who gave it and when, and becomes one at once if this one is.

    Repeated with the same `order_id` it changes nothing.
    """
    standing = pause_of(connection, study_id) if kind == "pause" else None
    if standing is None:
        now = database_now(connection.dialect.name)
        values = {"order_id": order_id, "study_id": study_id, "kind": kind, "given_at": now, "given_by": by, "at_once": at_once}
        insert_missing(connection, orders, values)
    elif at_once and not standing.at_once:
        connection.execute(update(orders).where(_is(study_id, "pause")).values(at_once=True))
    newest = select(orders).where(_is(study_id, kind)).order_by(orders.c.given_at.desc()).limit(1)
    row = connection.execute(newest).mappings().one()
    return Order(given_at=row["given_at"], given_by=row["given_by"], at_once=row["at_once"])


def lift_pause(connection: Connection, study_id: int) -> Order | None:
    """No pause stands any more; the one that did."""
    standing = pause_of(connection, study_id)
    connection.execute(delete(orders).where(_is(study_id, "pause")))
    return standing


def pause_of(connection: Connection, study_id: int) -> Order | None:
    """The pause that stands, the first of several that were given at once."""
    rows = connection.execute(select(orders).where(_is(study_id, "pause")).order_by(orders.c.given_at)).mappings().all()
    if not rows:
        return None
    return Order(given_at=rows[0]["given_at"], given_by=rows[0]["given_by"], at_once=any(r["at_once"] for r in rows))


def fetch_paused(connection: Connection) -> set[int]:
    """The ids of the studies that are paused."""
    return set(connection.execute(select(orders.c.study_id).where(orders.c.kind == "pause")).scalars())


def fetch_orders(connection: Connection, study_id: int, worker_id: str) -> Orders:
    """What the worker is to do. Stops from before it began were for others; a worker that is not enlisted gets none."""
    began = connection.execute(select(workers.c.began_at).where(workers.c.worker_id == worker_id)).scalar()
    n_stops = 0
    if began is not None:
        stops = connection.execute(select(orders.c.given_at, orders.c.at_once).where(_is(study_id, "stop"))).all()
        n_stops = sum(2 if at_once else 1 for given_at, at_once in stops if _moment(given_at) >= _moment(began))
    return Orders(pause=pause_of(connection, study_id), n_stops=n_stops)


def _is(study_id: int, kind: OrderKind) -> ColumnElement[bool]:
    return and_(orders.c.study_id == study_id, orders.c.kind == kind)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
