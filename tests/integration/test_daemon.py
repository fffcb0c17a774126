"""A study that runs without a terminal: paused, resumed, stopped and seen from other shells, other hosts and after a reboot."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from assets import fake_study as fake
from assets.watching import detached, kill_all_of, opened, shows, status, wait_until

from autotune.records import FINISHED
from autotune.store.repository import SEARCHED

MANY = ("trials: 12", "trials: 5000")
LONG_LOAD = ("max_s: 0.2", "max_s: 60"), ("min_windows: 4", "min_windows: 1000"), ("accuracy_drop: 0.05", "accuracy_drop: 0.9")
"""No trial ends by itself, and none is rejected before its load."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of studies; whatever still runs there at the end is killed."""
    yield tmp_path
    kill_all_of(tmp_path)


def n_finished(folder: Path) -> int:
    store, study_id = opened(folder)
    return len(store.trials(study_id, FINISHED, SEARCHED))


def is_under_way(folder: Path) -> bool:
    store, study_id = opened(folder)
    return any(t.role == "search" for t in store.running(study_id))


def booted_meanwhile(folder: Path) -> None:
    """The rows of all workers are those of an earlier boot of this host."""
    with sqlite3.connect(folder / "study.db") as connection:
        for table in ("at_workers", "at_trials"):
            connection.execute(f"UPDATE {table} SET boot_id = 'before'")


def holds_device(folder: Path) -> bool:
    return bool(json.loads(fake.autotune(folder, "doctor", "--json").stdout)["busy_devices"])


def test_a_study_is_paused_and_resumed_from_another_shell(folder: Path) -> None:
    """The trial under way is finished, the device is free, status says since when and by whom; then it goes on."""
    fake.write_study(folder, MANY)
    pid = detached(folder)
    wait_until(lambda: n_finished(folder) >= 1)
    said = fake.autotune(folder, "pause", "study.yaml").stderr
    assert "fake is paused; it goes on after: autotune resume fake" in said
    wait_until(lambda: [w["state"] for w in status(folder)["workers"]] == ["paused"])
    found, n = status(folder), n_finished(folder)
    assert found["state"] == "paused" and found["paused"]["by"] and found["running"] == [] and found["workers_here"] == [pid]
    assert f"paused since {found['paused']['since']}" in fake.autotune(folder, "status", "study.yaml").stdout
    assert not holds_device(folder)
    assert "paused already" in fake.autotune(folder, "pause", "study.yaml").stderr
    assert n_finished(folder) == n
    assert "1 worker(s) go on" in fake.autotune(folder, "resume", "study.yaml").stderr
    wait_until(lambda: n_finished(folder) > n)
    assert status(folder)["state"] == "running"
    assert "is not paused" in fake.autotune(folder, "resume", "study.yaml").stderr
    fake.autotune(folder, "stop", "study.yaml")
    wait_until(lambda: status(folder)["state"] == "idle")
    assert status(folder)["workers"] == []


def test_a_pause_at_once_puts_the_trial_back(folder: Path) -> None:
    """With --now nobody waits for the trial under way; its candidate is measured after the pause."""
    study = fake.write_study(folder, ("trials: 12", "trials: 2"), LONG_LOAD[2])
    fake.autotune(folder, "start", "study.yaml", "--trials", 1)
    text = study.read_text()
    for old, new in LONG_LOAD[:2]:
        study.write_text(study.read_text().replace(old, new))
    detached(folder)
    wait_until(lambda: is_under_way(folder))
    time.sleep(0.5)
    assert "is put back" in fake.autotune(folder, "pause", "study.yaml", "--now").stderr
    wait_until(lambda: not is_under_way(folder), 20)
    assert status(folder)["state"] == "paused" and n_finished(folder) == 1
    assert "RUNNING" not in {t.state.name for t in fake.optuna_trials(folder)}
    fake.autotune(folder, "stop", "study.yaml")  # a paused worker leaves at once
    wait_until(lambda: status(folder)["workers"] == [], 20)
    assert status(folder)["state"] == "paused"
    study.write_text(text)
    fake.autotune(folder, "resume", "study.yaml")
    fake.autotune(folder, "start", "study.yaml")
    assert n_finished(folder) == 2 and not is_under_way(folder)


