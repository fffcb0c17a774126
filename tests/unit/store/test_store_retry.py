from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from autotune.errors import StoreError
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


@pytest.mark.parametrize(("url", "message"), [(SQLITE, "no such table: at_trials"), (SQLITE, "database or disk is full")])
def test_a_fault_that_stays_is_not_waited_for(url: object, message: str) -> None:
    """SQLite's missing tables and full disks are reported at once; only a lock is waited for."""
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
