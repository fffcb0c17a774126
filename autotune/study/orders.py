"""What is ordered of a worker from elsewhere: pause and stop, seen in the database while it works, also within a trial."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from autotune.store.attendance import PresentWorker, WorkerState
from autotune.store.repository import Store
from autotune.store.studies import StudyRow
from autotune.store.worker import WorkerIdentity, is_alive
from autotune.study.heartbeat import SILENT_S

if TYPE_CHECKING:  # who only looks at studies, such as `status`, need not load what runs them
    from autotune.study.session import StopSwitch, StudySession

_log = logging.getLogger(__name__)
_LOOK_S = 2.0
"""How often a worker looks for orders: one short query, so that `--now` and a stop from another host are heeded in seconds."""
_BEAT_S = 30.0
_WAIT_S = 0.2


class OrderWatch:
    """The orders that were last seen, and a thread that goes on looking. A database that is away leaves them as they are."""

    def __init__(
        self, store: Store, study_id: int, worker: WorkerIdentity, switch: StopSwitch, look_s: float = _LOOK_S
    ) -> None:
        self._store, self._study_id, self._worker, self._switch = store, study_id, worker, switch
        self._look_s = look_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="orders", daemon=True)
        self._last_beat = time.monotonic()
        self._beaten: WorkerState = "working"

    def begin(self) -> None:
        """The thread looks, and the worker's row says that it lives."""
        self._thread.start()

    def end(self) -> None:
        """The thread looks no more."""
        self._ended.set()
        self._thread.join(timeout=1.0)  # one that hangs in a connection goes with the process

    def _watch(self) -> None:
        while not self._ended.wait(self._look_s):
            self._look()

    def _look(self) -> None:
        now, state = time.monotonic(), self._state()
        due = now - self._last_beat >= _BEAT_S or state != self._beaten
        try:
            self._switch.heed(self._store.look_once(self._study_id, self._worker, state if due else None))
        except Exception as exc:  # whatever it is, the next look may come through
            _log.debug("orders=%s not read: %s", self._worker.worker_id, exc)
            return
        if due:
            self._last_beat, self._beaten = now, state

    def _state(self) -> WorkerState:
        return "paused" if self._switch.is_waiting else "working"


@contextmanager
def attending(store: Store, study: StudyRow, worker: WorkerIdentity, switch: StopSwitch) -> Iterator[None]:
    """Inside the block the database knows that the worker works on the study, and `switch` heeds what is ordered there.

    Rows of workers that are dead have gone: who begins takes over from them.
    """
    for other in store.workers(study.id):
        if is_gone(other):
            store.discharge(other.worker.worker_id)
    store.enlist(study.id, worker)
    watch = OrderWatch(store, study.id, worker, switch)
    watch.begin()
    try:
        yield
    finally:
        watch.end()
        with suppress(Exception):  # a row that stays is that of a dead worker, which the next start removes
            store.leave_once(worker.worker_id)


def is_gone(present: PresentWorker) -> bool:
    """True when the worker died without a word: killed, or its host booted since, or silent for ten minutes elsewhere."""
    alive = is_alive(present.worker)
    return alive is False or (alive is None and present.heartbeat_age_s > SILENT_S)


def wait_while_paused(run: StudySession, sleep: Callable[[float], None] = time.sleep) -> None:
    """Returns at once unless the study is paused; then when the pause is lifted or a stop was asked for.

    Meanwhile this worker holds no device and no warm process; the time is accounted for as "paused". An `OrderWatch` must be
    looking, for nothing else lifts the pause that this one sees.
    """
    run.switch.heed(run.store.orders(run.study.id, run.worker.worker_id))
    pause = run.switch.orders.pause
    if pause is None or run.switch.count:
        return
    began, name = time.monotonic(), run.study.name
    run.process.close()
    run.ahead.rest()
    run.observer.note(f"{name} is paused since {pause.given_at} by {pause.given_by}; it goes on after: autotune resume {name}")
    run.switch.is_waiting = True
    while run.switch.orders.pause is not None and not run.switch.count:
        sleep(_WAIT_S)
    run.switch.is_waiting = False
    run.add_time("paused", time.monotonic() - began)
    if not run.switch.count:
        run.observer.note(f"{name} is resumed")


def study_time_s(run: StudySession) -> float:
    """A monotonic clock that stands still while the study is paused, in seconds."""
    return time.monotonic() - run.spent.get("paused", 0.0)
