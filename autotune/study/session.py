"""One worker's part in a study: what it works with, when it is to stop, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.candidate import Candidate
from autotune.fingerprint import digest_of
from autotune.store.attendance import Orders
from autotune.store.journal import Journal
from autotune.store.repository import Store
from autotune.store.studies import StudyRow
from autotune.store.trials import RunningTrial
from autotune.store.worker import WorkerIdentity
from autotune.study.build_ahead import BuildAhead
from autotune.study.heartbeat import Silence
from autotune.study.known_trials import KnownTrials
from autotune.study.observer import Observer
from autotune.study.orders import is_gone
from autotune.study.plan import StudyPlan
from autotune.study.proposer import Proposer
from autotune.trial.isolation import TrialProcess

FOR_OTHERS, FOR_DEVICE = "waiting for the others", "waiting for the device"
"""What wall time is accounted for as while other workers have what there is to do, or the device."""
OTHERS_POLL_S = 0.5
"""How often a worker that has no room for another trial looks whether those of the others are done."""


class StopSwitch:
    """What was asked of this worker, by signals here and by orders in the database.

    Asked to stop once, a study ends after the trial under way, twice: with that trial put back. The same stop may come both
    ways and counts once.
    """

    def __init__(self, on_press: Callable[[], None] = lambda: None) -> None:
        self._pressed = 0
        self.on_press = on_press
        self.orders = Orders()
        self.is_waiting = False

    @property
    def count(self) -> int:
        """How often a stop was asked for."""
        return max(self._pressed, self.orders.n_stops)

    @property
    def ends_trial(self) -> bool:
        """True when the trial under way is to be put back."""
        return self.count > 1 or self.orders.puts_back

    @property
    def gives_way(self) -> bool:
        """True when this worker is to wait for no device: at the first request and in a pause, for nothing would be lost."""
        return self.count > 0 or self.orders.pause is not None

    def press(self, *_: object) -> None:
        """One more request; has the signature of a signal handler."""
        self._pressed += 1
        self.on_press()

    def heed(self, orders: Orders) -> None:
        """These are the orders now."""
        self.orders = orders


@dataclass(slots=True, kw_only=True)
class StudySession:
    """What never changes while a worker runs, what it knows of the trials so far, and its clocks.

    `environment_key`: the device and library versions of this worker, which every trial of it is stored with.
    `again`: candidates that were measured are measured again when they are proposed, and so are the finalists, beyond the
    `rounds_before` that were. `regime`: the machine's present one. `warm`: candidates taken over from earlier studies, with
    the names of these.
    """

    plan: StudyPlan
    store: Store
    proposer: Proposer
    study: StudyRow
    worker: WorkerIdentity
    process: TrialProcess
    ahead: BuildAhead
    observer: Observer
    switch: StopSwitch
    target: int
    began: float
    environment_key: str | None = None
    again: bool = False
    rounds_before: int = 0
    regime: int = 1
    warm: Mapping[Candidate, str] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    silence: Silence = field(default_factory=Silence)
    _gone: set[str] = field(default_factory=set, init=False)
    known: KnownTrials = field(init=False)

    def __post_init__(self) -> None:
        self.known = KnownTrials(self.store, self.study.id, self.plan.spec)

    @property
    def journal(self) -> Journal:
        """Where this worker keeps finished trials until the database has them, the same place for all workers of the study."""
        return Journal(self.journal_folder, self.worker)

    @property
    def journal_folder(self) -> Path:
        """The folder of the study's journals on this host. A study of the same name in another database has another."""
        identity = digest_of({"id": self.study.id, "name": self.study.name, "created_at": self.study.created_at})
        return self.plan.cache_root / "journal" / identity

    def is_to_end(self) -> bool:
        """True when the trial under way is to end now: at the second request, and in a pause that begins at once."""
        return self.switch.ends_trial

    def is_to_stop(self) -> bool:
        """True when waiting for other workers is over: at the first request, for nothing would be lost by it."""
        return self.switch.count > 0

    def is_to_give_way(self) -> bool:
        """True when waiting for the device is over: at the first request, and in a pause."""
        return self.switch.gives_way

    def timed(self, what: str, call: Callable[..., Any], *args: Any) -> Any:
        """The call's result; its wall time is added to `what`."""
        begin = time.monotonic()
        try:
            return call(*args)
        finally:
            self.add_time(what, time.monotonic() - begin)

    def add_time(self, what: str, seconds: float) -> None:
        """So much wall time went into `what`."""
        self.spent[what] = self.spent.get(what, 0.0) + seconds

    def pause(self) -> None:
        """A moment has passed that is accounted for as waiting for other workers, whom no build of this one keeps waiting."""
        self.ahead.abort()
        self.timed(FOR_OTHERS, time.sleep, OTHERS_POLL_S)

    def has_lost_others(self) -> bool:
        """True when another worker died since this was last asked.

        What it had asked for and not begun stands in no table of ours, so nobody would wait for it; what it had begun is found
        by who waits for room.
        """
        gone = {w.worker.worker_id for w in self.store.workers(self.study.id) if is_gone(w)}
        died, self._gone = bool(gone - self._gone), gone  # their rows stay for `status` to show
        return died

    def under_way(self) -> list[RunningTrial]:
        """The search's trials that some worker has begun and not finished."""
        return [t for t in self.store.running(self.study.id) if t.role == "search"]
