"""Workers and orders in the database: how hosts that share nothing else tell each other what to do."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from sqlalchemy import literal

from autotune.store import attendance
from autotune.store.attendance import Order, Orders
from autotune.store.repository import Store
from autotune.store.tables import UtcTime
from autotune.store.worker import this_worker

ELSEWHERE = replace(this_worker(), host="elsewhere.example")


def orders(store: Store, study_id: int) -> Orders:
    return store.orders(study_id, ELSEWHERE.worker_id)


def test_a_worker_is_there_until_it_leaves(store: Store, study_id: int) -> None:
    """Its row says who it is, what it does and when it was heard of; after leaving there is none."""
    store.enlist(study_id, ELSEWHERE)
    [found] = store.workers(study_id)
    assert (found.worker, found.state, found.study_id) == (ELSEWHERE, "working", study_id)
    assert 0 <= found.heartbeat_age_s < 60
    store.look_once(study_id, ELSEWHERE, "paused")
    assert [w.state for w in store.workers()] == ["paused"]
    store.leave_once(ELSEWHERE.worker_id)
    assert store.workers(study_id) == []


def test_a_worker_that_was_taken_for_dead_comes_back(store: Store, study_id: int) -> None:
    """Its next heartbeat enlists it again, so that orders reach it."""
    store.enlist(study_id, ELSEWHERE)
    store.discharge(ELSEWHERE.worker_id)
    store.look_once(study_id, ELSEWHERE, "working")
    store.order(study_id, "stop", "me")
    assert orders(store, study_id).n_stops == 1


def test_the_first_pause_stands(store: Store, study_id: int) -> None:
    """Who paused a study, and since when, is who did it first; a later one may only make it one at once."""
    first = store.order(study_id, "pause", "ann")
    assert store.order(study_id, "pause", "bob") == first
    assert orders(store, study_id) == Orders(pause=first) and not orders(store, study_id).puts_back
    store.order(study_id, "pause", "bob", at_once=True)
    assert orders(store, study_id).pause == Order(given_at=first.given_at, given_by="ann", at_once=True)
    assert orders(store, study_id).puts_back and store.paused() == {study_id}
    assert store.lift_pause(study_id) == replace(first, at_once=True)
    assert store.lift_pause(study_id) is None and store.paused() == set() and orders(store, study_id) == Orders()


def test_a_stop_is_for_those_who_are_there(store: Store, study_id: int) -> None:
    """Who begins later is not concerned; a second stop, or one at once, asks for the trial under way to be put back."""
    store.order(study_id, "stop", "me")
    time.sleep(0.01)  # the database's clock has milliseconds
    store.enlist(study_id, ELSEWHERE)
    assert orders(store, study_id).n_stops == 0
    store.order(study_id, "stop", "me")
    assert orders(store, study_id).n_stops == 1 and not orders(store, study_id).puts_back
    store.order(study_id, "stop", "me")
    assert orders(store, study_id).n_stops == 2 and orders(store, study_id).puts_back


def test_a_stop_from_the_future_stops_nobody(store: Store, study_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was given under a clock that was set back since, to workers that are long gone: no start is to end by it."""
    with monkeypatch.context() as ahead:
        ahead.setattr(attendance, "database_now", lambda dialect: literal("2999-01-01T00:00:00.000+00:00", UtcTime))
        store.order(study_id, "stop", "me")
    store.enlist(study_id, ELSEWHERE)
    assert orders(store, study_id).n_stops == 0


def test_a_stop_at_once_counts_twice(store: Store, study_id: int) -> None:
    """As two signals do."""
    store.enlist(study_id, ELSEWHERE)
    store.order(study_id, "stop", "me", at_once=True)
    assert orders(store, study_id).n_stops == 2


def test_an_order_whose_commit_was_lost_sight_of_counts_once(store: Store, study_id: int) -> None:
    """A call that is repeated after a lost connection is the same order."""
    store.enlist(study_id, ELSEWHERE)
    for _ in range(2):
        store._write(lambda c: attendance.order(c, study_id, "the-same", "stop", "me", at_once=False))
    assert orders(store, study_id).n_stops == 1
