"""From a storage URL to a database connection that survives kill -9, and messages that never show a password."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from autotune.errors import EnvironmentProblem, StoreError
from autotune.redact import url_without_secrets

BUSY_TIMEOUT_S = 2
"""How long SQLite itself waits for another writer; a write of ours takes milliseconds.

Where a backup holds the file longer, `with_retry` goes on waiting: inside SQLite no signal is heard.
"""
MIGRATION_TIMEOUT_S = 60
"""The same for a migration, which others may be at, and which nobody repeats."""
CONNECT_TIMEOUT_S = 10
SILENT_SERVER_S = 30
"""A connection on which nothing of what was sent is acknowledged for so long is dead."""
PAGES_KIB = 256
"""What a connection to SQLite remembers of its file: by default 2 MiB, which a long study fills. The system knows it, too."""
WRITE = "at_write"
"""Execution option of an engine whose transactions write."""

_ALLOWED = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_dump_json = partial(json.dumps, allow_nan=False, separators=(",", ":"))


def parse_url(text: str) -> URL:
    """The database that `text` names, with the driver that autotune uses for it. Raises StoreError."""
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except (ArgumentError, ValueError):
        # Not chained and not quoted: what does not parse may hold a password.
        hint = f" For the file of that name write sqlite:///{text}." if text.endswith(".db") and "://" not in text else ""
        raise StoreError(f"the storage is not a database URL; allowed: {_ALLOWED}.{hint}") from None
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"the storage {shown(url)} is a {backend} database; allowed: {_ALLOWED}.")
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        raise StoreError(f"the storage {shown(url)} names no plain file, so a study would be lost; allowed: {_ALLOWED}.")
    return url.set(drivername="sqlite", database=str(Path(str(url.database)).expanduser()))


def shown(url: URL) -> str:
    """The URL for messages and logs: the password reads ***."""
    return url_without_secrets(url.render_as_string(hide_password=True))


def shown_url(text: str) -> str:
    """The URL `text` for messages and logs. Raises StoreError where it is none."""
    return shown(parse_url(text))


def cause_of(exc: DBAPIError, url: URL) -> str:
    """The driver's own words on one line, without the SQL, its parameters or the password."""
    text = " ".join(str(exc.orig).split()) or type(exc.orig).__name__
    return text.replace(str(url.password), "***") if url.password else text


def make_engine(url: URL, *, foreign_keys: bool = True) -> Engine:
    """An engine for `url`, not yet connected. Raises EnvironmentProblem when the driver is not installed.

    `foreign_keys=False` is for migrations: SQLite changes a table by dropping the old one, and rows that refer to it go along.
    """
    options: dict[str, Any] = {"json_serializer": _dump_json}
    busy_s = BUSY_TIMEOUT_S if foreign_keys else MIGRATION_TIMEOUT_S
    if url.get_backend_name() == "sqlite":
        # Pooled, so that the file stays open: closing the last connection empties the log into the file, and a trial's two
        # transactions then took 54 ms instead of 2 ms (median, measured on ext4).
        options |= {"connect_args": {"timeout": busy_s}}
    else:
        options |= {"pool_pre_ping": True, "connect_args": server_options(url)}
    try:
        engine = create_engine(url, **options)
    except ImportError as exc:
        raise EnvironmentProblem(
            f"the storage {shown(url)} needs the driver psycopg: {exc}.", remedy="pip install 'autotune[postgresql]'"
        ) from exc
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", partial(_prepare_sqlite, foreign_keys=foreign_keys, busy_s=busy_s))
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def server_options(url: URL) -> dict[str, Any]:
    """What libpq is told beside the URL, which goes before.

    Without them a call waits a quarter of an hour for a server whose host is gone: nobody refuses what nobody receives.
    """
    defaults = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "autotune",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 1000 * SILENT_SERVER_S,
    }
    return {k: v for k, v in defaults.items() if k not in url.query}


def _prepare_sqlite(connection: Any, _record: object, *, foreign_keys: bool, busy_s: int) -> None:
    """WAL lets readers and one writer work at once; synchronous=FULL syncs the log at every commit.

    NORMAL would do against kill -9, since the written log stays with the kernel, but the last trials would be lost with the
    power. A trial takes seconds and a sync milliseconds, so FULL it is.
    """
    # The driver then starts no transactions of its own: it would not do so before DDL, and a half-made schema could be seen.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={busy_s * 1000}")
    cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA cache_size=-{PAGES_KIB}")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except connection.OperationalError:
            # Somebody else is in the file, or it cannot be written. Everything works without WAL, with more waiting.
            pass
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another has written meanwhile, without waiting for
    # the busy timeout; so a writer takes its place in the queue at the start.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITE) else "BEGIN")
