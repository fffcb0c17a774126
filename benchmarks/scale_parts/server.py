"""A PostgreSQL server of the benchmark's own, in a temporary folder, which is gone when the block ends."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgresql() -> Iterator[str | None]:
    """The URL of an empty database with PostgreSQL's default settings; None where no server is installed."""
    places = [*(Path(p).parent for p in (shutil.which("initdb"),) if p), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    binaries = next((p for p in reversed(places) if (p / "pg_ctl").exists()), None)
    if binaries is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="autotune-scale-pg-"))
    user = getpass.getuser() if os.geteuid() else "postgres"  # the server refuses to run as root
    shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *words: str) -> None:
        command = [str(binaries / program), *words]
        command = ["runuser", "-u", user, "--", *command] if user != getpass.getuser() else command
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C")
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "-w",
            "start")  # fmt: skip
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "scale")
        yield f"postgresql://bench@127.0.0.1:{port}/scale"
    finally:
        subprocess.run(["runuser", "-u", user, "--", str(binaries / "pg_ctl"), "-D", data, "-m", "immediate", "stop"]
                       if user != getpass.getuser() else [str(binaries / "pg_ctl"), "-D", data, "-m", "immediate", "stop"],
                       check=False, stdout=subprocess.DEVNULL, timeout=60)  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
