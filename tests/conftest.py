"""What tests of more than one room need: a PostgreSQL server that the tests start and stop themselves."""

from __future__ import annotations

import atexit
import getpass
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "not-to-be-shown"

# Devices are locked for the whole host; tests wait for no study that runs on it, nor keep one waiting.
if "AUTOTUNE_LOCKS" not in os.environ:
    os.environ["AUTOTUNE_LOCKS"] = tempfile.mkdtemp(prefix="autotune-locks-")
    atexit.register(shutil.rmtree, os.environ["AUTOTUNE_LOCKS"], ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class PostgresqlServer:
    """A cluster of its own in a temporary folder, on a free loopback port."""

    binaries: Path
    folder: Path
    user: str
    port: int

    def url(self, database: str) -> str:
        """The storage URL of a database of this server."""
        return f"postgresql://tester:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> None:
        """The program has run as the server's user; PostgreSQL refuses to run as root."""
        words = [str(self.binaries / program), *arguments]
        if self.user != getpass.getuser():
            words = ["runuser", "-u", self.user, "--", *words]
        subprocess.run(words, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=120)

    def create(self) -> None:
        """The cluster's files are there."""
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        data = ["-D", str(self.folder / "data"), "-U", "tester", "-A", "scram-sha-256", "--pwfile", str(password)]
        self.run("initdb", *data, "-E", "UTF8", "--locale=C", "--no-sync")

    def start(self) -> None:
        """The server answers."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self) -> None:
        """The server is down, as after a crash: connections are cut."""
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A running server; skips where the machine has none installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'autotune[postgresql]'")
    found = [Path(p) for p in (shutil.which("pg_ctl"), shutil.which("initdb")) if p]
    places = [*(p.parent for p in found), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    binaries = next((p for p in places if (p / "pg_ctl").exists() and (p / "initdb").exists()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server (pg_ctl, initdb) in PATH or /usr/lib/postgresql/*/bin")
    user = getpass.getuser() if os.geteuid() else unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="autotune-pg-"))
    shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PostgresqlServer(binaries=binaries, folder=folder, user=user, port=port)
    try:
        server.create()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """The URL, with a password, of an empty database that goes when the test ends."""
    import psycopg

    name = f"t_{secrets.token_hex(6)}"
    admin = postgresql_server.url("postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgresql_server.url(name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def unprivileged_user() -> str:
    """A user that is not root; skips where there is none to become."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    if shutil.which("runuser") is None or not known & {"postgres", "nobody"}:
        pytest.skip("PostgreSQL refuses to run as root, and there is no runuser, or no user postgres or nobody")
    return "postgres" if "postgres" in known else "nobody"
