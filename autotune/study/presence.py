"""The state of a study as people and scripts see it: from the locks of this host, the workers' rows and the orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autotune.store.attendance import Order, PresentWorker
from autotune.store.repository import Store
from autotune.store.studies import StudyRow
from autotune.store.trials import RunningTrial
from autotune.store.worker import is_this_boot
from autotune.study.lock import workers_here
from autotune.study.orders import is_gone
from autotune.study.recovery import is_dead

StudyState = Literal["running", "pausing", "paused", "interrupted", "idle"]
STATES: tuple[StudyState, ...] = ("running", "pausing", "paused", "interrupted", "idle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Who works on a study now. `here`: process ids of this user's workers on this host. `rebooted`: hosts that lost workers
    by booting. `lost`: workers that died without a word.

    `state`: "pausing" while a trial is still under way in a paused study; "interrupted" when workers died and none is left.
    """

    state: StudyState
    pause: Order | None
    here: tuple[int, ...]
    workers: tuple[PresentWorker, ...]
    lost: tuple[PresentWorker, ...]
    running: tuple[RunningTrial, ...]
    rebooted: tuple[str, ...]

    @property
    def elsewhere(self) -> tuple[PresentWorker, ...]:
        """Workers that live and that no signal of this user reaches."""
        return tuple(w for w in self.workers if w.worker.pid not in self.here or not is_this_boot(w.worker))


def presence_of(store: Store, study: StudyRow) -> Presence:
    """Who works on the study at this moment."""
    here = tuple(workers_here(study))
    known, running, pause = store.workers(study.id), store.running(study.id), store.pause_of(study.id)
    lost = tuple(w for w in known if is_gone(w))
    workers = tuple(w for w in known if w not in lost)
    under_way = [t for t in running if not is_dead(t)]
    dead = [*(w.worker for w in lost), *(t.worker for t in running if t not in under_way)]
    return Presence(
        state=_state(pause, is_alive=bool(here or workers or under_way), measures=bool(under_way), lost_any=bool(dead)),
        pause=pause,
        here=here,
        workers=workers,
        lost=lost,
        running=tuple(under_way),
        rebooted=tuple(sorted({w.host for w in dead if is_this_boot(w) is False})),
    )


def _state(pause: Order | None, *, is_alive: bool, measures: bool, lost_any: bool) -> StudyState:
    if pause is not None:
        return "pausing" if measures else "paused"
    if is_alive:
        return "running"
    return "interrupted" if lost_any else "idle"
