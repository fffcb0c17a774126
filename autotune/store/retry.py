"""Going on through a database's absence: a restart, a failover, a lock held too long, a night without a network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    PendingRollbackError,
)

from autotune.errors import AutotuneError, StoreAway, StoreError
from autotune.store.connection import cause_of, shown

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
FULL_S = 15.0
"""How long a call waits for space on a full disk: a log that rotates frees some; more takes a person, who is told."""
_TOLD_AFTER_S = 5.0
"""From then on an absence is worth a line to the person who watches."""
_STOP_AFTER_S = 2.0
"""A call that a stop meets tries at least so long: a lock is gone by then, and what was measured goes to the database."""
_SLICE_S = 0.2

Fault = Literal["away", "full", "refused"]


def _never() -> bool:
    return False


@dataclass(slots=True, kw_only=True)
class Patience:
    """How long calls wait for a database that is away, and how long they have. For one thread.

    `for_s`: at most so long each; infinite in a running study, which is paused meanwhile. `should_stop`: asked several times a
    second while waiting. `note` hears of long absences and of their ends.
    """

    for_s: float
    should_stop: Callable[[], bool] = _never
    note: Callable[[str], None] = field(default=lambda text: None)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    away_s: float = 0.0
    n_absences: int = 0
    gave_up: bool = False

    def rest(self, seconds: float) -> None:
        """So much time has passed, or less when a stop was asked for."""
        if self.should_stop is _never:
            self.sleep(seconds)
            return
        end = self.clock() + seconds
        self.sleep(min(seconds, _SLICE_S))
        while self.clock() < end and not self.should_stop():
            self.sleep(_SLICE_S)


def with_retry(call: Callable[[], _T], *, url: URL, patience: Patience, reset: Callable[[], None] = lambda: None) -> _T:
    """What `call` returned, after as many tries as `patience` allows, with pauses that double.

    `call` must be safe to repeat: a lost connection does not say whether the commit arrived. `reset` is called between tries.
    Raises StoreError when the time is up or the fault is not a passing one, StoreAway when a stop was asked for meanwhile; a
    violated constraint or unfit data is a bug and is raised as it is.
    """
    absence: _Absence | None = None
    while True:
        try:
            answer = call()
        except Exception as exc:
            found = _driver_error(exc)
            if found is None:
                raise
            absence = absence or _Absence(url, patience)
            absence.met(found)
        else:
            if absence is not None:
                absence.over()
            return answer
        absence.wait()
        reset()


class _Absence:
    """One time that the database is away, from the first call that failed to the one that did not."""

    def __init__(self, url: URL, patience: Patience) -> None:
        self._url, self._patience = url, patience
        self._began = patience.clock()
        self._pause = FIRST_PAUSE_S
        self._told = False

    def met(self, exc: DBAPIError | PendingRollbackError) -> None:
        """One more call failed. Raises StoreError or StoreAway where another try is out of the question."""
        name, cause, kind = shown(self._url), _cause(exc, self._url), fault_of(exc, self._url)
        if kind == "refused":
            raise StoreError(
                f"the database {name} refused: {cause}. Check its permissions and its free space, and "
                f"its schema with `autotune db upgrade --storage '{name}'`."
            ) from exc
        allowed_s = min(FULL_S, self._patience.for_s) if kind == "full" else self._patience.for_s
        waited_s = self._patience.clock() - self._began
        if waited_s + self._pause > allowed_s:
            raise StoreError(self._given_up(kind, name, cause, allowed_s)) from exc
        if self._patience.should_stop() and (waited_s >= _STOP_AFTER_S or self._patience.gave_up):
            self._patience.gave_up = True
            raise StoreAway(f"stopped while the database {name} was away: {cause}.") from exc
        _log.warning("database=%s retry_in_s=%.1f cause=%s", name, self._pause, cause)
        if waited_s >= _TOLD_AFTER_S and not self._told:
            self._told = True
            self._patience.note(f"the database {name} is away ({cause}); the study waits for it and keeps what it measured")

    def _given_up(self, kind: Fault, name: str, cause: str, allowed_s: float) -> str:
        if kind == "full":
            return f"the disk of the database {name} is full: {cause}. Free space there, then start the study again."
        return (
            f"the database {name} did not answer for {allowed_s:g} s: {cause}. Everything stored so far is "
            "kept; when the database is back, start the study again."
        )

    def wait(self) -> None:
        """The pause before the next try is over."""
        self._patience.rest(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)

    def over(self) -> None:
        """The database answered again."""
        away_s = self._patience.clock() - self._began
        self._patience.away_s += away_s
        self._patience.n_absences += 1
        if self._told:
            self._patience.note(f"the database is back after {away_s:.0f} s; the study goes on")


def _driver_error(exc: Exception) -> DBAPIError | PendingRollbackError | None:
    """What the database's driver said, which Optuna wraps in an error of its own; None for any other error, and for a bug."""
    if isinstance(exc, AutotuneError):
        return None  # an inner call waited already
    found = next((e for e in (exc, exc.__cause__) if isinstance(e, DBAPIError | PendingRollbackError)), None)
    return None if isinstance(found, IntegrityError | DataError) else found


def _cause(exc: DBAPIError | PendingRollbackError, url: URL) -> str:
    return cause_of(exc, url) if isinstance(exc, DBAPIError) else "a transaction was cut off"


def fault_of(exc: DBAPIError | PendingRollbackError, url: URL) -> Fault:
    """Whether the fault may be gone in a moment, needs space on a disk, or stays.

    SQLite: a locked file, or one that cannot be opened at present. PostgreSQL, by SQLSTATE class (appendix A of its manual):
    none = no connection, 08 connection, 25006 a server that is a standby now, 40 rollback, 53 resources, 55 not ready, 57
    shutdown or start-up; 53100 is the full disk, 58 another error of the server's disk.
    """
    if isinstance(exc, PendingRollbackError):
        return "away"
    if url.get_backend_name() == "sqlite":
        return _fault_of_sqlite(exc)
    state = getattr(exc.orig, "sqlstate", None)
    if state is not None and (state == "53100" or state[:2] == "58"):
        return "full"
    if exc.connection_invalidated:
        return "away"
    passing = state is None or state == "25006" or state[:2] in ("08", "40", "53", "55", "57")
    return "away" if isinstance(exc, OperationalError | InterfaceError | InternalError) and passing else "refused"


def _fault_of_sqlite(exc: DBAPIError) -> Fault:
    text = str(exc.orig)
    if not isinstance(exc, OperationalError):
        return "refused"
    if any(word in text for word in ("locked", "busy", "unable to open")):
        return "away"
    # Without space for its shared memory or its log, SQLite calls it an error of the disk.
    return "full" if any(word in text for word in ("disk is full", "disk I/O error")) else "refused"
