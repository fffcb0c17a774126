from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from store_samples import ENVIRONMENT, complete

from autotune.store.connection import parse_url
from autotune.store.repository import Store, open_store
from autotune.store.worker import is_alive

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from store_samples import ENVIRONMENT, complete
from autotune.store.repository import open_store
from autotune.store.worker import this_worker
store, worker = open_store(sys.argv[1]), this_worker()
study = store.study("s").id
for number in range(100_000):
    trial = store.begin_trial(study, number, "search", complete(number).candidate, worker)
    store.finish_trial(trial, complete(number))
    print(number, flush=True)
"""
HALF = """
import sys, time
sys.path.insert(0, sys.argv[2])
from store_samples import ENVIRONMENT, complete
from autotune.store import trials
from autotune.store.repository import open_store
from autotune.store.worker import this_worker
store, worker = open_store(sys.argv[1]), this_worker()
study = store.study("s").id
store.begin_trial(study, 0, "search", complete(0).candidate, worker)
def half(connection):
    trials.finish(connection, 1, complete(0))
    print("half", flush=True)
    time.sleep(60)
store._write(half)
"""


def kill_after(code: str, url: str, n_lines: int) -> list[str]:
    """The lines that a process running `code` printed before it was killed with -9, at least `n_lines`."""
    plain = parse_url(url).render_as_string(hide_password=False)
    command = [sys.executable, "-c", code, plain, str(Path(__file__).parent)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    lines = [child.stdout.readline() for _ in range(n_lines)]
    child.kill()
    lines += child.stdout.readlines()
    child.wait()
    return [line for line in lines if line.strip()]


@pytest.mark.parametrize("n_lines", [3, 10])
def test_kill_9_leaves_every_finished_trial_whole(store: Store, study_id: int, database_url: str, n_lines: int) -> None:
    """What a worker was told is stored survives kill -9; at most one further trial is there, whole or still running."""
    told = len(kill_after(WRITER, database_url, n_lines))
    found = store.trials(study_id)
    finished = [t for t in found if t.state == "complete"]
    assert [t.number for t in found] == list(range(len(found)))
    assert told <= len(finished) <= len(found) <= told + 1
    assert all(t.as_json() == complete(t.number).as_json() for t in finished)
    assert all(len(store.telemetry(study_id, t.number)) == 2 for t in finished)
    assert all(is_alive(t.worker) is False for t in store.running(study_id))


def test_kill_9_in_mid_transaction_leaves_the_trial_running(store: Store, study_id: int, database_url: str) -> None:
    """A half-written trial is as if nothing was written, holds no lock, and can be put back."""
    assert kill_after(HALF, database_url, 1) == ["half\n"]
    [running] = store.running(study_id)
    assert is_alive(running.worker) is False
    assert store._read(lambda c: c.execute(text("SELECT COUNT(*) FROM at_measurements")).scalar()) == 0
    assert store.discard_trial(running.trial_id)
    assert store.trials(study_id) == []


def test_a_front_of_two_thousand_trials_is_read(tmp_path: Path) -> None:
    """Counts, the front and all records of a long study come back complete; `--durations` shows what that takes."""
    from sqlalchemy import insert

    from autotune.store import rows, tables

    store = open_store(f"sqlite:///{tmp_path / 'long.db'}")
    study = store.ensure_study("s", {}, "d", "m", ("accuracy",), ENVIRONMENT, 2000)
    for role_number in (0, 1):
        store.save_finished(study.id, complete(role_number), this())
    values = {
        **rows.trial_values(complete(0)),
        "study_id": study.id,
        "role": "search",
        "environment_key": study.environment_key,
    }
    values |= {"worker_id": "w", "host": "h", "pid": 1, "pid_started": 1, "boot_id": "b", "heartbeat_at": "2026-03-01T12:00:00"}
    estimates = rows.measurement_values(complete(0))
    numbers = range(2, 2000)
    with store._writer.begin() as c:
        c.execute(insert(tables.trials), [{**values, "id": n + 1, "number": n} for n in numbers])
        c.execute(insert(tables.measurements), [{**e, "trial_id": n + 1} for n in numbers for e in estimates])
    store.set_front(study.id, range(0, 2000, 100))
    assert store.counts(study.id)["complete"] == 2000
    assert [t.number for t in store.front(study.id)] == list(range(0, 2000, 100))
    records = store.trials(study.id)
    assert [t.number for t in records] == list(range(2000))
    assert records[1999].as_json() == complete(1999).as_json()


def this() -> object:
    from autotune.store.worker import this_worker

    return this_worker()
