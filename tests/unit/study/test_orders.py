"""Orders that reach a worker from elsewhere: a pause, and a stop that may also come as a signal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from stored_study import StoredStudy

from autotune.store.attendance import Order, Orders
from autotune.store.worker import this_worker
from autotune.study.observer import Silent
from autotune.study.orders import OrderWatch, attending, study_time_s, wait_while_paused
from autotune.study.presence import presence_of
from autotune.study.session import StopSwitch

PAUSE = Order(given_at="2026-03-01T12:00:00+00:00", given_by="ann on host", at_once=False)


@pytest.fixture(autouse=True)
def own_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker of another test is here."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@dataclass
class Worker(Silent):
    """As much of a session as waiting needs. `seen`: the orders that the database holds, look by look."""

    seen: list[Orders]
    notes: list[str] = field(default_factory=list)
    closed: int = 0
    rested: int = 0

    def __post_init__(self) -> None:
        self.run: Any = SimpleNamespace(
            switch=StopSwitch(), study=SimpleNamespace(id=1, name="s"), worker=this_worker(), observer=self, spent={},
            store=SimpleNamespace(orders=lambda *_: self.seen.pop(0)), process=SimpleNamespace(close=self.close),
            ahead=SimpleNamespace(rest=self.rest),
        )  # fmt: skip
        self.run.add_time = lambda what, seconds: self.run.spent.update({what: self.run.spent.get(what, 0.0) + seconds})

    def close(self) -> None:
        """The warm process is gone."""
        self.closed += 1

    def rest(self) -> None:
        """Nothing is built ahead."""
        self.rested += 1

    def note(self, text: str) -> None:
        """A line to the person who watches."""
        self.notes.append(text)

    def sleeps(self) -> Any:
        """Instead of sleeping the next orders are seen."""
        return lambda _: self.run.switch.heed(self.seen.pop(0))


def test_a_study_that_is_not_paused_is_not_held_up() -> None:
    """One look, and on."""
    worker = Worker([Orders()])
    wait_while_paused(worker.run, lambda _: pytest.fail("it slept"))
    assert worker.seen == [] and worker.notes == [] and worker.closed == 0


def test_a_paused_worker_waits_until_it_is_resumed() -> None:
    """It says by whom and what to do, lets its process go, and the study's own clock stands still."""
    worker = Worker([Orders(pause=PAUSE), Orders(pause=PAUSE), Orders()])
    before = study_time_s(worker.run)
    wait_while_paused(worker.run, worker.sleeps())
    assert worker.notes == [
        "s is paused since 2026-03-01T12:00:00+00:00 by ann on host; it goes on after: autotune resume s",
        "s is resumed",
    ]
    assert worker.closed == worker.rested == 1 and not worker.run.switch.is_waiting and "paused" in worker.run.spent
    assert study_time_s(worker.run) >= before


def test_a_stop_ends_the_waiting() -> None:
    """A paused study can be stopped, by a signal or from elsewhere, and stays paused."""
    worker = Worker([Orders(pause=PAUSE), Orders(pause=PAUSE, n_stops=1)])
    wait_while_paused(worker.run, worker.sleeps())
    assert worker.run.switch.count == 1 and len(worker.notes) == 1
    worker = Worker([Orders(pause=PAUSE)])
    wait_while_paused(worker.run, worker.run.switch.press)
    assert worker.run.switch.count == 1


def test_the_same_stop_by_two_ways_counts_once() -> None:
    """`autotune stop` may reach a worker as a signal and through the database; only a second stop ends the trial."""
    pressed: list[int] = []
    switch = StopSwitch(lambda: pressed.append(1))
    switch.press()
    switch.heed(Orders(n_stops=1))
    assert switch.count == 1 and switch.gives_way and not switch.ends_trial
    switch.heed(Orders(n_stops=2))
    assert switch.count == 2 and switch.ends_trial and pressed == [1]


def test_a_pause_gives_way_and_only_at_once_ends_the_trial() -> None:
    """The trial under way is finished, but no device is waited for; with --now it is put back."""
    switch = StopSwitch()
    switch.heed(Orders(pause=PAUSE))
    assert switch.gives_way and not switch.ends_trial and switch.count == 0
    switch.heed(Orders(pause=replace(PAUSE, at_once=True)))
    assert switch.ends_trial and switch.count == 0


def test_orders_stay_while_the_database_is_away() -> None:
    """An outage neither resumes a paused study nor ends its worker."""

    def answers() -> Iterator[Any]:
        yield Orders(pause=PAUSE)
        yield OperationalError("select", {}, Exception("gone"))
        yield Orders()

    looks = answers()

    def look_once(*_: object) -> Orders:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    switch, store = StopSwitch(), SimpleNamespace(look_once=look_once)
    watch = OrderWatch(store, 1, this_worker(), switch)  # type: ignore[arg-type]
    for expected in (PAUSE, PAUSE, None):
        watch._look()
        assert switch.orders.pause == expected


def test_who_begins_removes_the_dead_and_leaves_no_row(tmp_path: Path) -> None:
    """A worker of an earlier boot is gone for good; the block's own row is there meanwhile."""
    study = StoredStudy(tmp_path, 1)
    row = study.store.study(study.spec.study)
    assert row is not None
    study.store.enlist(row.id, replace(this_worker(), boot_id="before"))
    me = this_worker()
    with attending(study.store, row, me, StopSwitch()):
        assert [w.worker for w in study.store.workers(row.id)] == [me]
    assert study.store.workers(row.id) == []


def test_a_study_whose_workers_booted_away_is_interrupted(tmp_path: Path) -> None:
    """Its process id may be in use again, by this very process: the boot tells."""
    study = StoredStudy(tmp_path, 1)
    row = study.store.study(study.spec.study)
    assert row is not None and presence_of(study.store, row).state == "idle"
    worker = replace(this_worker(), boot_id="before")
    study.store.enlist(row.id, worker)
    study.store.begin_trial(row.id, 1, "search", study.trial().candidate, worker)
    found = presence_of(study.store, row)
    assert (found.state, found.rebooted, found.workers) == ("interrupted", (worker.host,), ())
    study.store.order(row.id, "pause", "ann")
    assert presence_of(study.store, row).state == "paused"


def test_a_worker_elsewhere_makes_a_study_run(tmp_path: Path) -> None:
    """Also between its trials; while it has one under way, a paused study is only pausing."""
    study = StoredStudy(tmp_path, 1)
    row = study.store.study(study.spec.study)
    assert row is not None
    worker = replace(this_worker(), host="elsewhere.example")
    study.store.enlist(row.id, worker)
    found = presence_of(study.store, row)
    assert found.state == "running" and [w.worker for w in found.elsewhere] == [worker]
    study.store.begin_trial(row.id, 1, "search", study.trial().candidate, worker)
    study.store.order(row.id, "pause", "ann")
    assert presence_of(study.store, row).state == "pausing"
