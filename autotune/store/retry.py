"""Going on through a database's short absence: a restart, a failover, a lock held too long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, InternalError, OperationalError

from autotune.errors import StoreError
from autotune.store.connection import cause_of, shown

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


def with_retry(
    call: Callable[[], _T],
    *,
    url: URL,
    for_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> _T:
    """What `call` returned, after as many tries as fit into `for_s` seconds, with pauses that double.

    `call` must be safe to repeat: a lost connection does not say whether the commit arrived. Raises StoreError when the time is
    up or the fault is not a passing one; a violated constraint or unfit data is a bug and is raised as it is.
    """
    end, pause = clock() + for_s, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except (IntegrityError, DataError):
            raise
        except DBAPIError as exc:
            cause = cause_of(exc, url)
            if not is_passing(exc, url):
                raise StoreError(
                    f"the database {shown(url)} refused: {cause}. Check its permissions and its free space, and "
                    f"its schema with `autotune db upgrade --storage '{shown(url)}'`."
                ) from exc
            if clock() + pause > end:
                raise StoreError(
                    f"the database {shown(url)} did not answer for {for_s:g} s: {cause}. Everything stored so far is "
                    "kept; when the database is back, start the study again."
                ) from exc
            _log.warning("database=%s retry_in_s=%.1f cause=%s", shown(url), pause, cause)
        sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def is_passing(exc: DBAPIError, url: URL) -> bool:
    """True for faults that may be gone in a moment.

    SQLite: the file is locked. PostgreSQL, by SQLSTATE class (appendix A of its manual): none = no connection, 08 connection,
    40 rollback, 53 resources, 55 not ready, 57 shutdown or start-up.
    """
    if url.get_backend_name() == "sqlite":
        return isinstance(exc, OperationalError) and any(word in str(exc.orig) for word in ("locked", "busy"))
    if exc.connection_invalidated:
        return True
    state = getattr(exc.orig, "sqlstate", None)
    return isinstance(exc, OperationalError | InterfaceError | InternalError) and (
        state is None or state[:2] in ("08", "40", "53", "55", "57")
    )
