"""A database that goes away in the middle of a study: it pauses and keeps what it measured, whatever becomes of the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from assets import fake_study as fake
from assets.watching import wait_until

from autotune.records import FINISHED, TrialRecord
from autotune.store.journal import read
from autotune.store.repository import SEARCHED, open_store

if TYPE_CHECKING:
    from tests.conftest import PostgresqlServer

Starter = Callable[[Path, str], subprocess.Popen[str]]
N_TRIALS = 4
SLOW = ("max_s: 0.2", "max_s: 3.0"), ("min_windows: 4", "min_windows: 60")
"""A trial must outlast the stop of a server, or no record waits for it."""
CLAIMED_S = 1.0
"""So long after a trial was seen to run it is past its claim, and measures for two seconds and more."""


@pytest.fixture
def started() -> Iterator[Starter]:
    """Starts a study; what still runs when the test ends is killed, with its children."""
    processes: list[subprocess.Popen[str]] = []

    def start(folder: Path, url: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            fake.command("start", "study.yaml", "--storage", url), cwd=folder, env=fake.environment(folder), text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measuring(url: str, but: int = 0) -> int:
    """The id of a search trial, other than `but`, that needs no more of the database before it ends; 0 without one.

    Claiming asks the database after the trial is seen to run: a study that meets the outage there waits, and measures nothing.
    """
    first = under_way(url)
    time.sleep(CLAIMED_S)
    return first if first != but and under_way(url) == first else 0


def under_way(url: str) -> int:
    """The id of the search trial that runs, where another is stored; 0 without one."""
    try:
        store = open_store(url, create=False, retry_s=1)
    except Exception:
        return 0
    row = store.study("fake")
    running = store.running(row.id) if row is not None and store.trials(row.id, FINISHED, SEARCHED) else []
    store.close()
    return running[0].trial_id if running else 0


def stop_while_measuring(server: PostgresqlServer, url: str, folder: Path) -> None:
    """The server is gone, and a finished trial waits for it. Where one ended just before the stop, nothing does: once more."""
    missed = 0
    for last in (False, True):
        missed = wait_until(lambda but=missed: measuring(url, but))
        server.stop()
        try:
            wait_until(lambda: journals(folder), 60.0 if last else 12.0)
        except AssertionError:
            server.start()
            if last:
                raise
        else:
            return


def journals(folder: Path) -> list[Path]:
    return [p for p in (folder / "cache" / "journal").glob("*/*.jsonl") if p.stat().st_size]


def assert_whole(folder: Path, url: str) -> dict[int, TrialRecord]:
    store = open_store(url, create=False)
    row = store.study("fake")
    assert row is not None
    records = store.trials(row.id, FINISHED, SEARCHED)
    assert len({r.candidate for r in records}) == len(records) == N_TRIALS and store.running(row.id) == []
    states = {t.number: t.state.name for t in fake.optuna_trials(folder, store.url)}
    store.close()
    assert "RUNNING" not in states.values() and all(states[r.number] == "COMPLETE" for r in records)
    assert journals(folder) == []
    return {r.number: r for r in records}


def test_an_outage_pauses_a_study(
    postgresql_server: PostgresqlServer, postgresql_url: str, tmp_path: Path, started: Starter
) -> None:
    """The server is gone for longer than any single trial takes: the same process goes on, and says that it waited."""
    fake.write_study(tmp_path, ("{trials: 12}", f"{{trials: {N_TRIALS}}}"), *SLOW)
    process = started(tmp_path, postgresql_url)
    stop_while_measuring(postgresql_server, postgresql_url, tmp_path)
    try:
        time.sleep(7)
    finally:
        postgresql_server.start()
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert "is away" in log and "is back after" in log and "not-to-be-shown" not in log
    assert_whole(tmp_path, postgresql_url)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_measured_in_an_outage_outlives_the_process(
    number: signal.Signals, postgresql_server: PostgresqlServer, postgresql_url: str, tmp_path: Path, started: Starter
) -> None:
    """Killed, or asked to stop, while a finished trial waits for the database: the next start stores that very record."""
    fake.write_study(tmp_path, ("{trials: 12}", f"{{trials: {N_TRIALS}}}"), *SLOW)
    process = started(tmp_path, postgresql_url)
    stop_while_measuring(postgresql_server, postgresql_url, tmp_path)
    try:
        os.kill(process.pid, number)
        _, log = process.communicate(timeout=60)
        (waiting,) = read(journals(tmp_path)[0]).entries
    finally:
        postgresql_server.start()
    assert process.returncode == (130 if number == signal.SIGTERM else -signal.SIGKILL), log
    assert number == signal.SIGKILL or "the next start, when the database is back, carries it over" in log
    again = fake.autotune(tmp_path, "start", "study.yaml", "--storage", postgresql_url)
    assert "carried over from the journal" in again.stderr
    stored = assert_whole(tmp_path, postgresql_url)[waiting.record.number]
    assert (stored.candidate, stored.accuracy) == (waiting.record.candidate, waiting.record.accuracy)
    assert stored.finished_at == waiting.record.finished_at


def test_a_locked_file_pauses_a_study(tmp_path: Path, started: Starter) -> None:
    """SQLite: somebody holds the file for longer than SQLite itself waits."""
    fake.write_study(tmp_path, ("{trials: 12}", f"{{trials: {N_TRIALS}}}"), *SLOW)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    process = started(tmp_path, url)
    wait_until(lambda: measuring(url))
    with sqlite3.connect(tmp_path / "study.db", timeout=30, isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        wait_until(lambda: journals(tmp_path))
        time.sleep(12)  # it is told after 5 s, at the end of a try, and SQLite waits 2 s in each
        holder.rollback()
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert "is away (database is locked)" in log.replace("\n", " ") or "is away" in log
    assert_whole(tmp_path, url)
