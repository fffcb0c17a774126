"""The two databases, each of which the benchmark can take away and bring back."""

from __future__ import annotations

import getpass
import os
import pwd
import secrets
import shutil
import socket
import sqlite3
import subprocess
from pathlib import Path
from typing import Protocol


class Database(Protocol):
    """A database on a disk of its own, empty at first."""

    name: str
    url: str
    folder: Path

    def down(self) -> None:
        """Nobody can write to it any more."""
        ...

    def up(self) -> None:
        """It answers, whatever happened to it."""
        ...

    def cut(self) -> str:
        """Every connection was ended, or what comes nearest; in words."""
        ...

    def close(self) -> None:
        """Nothing of it runs any more."""
        ...


class Sqlite:
    """A file; "down" is a lock that another process holds, as a backup or a stuck network disk does."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "study.db"
        self.url = f"sqlite:///{self._file}"
        self._holder: sqlite3.Connection | None = None

    def down(self) -> None:
        """Another connection has the file's write lock."""
        self._holder = sqlite3.connect(self._file, timeout=30, isolation_level=None)
        self._holder.execute("BEGIN EXCLUSIVE")

    def up(self) -> None:
        """The lock is gone."""
        if self._holder is not None:
            self._holder.rollback()
            self._holder.close()
        self._holder = None

    def cut(self) -> str:
        """SQLite has no connections to cut: the file is locked for three seconds, longer than SQLite itself waits."""
        import time

        self.down()
        time.sleep(3)
        self.up()
        return "locked for 3 s"

    def close(self) -> None:
        """The lock is gone."""
        self.up()


class Postgresql:
    """A server of its own in a folder, on a free loopback port, as a user that is not root."""

    name = "postgresql"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._user = getpass.getuser() if os.geteuid() else _unprivileged()
        shutil.chown(folder, self._user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._password = secrets.token_hex(8)
        self.url = f"postgresql://bench:{self._password}@127.0.0.1:{self._port}/postgres"
        secret = folder / "password"
        secret.write_text(self._password)
        shutil.chown(secret, self._user)
        words = ["-D", str(self._data), "-U", "bench", "-A", "scram-sha-256", "--pwfile", str(secret)]
        self._run("initdb", *words, "-E", "UTF8", "--locale=C", "--no-sync")
        self.up()

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        words = [str(_binaries() / program), *arguments]
        if self._user != getpass.getuser():
            words = ["runuser", "-u", self._user, "--", *words]
        quiet = subprocess.DEVNULL
        return subprocess.run(words, check=check, cwd=self.folder, stdout=quiet, stderr=quiet, timeout=120).returncode

    def down(self) -> None:
        """The server has stopped as in a crash: connections are cut, nothing is finished."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop", check=False)

    def up(self) -> None:
        """The server answers; one that still ran, goes on."""
        if self._run("pg_ctl", "-D", str(self._data), "status", check=False) == 0:
            return
        options = f"-p {self._port} -k {self.folder} -c listen_addresses=127.0.0.1 -c max_wal_size=64MB -c min_wal_size=32MB"
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def cut(self) -> str:
        """pg_terminate_backend on all of them."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'postgres' "
                "AND pid <> pg_backend_pid()"
            ).fetchone()
        return f"{ended[0] if ended else 0} connections cut"

    def close(self) -> None:
        """The server has stopped."""
        self.down()


def _binaries() -> Path:
    places = [Path(p).parent for p in (shutil.which("pg_ctl"),) if p]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "pg_ctl").exists() and (place / "initdb").exists():
            return place
    raise SystemExit("no PostgreSQL server (pg_ctl, initdb) in PATH or /usr/lib/postgresql. Try: apt-get install postgresql")


def _unprivileged() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    found = next((name for name in ("postgres", "nobody") if name in known), None)
    if found is None or shutil.which("runuser") is None:
        raise SystemExit("PostgreSQL refuses to run as root, and there is no runuser, or no user postgres or nobody")
    return found
