"""Heartbeats, with which other hosts tell that a worker lives, and the judgement of those that do not come.

Optuna beats only inside its own `optimize`, from a thread that the first database error ends; these go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from autotune.store.repository import Store
from autotune.store.trials import RunningTrial
from autotune.store.worker import is_alive

_log = logging.getLogger(__name__)
HEARTBEAT_S = 30.0
_SOON_S = 5.0
"""How soon a heartbeat that failed is repeated: after an absence of the database everybody looks dead until it comes."""
SILENT_S = 600.0
"""A worker on another host that was not heard of for so long counts as dead: twenty missed heartbeats."""
_WATCHED_S = 3 * HEARTBEAT_S
"""Who judges has seen the heartbeat stand still for so long, by its own clock: after an absence of the database, or a jump of
its clock, the age alone would condemn the living."""


@contextmanager
def heartbeat(store: Store, worker_id: str, every_s: float = HEARTBEAT_S) -> Iterator[None]:
    """Inside the block the worker's running trials carry a heartbeat that is at most `every_s` old, while the database answers.

    A thread of its own: a database that is away must not hold up the watch over a trial.
    """
    ended = threading.Event()

    def beat() -> None:
        pause = every_s
        while not ended.wait(pause):
            try:
                store.beat_once(worker_id)
                pause = every_s
            except Exception as exc:  # whatever it is, the next one may come through
                _log.debug("heartbeat=%s failed: %s", worker_id, exc)
                pause = min(every_s, _SOON_S)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1.0)  # one that hangs in a connection goes with the process


def is_dead(trial: RunningTrial) -> bool:
    """True when nobody measures the trial any more, as far as one look can tell."""
    alive = is_alive(trial.worker)
    return alive is False or (alive is None and trial.heartbeat_age_s > SILENT_S)


class Silence:
    """Who is dead, by more than one look: here a worker without a process, elsewhere one whose heartbeat stands still."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[int, str], float] = {}

    def is_dead(self, trial: RunningTrial) -> bool:
        """True when nobody measures the trial any more."""
        if not is_dead(trial):
            return False
        if is_alive(trial.worker) is False:
            return True
        now = self._clock()
        return now - self._since.setdefault((trial.trial_id, trial.heartbeat_at), now) >= _WATCHED_S
