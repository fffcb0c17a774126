from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotune.errors import EnvironmentProblem, StoreError
from autotune.store.connection import parse_url, shown
from autotune.store.repository import open_store, upgrade


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_postgresql_means_our_driver(scheme: str) -> None:
    """However the driver is spelt, the one that we install is used; the password is kept but not shown."""
    url = parse_url(f"{scheme}://me:secret@host:5433/db")
    assert url.render_as_string(hide_password=False) == "postgresql+psycopg://me:secret@host:5433/db"
    assert shown(url) == "postgresql+psycopg://me:***@host:5433/db"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("autotune.db", "write sqlite:///autotune.db"),
        ("mysql://me:secret@host/db", "is a mysql database"),
        ("sqlite://", "names no plain file"),
        ("sqlite:///:memory:", "names no plain file"),
        ("postgresql://me:secret@host:port/db", "not a database URL"),
    ],
)
def test_other_storages_are_refused_without_showing_the_password(text: str, said: str) -> None:
    """What is allowed is said, and the password stands neither in the message nor in what it was raised from."""
    with pytest.raises(StoreError) as caught:
        parse_url(text)
    assert said in str(caught.value)
    assert "sqlite:///FILE" in str(caught.value)
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None


def test_looking_makes_no_file(tmp_path: Path) -> None:
    """A command that only reads, or upgrades, does not make the SQLite file that it did not find."""
    url = f"sqlite:///{tmp_path / 'none.db'}"
    for opening in (lambda: open_store(url, create=False), lambda: upgrade(url)):
        with pytest.raises(StoreError, match=r"there is no database .*none\.db"):
            opening()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_is_not_filled_by_looking(tmp_path: Path) -> None:
    """create=False on a database without our tables says so and leaves it as it is."""
    file = tmp_path / "empty.db"
    file.touch()
    with pytest.raises(StoreError, match="holds no studies"):
        open_store(f"sqlite:///{file}", create=False)


def test_a_database_that_cannot_be_reached_says_what_to_check(tmp_path: Path) -> None:
    """A missing folder, a file of another kind and a dead server each say what was tried and what to look at."""
    with pytest.raises(StoreError, match="exists and can be written"):
        open_store(f"sqlite:///{tmp_path / 'no' / 'a.db'}")
    other = tmp_path / "text.db"
    other.write_text("this is not a database" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        open_store(f"sqlite:///{other}")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with pytest.raises(StoreError) as caught:
        open_store("postgresql://me:secret@127.0.0.1:1/db")
    assert "pg_isready -h 127.0.0.1 -p 1" in str(caught.value)
    assert "me:***@127.0.0.1:1" in str(caught.value) and "secret" not in str(caught.value)


def test_a_missing_driver_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg a PostgreSQL storage is a problem of this machine, not a traceback."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'autotune\[postgresql\]'"):
        open_store("postgresql://me:secret@127.0.0.1:1/db")


def test_an_open_store_is_wal_and_synced(tmp_path: Path) -> None:
    """SQLite: readers beside a writer (WAL), each commit synced to disk (FULL = 2), foreign keys kept."""
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")

    def pragma(name: str) -> object:
        return store._read(lambda c: c.exec_driver_sql(f"PRAGMA {name}").scalar())

    found = [pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")]
    assert found == ["wal", 2, 1, 2_000]


def test_naming_the_store_loads_no_engine_library() -> None:
    """The store imports the database library only: no Optuna, torch, ONNX or engines."""
    code = (
        "import sys, autotune.store.repository; print([m for m in ('optuna', 'torch', 'onnx', 'alembic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
