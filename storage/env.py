"""Alembic's entry: our tables only, in whatever database the caller is connected to.

Run by `autotune.store.schema` inside its transaction; for developers, by `python -m alembic -c storage/alembic.ini`.
"""

from __future__ import annotations

from typing import Literal

from alembic import context
from sqlalchemy import Connection

from autotune.store.connection import WRITE, make_engine, parse_url
from autotune.store.tables import PREFIX, VERSION_TABLE, UtcTime, metadata


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Without this, autogenerate would write a drop_table for each of Optuna's tables beside ours."""
    return kind != "table" or str(name).startswith(PREFIX)


def in_plain_types(kind: str, item: object, _context: object) -> str | Literal[False]:
    """A migration imports nothing of ours, so that it still means the same when our code has changed."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcTime) else False


def run(connection: Connection) -> None:
    """The migrations that were asked for are done; commit is the caller's."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # Optuna keeps its own revision in Alembic's default table, and each would take the other's for its own.
        version_table=VERSION_TABLE,
        include_name=is_ours,
        render_item=in_plain_types,
        # SQLite cannot alter most of a table in place; Alembic then makes a new one and copies.
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    run(connection)
else:
    url = parse_url(context.get_x_argument(as_dictionary=True)["storage"])
    with make_engine(url, foreign_keys=False).execution_options(**{WRITE: True}).begin() as connection:
        run(connection)
