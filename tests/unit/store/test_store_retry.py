from __future__ import annotations

import math

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from autotune.errors import StoreAway, StoreError
from autotune.store.connection import parse_url
from autotune.store.retry import Patience, with_retry

SQLITE = parse_url("sqlite:///a.db")
SERVER = parse_url("postgresql://me:secret@host/db")


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []  # type: float, list[float]

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


class Flaky:
    """Fails as often as told, then answers."""

    def __init__(self, n_failures: int, fault: Exception) -> None:
        self.left, self.fault = n_failures, fault

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise self.fault
        return "answer"


def gone(message: str = "server closed the connection") -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception(message))


def test_a_short_absence_is_waited_for_with_doubling_pauses() -> None:
    """0.1 s, then twice as long each time, never over 5 s; the answer comes through."""
    clock = Clock()
    assert with_retry(Flaky(8, gone()), url=SERVER, patience=Patience(for_s=60, clock=clock, sleep=clock.sleep)) == "answer"
    assert clock.pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_a_long_absence_ends_with_what_to_do() -> None:
    """After the given time the error names the database without its password, the cause and the way on."""
    clock = Clock()
    with pytest.raises(StoreError) as caught:
        with_retry(
            Flaky(1000, gone("no route for secret")), url=SERVER, patience=Patience(for_s=30, clock=clock, sleep=clock.sleep)
        )
    assert clock.now <= 30
    assert "did not answer for 30 s: no route for ***" in str(caught.value)
    assert "start the study again" in str(caught.value)


@pytest.mark.parametrize("message", ["no such table: at_trials", "attempt to write a readonly database"])
def test_a_fault_that_stays_is_not_waited_for(message: str) -> None:
    """SQLite's missing tables and permissions are reported at once; a lock is waited for."""
    clock = Clock()
    with pytest.raises(StoreError, match=message):
        with_retry(Flaky(1, gone(message)), url=SQLITE, patience=Patience(for_s=60, clock=clock, sleep=clock.sleep))
    assert clock.pauses == []
    assert (
        with_retry(
            Flaky(1, gone("database is locked")), url=SQLITE, patience=Patience(for_s=60, clock=clock, sleep=clock.sleep)
        )
        == "answer"
    )


def test_a_bug_is_raised_as_it_is() -> None:
    """A violated constraint is neither repeated nor dressed up as the database's fault."""
    bug = IntegrityError("INSERT", {}, Exception("UNIQUE"))
    with pytest.raises(IntegrityError):
        with_retry(Flaky(1, bug), url=SERVER, patience=Patience(for_s=60))


def test_a_full_disk_is_waited_for_shortly_even_where_patience_has_no_end() -> None:
    """15 s are for logs that rotate; then a person must act, and is told where."""
    for url, fault in ((SQLITE, gone("database or disk is full")), (SQLITE, gone("disk I/O error"))):
        clock = Clock()
        with pytest.raises(StoreError, match=r"disk of the database .* is full"):
            with_retry(Flaky(1000, fault), url=url, patience=Patience(for_s=math.inf, clock=clock, sleep=clock.sleep))
        assert 10 < clock.now <= 15


def test_a_study_waits_without_end_and_says_so() -> None:
    """With no limit a night passes; the person hears of it once, and of its end, and the time is accounted for."""
    clock, notes = Clock(), list[str]()
    patience = Patience(for_s=math.inf, note=notes.append, clock=clock, sleep=clock.sleep)
    assert with_retry(Flaky(1000, gone()), url=SERVER, patience=patience) == "answer"
    assert clock.now > 4000 and patience.away_s == pytest.approx(clock.now) and patience.n_absences == 1
    assert len(notes) == 2 and "is away" in notes[0] and "is back after" in notes[1]
    assert "secret" not in notes[0]


def test_a_stop_ends_the_waiting() -> None:
    """Asked to stop, a call that has failed for two seconds gives up, and the calls after it at once."""
    clock = Clock()
    patience = Patience(for_s=math.inf, should_stop=lambda: clock.now >= 100, clock=clock, sleep=clock.sleep)
    with pytest.raises(StoreAway, match="stopped while the database"):
        with_retry(Flaky(10_000, gone()), url=SERVER, patience=patience)
    assert 100 <= clock.now < 101
    with pytest.raises(StoreAway):
        with_retry(Flaky(10_000, gone()), url=SERVER, patience=patience)
    assert clock.now < 101


def test_a_stop_does_not_hurry_a_short_lock() -> None:
    """A lock of a second is waited for although a stop was asked for: what was measured goes to the database."""
    clock = Clock()
    patience = Patience(for_s=math.inf, should_stop=lambda: True, clock=clock, sleep=clock.sleep)
    assert with_retry(Flaky(4, gone("database is locked")), url=SQLITE, patience=patience) == "answer"


def test_an_error_that_a_library_wrapped_is_waited_for() -> None:
    """Optuna raises an error of its own from the driver's; a bug that it wrapped stays a bug."""

    class Wrapped(Exception):
        pass

    def fails_once(cause: Exception) -> Flaky:
        fault = Wrapped("an exception during the commit")
        fault.__cause__ = cause
        return Flaky(1, fault)

    clock = Clock()
    patience = Patience(for_s=60, clock=clock, sleep=clock.sleep)
    resets: list[int] = []
    assert with_retry(fails_once(gone()), url=SERVER, patience=patience, reset=lambda: resets.append(1)) == "answer"
    assert resets == [1]
    for bug in (IntegrityError("INSERT", {}, Exception("UNIQUE")), ValueError("no")):
        with pytest.raises(Wrapped):
            with_retry(fails_once(bug), url=SERVER, patience=patience)
