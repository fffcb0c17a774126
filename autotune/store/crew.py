"""StudyCrew: who works on a study, on all hosts, and what is ordered of them; a part of Store."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine

from autotune.store import attendance
from autotune.store.attendance import Order, OrderKind, Orders, PresentWorker, WorkerState
from autotune.store.worker import WorkerIdentity

_T = TypeVar("_T")


class StudyCrew:
    """Each call is one transaction, as Store's others are. Those that end in `_once` are for any thread, and try once."""

    _reader: Engine
    _writer: Engine

    def _read(self, ask: Callable[[Connection], _T]) -> _T:
        raise NotImplementedError

    def _write(self, change: Callable[[Connection], _T]) -> _T:
        raise NotImplementedError

    def enlist(self, study_id: int, worker: WorkerIdentity) -> None:
        """The worker works on the study until it is discharged, also between its trials."""
        self._write(lambda c: attendance.enlist(c, study_id, worker))

    def discharge(self, worker_id: str) -> None:
        """The worker is gone; its unfinished trials are another matter."""
        self._write(lambda c: attendance.discharge(c, worker_id))

    def workers(self, study_id: int | None = None) -> list[PresentWorker]:
        """The workers of the study, or of all; those among them that died without a word."""
        return self._read(lambda c: attendance.fetch_workers(c, study_id))

    def order(self, study_id: int, kind: OrderKind, by: str, *, at_once: bool = False) -> Order:
        """The order stands for the study's workers on all hosts, a pause also for those to come; of two pauses the first stays.

        `at_once`: the trial under way is put back, not finished. `by`: who gives it, for people to read.
        """
        order_id = uuid.uuid4().hex
        return self._write(lambda c: attendance.order(c, study_id, order_id, kind, by, at_once=at_once))

    def lift_pause(self, study_id: int) -> Order | None:
        """The pause that stood until now; None where there was none."""
        return self._write(lambda c: attendance.lift_pause(c, study_id))

    def pause_of(self, study_id: int) -> Order | None:
        """The pause that stands."""
        return self._read(lambda c: attendance.pause_of(c, study_id))

    def paused(self) -> set[int]:
        """The ids of the studies that are paused."""
        return self._read(attendance.fetch_paused)

    def orders(self, study_id: int, worker_id: str) -> Orders:
        """What is ordered of the worker."""
        return self._read(lambda c: attendance.fetch_orders(c, study_id, worker_id))

    def look_once(self, study_id: int, worker: WorkerIdentity, beat: WorkerState | None) -> Orders:
        """As `orders`; with `beat` the worker was just heard of in that state.

        Raises SQLAlchemyError while the database is away.
        """
        with (self._writer if beat else self._reader).begin() as connection:
            if beat:
                attendance.beat(connection, study_id, worker, beat)
            return attendance.fetch_orders(connection, study_id, worker.worker_id)

    def leave_once(self, worker_id: str) -> None:
        """As `discharge`. Raises SQLAlchemyError while the database is away."""
        with self._writer.begin() as connection:
            attendance.discharge(connection, worker_id)