def test_a_pause_holds_across_a_reboot(folder: Path) -> None:
    """Killed and booted, the study is still paused; a start waits until it is resumed, then meets its target."""
    fake.write_study(folder, ("trials: 12", "trials: 3"))
    fake.autotune(folder, "start", "study.yaml", "--trials", 1)
    fake.autotune(folder, "pause", "study.yaml")
    pid = detached(folder)
    wait_until(lambda: [w["state"] for w in status(folder)["workers"]] == ["paused"])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    booted_meanwhile(folder)
    assert status(folder)["state"] == "paused"
    assert "no worker waits for the end of the pause" in fake.autotune(folder, "status", "study.yaml").stdout
    done = fake.autotune(folder, "start", "study.yaml", "--detach")
    assert "it is paused since" in done.stderr and "autotune resume study.yaml" in done.stderr
    wait_until(lambda: [w["state"] for w in status(folder)["workers"]] == ["paused"])
    assert not holds_device(folder) and n_finished(folder) == 1
    fake.autotune(folder, "resume", "--storage", f"sqlite:///{folder / 'study.db'}")  # the only one that is paused
    wait_until(lambda: status(folder)["state"] == "idle")
    assert n_finished(folder) == 3


def test_after_a_reboot_a_study_is_interrupted_and_goes_on(folder: Path) -> None:
    """Never "running": the boot tells, even where the process id is in use again. A start removes the dead and goes on."""
    fake.write_study(folder, ("trials: 12", "trials: 3"), *LONG_LOAD)
    text = fake.STUDY.replace("trials: 12", "trials: 3")
    pid = detached(folder)
    wait_until(lambda: (folder / "study.db").exists() and status(folder)["running"])
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    with sqlite3.connect(folder / "study.db") as connection:
        for table in ("at_workers", "at_trials"):
            connection.execute(f"UPDATE {table} SET pid = ?", (os.getpid(),))
    booted_meanwhile(folder)
    found = status(folder)
    assert found["state"] == "interrupted" and [w["state"] for w in found["workers"]] == ["lost"]
    said = fake.autotune(folder, "status", "study.yaml").stdout
    assert "booted meanwhile" in said and "autotune start STUDY.yaml" in said
    (folder / "study.yaml").write_text(text.replace("accuracy_drop: 0.05", "accuracy_drop: 0.9"))
    fake.autotune(folder, "start", "study.yaml")
    assert status(folder)["state"] == "idle" and n_finished(folder) == 3 and status(folder)["workers"] == []


def test_a_worker_that_no_signal_reaches_is_stopped_through_the_database(folder: Path) -> None:
    """As on another host: its locks are not seen here, and no signal is sent. The second stop puts its trial back."""
    study = fake.write_study(folder, ("trials: 12", "trials: 2"), LONG_LOAD[2])
    fake.autotune(folder, "start", "study.yaml", "--trials", 1)
    for old, new in LONG_LOAD[:2]:
        study.write_text(study.read_text().replace(old, new))
    worker = subprocess.Popen(
        fake.command("start", "study.yaml"), cwd=folder, env=fake.environment(folder), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: is_under_way(folder))
    there = {**fake.environment(folder), "XDG_RUNTIME_DIR": str(folder / "cache")}

    def stop() -> str:
        words = fake.command("stop", "study.yaml")
        return subprocess.run(words, cwd=folder, env=there, capture_output=True, text=True, check=True, timeout=60).stderr

    assert "1 worker(s) of fake asked to stop, 1 of them on" in stop()
    time.sleep(4)
    assert worker.poll() is None and is_under_way(folder)
    stop()
    _, log = worker.communicate(timeout=30)
    assert worker.returncode == 130, log
    assert n_finished(folder) == 1 and not is_under_way(folder) and "nothing of fake runs here" in stop()


def test_a_stop_while_the_finalists_wait_for_the_end_of_a_pause(folder: Path) -> None:
    """A pause between two measurements of the finalists is left by SIGTERM with 130; the next start measures the rest."""
    fake.write_study(
        folder, ("trials: 12", "trials: 2"), ("finalists: off", "finalists: {rounds: 2, at_most: 2, precision: 1}"),
        ("max_s: 0.2", "max_s: 1"), ("min_windows: 4", "min_windows: 20"),
    )  # fmt: skip
    process = subprocess.Popen(
        fake.command("start", "study.yaml"), cwd=folder, env=fake.environment(folder), stderr=subprocess.PIPE, text=True
    )

    wait_until(lambda: shows(folder, lambda store, study_id: bool(store.trials(study_id, ["complete"], ["final"]))))
    fake.autotune(folder, "pause", "study.yaml")
    wait_until(lambda: [w["state"] for w in status(folder)["workers"]] == ["paused"])
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 130, log
    fake.autotune(folder, "resume", "study.yaml")
    fake.autotune(folder, "start", "study.yaml")
    store, study_id = opened(folder)
    of = [r for r in store.trials(study_id, ["complete"], ["search", "reference"]) if r.repetitions]
    assert of and all(sorted(p.round for p in r.repetitions) == [1, 2] for r in of if r.role == "reference")
