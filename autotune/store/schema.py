"""The schema's age: reading it, making it, and bringing it up to date; never silently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from autotune.assets import asset
from autotune.errors import StoreError
from autotune.store.connection import WRITE, cause_of, make_engine, shown
from autotune.store.retry import Patience, with_retry
from autotune.store.tables import HEAD, PREFIX, VERSION_TABLE

_LOCK_KEY = 0x61745F736368656D
"""Name of PostgreSQL's advisory lock around a migration: the bytes of "at_schem"."""


def connected_revision(engine: Engine, patience: Patience | None = None) -> str | None:
    """The revision of the tables in the database, None where there are none of ours. Raises StoreError.

    With `patience` a locked file is waited for; a server that is not there is reported at once.
    """

    def found() -> str | None:
        with engine.connect() as connection:
            return _revision(connection)

    try:
        if patience is not None and engine.dialect.name == "sqlite" and Path(str(engine.url.database)).is_file():
            return with_retry(found, url=engine.url, patience=patience)
        return found()
    except DBAPIError as exc:
        raise StoreError(
            f"cannot reach {shown(engine.url)}: {cause_of(exc, engine.url)}. {_what_to_check(engine.url)}"
        ) from exc


def require_head(found: str, url: URL, *, head: str = HEAD, known: Sequence[str] | None = None) -> None:
    """The tables are those that this version writes. Raises StoreError with the command that helps."""
    if found == head:
        return
    if found in (known_revisions() if known is None else known):
        raise StoreError(
            f"the tables in {shown(url)} are of revision {found}, and this version of autotune needs {head}. "
            f"Stop the workers, make a copy, and run: autotune db upgrade --storage '{shown(url)}'"
        )
    raise StoreError(
        f"the tables in {shown(url)} are of revision {found}, which this version of autotune (revision {head}) does not "
        "know: a newer one wrote them. Run: python -m pip install --upgrade autotune"
    )


def known_revisions(scripts: Path | None = None) -> tuple[str, ...]:
    """Every revision in `storage/versions/`, newest first."""
    from alembic.script import ScriptDirectory

    return tuple(s.revision for s in ScriptDirectory(str(scripts or asset("storage"))).walk_revisions())


def migrate(url: URL, scripts: Path | None = None) -> tuple[str | None, str]:
    """Revisions before and after bringing the database to the newest schema; made from nothing where it has no tables of ours.

    One transaction under a lock: others see the schema before or after, and of two who migrate at once the second finds
    the work done. Raises StoreError on a schema that this version does not know.
    """
    scripts = scripts or asset("storage")
    known = known_revisions(scripts)
    engine = make_engine(url, foreign_keys=False)
    try:
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            before = _revision(connection)
            if before is not None and before not in known:
                require_head(before, url, head=known[0], known=known)
            if before != known[0]:
                _run_migrations(connection, scripts)
    except DBAPIError as exc:
        raise StoreError(
            f"could not migrate {shown(url)}: {cause_of(exc, url)}. Nothing was changed. {_what_to_check(url)}"
        ) from exc
    finally:
        engine.dispose()
    return before, known[0]


def _run_migrations(connection: Connection, scripts: Path) -> None:
    from alembic import command
    from alembic.config import Config

    # Views go first and come back last: neither database lets a table change under a view that reads it.
    views = [v for v in inspect(connection).get_view_names() if v.startswith(f"{PREFIX}v_")]
    # Some read others: PostgreSQL takes them in one statement only, SQLite one at a time only.
    for names in [", ".join(views)] if views and connection.dialect.name == "postgresql" else views:
        connection.execute(text(f"DROP VIEW {names}"))
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    for statement in view_statements(scripts, connection.dialect.name):
        connection.execute(text(statement))


def view_statements(scripts: Path, dialect: str) -> list[str]:
    """The CREATE VIEW statements in `storage/views/` in the files' order: *.sql for both databases, *.DIALECT.sql for one."""
    files = sorted((scripts / "views").glob("*.sql"))
    return [f.read_text() for f in files if f.suffixes[:-1] in ([], [f".{dialect}"])]


def _revision(connection: Connection) -> str | None:
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE in tables:
        found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        return found or "unknown"
    return "unknown" if any(t.startswith(PREFIX) for t in tables) else None


def _what_to_check(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"Check that {Path(str(url.database)).parent} exists and can be written, and that the file is a SQLite database."
    return (
        f"Check that the server runs and listens there (pg_isready -h {url.host or 'localhost'} -p {url.port or 5432}), the "
        f"user and password, and that the database exists (createdb {url.database})."
    )
