"""Builds ahead in whole studies: real processes on cores of their own, found in the cache by the trials that need them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import spinning_engine
from assets import fake_study as fake

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs, one to measure and one to build on")
COMMAND = [sys.executable, "-c", "import spinning_engine; from autotune.cli.main import main; main()"]
CHANGES = (
    ("engines: [fake]", "engines: [spinning]\nbuild_ahead: {cores: 1}"),
    ("load: {window_s: 0.05, min_windows: 4, max_s: 0.2,", "load: {window_s: 0.1, min_windows: 6, max_s: 0.6,"),
    ("budget: {trials: 12}", "budget: {trials: 9}"),
)


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(Path(spinning_engine.__file__).parent), *(p for p in sys.path if p)])
    return fake.environment(folder) | {"SPINNING_LOG": str(folder / "builds.jsonl"), "PYTHONPATH": path}


def autotune(folder: Path, *words: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, words)], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == expect, (done.stdout, done.stderr)
    return done


def builds(folder: Path) -> list[dict[str, Any]]:
    path = folder / "builds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def processes_of(folder: Path) -> list[psutil.Process]:
    """What runs with the study's environment, but for this process."""
    found, log = [], environment(folder)["SPINNING_LOG"]
    for process in psutil.process_iter():
        try:
            if process.environ().get("SPINNING_LOG") == log and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_engines_are_there_when_their_trials_begin(tmp_path: Path) -> None:
    """Each engine is built once; some ahead, on the last core, beside trials that were measured on the others meanwhile."""
    fake.write_study(tmp_path, *CHANGES)
    done = autotune(tmp_path, "start", "study.yaml")
    trials = json.loads(autotune(tmp_path, "trials", "study.yaml", "--json", "--all").stdout)
    last = max(os.sched_getaffinity(0))
    ahead = [b for b in builds(tmp_path) if b["cpus"] == [last]]
    assert ahead and all(b["cpus"] == [last] or last not in b["cpus"] for b in builds(tmp_path))
    flagged = [t for t in trials if "built_ahead" in t["flags"]]
    assert flagged and all("engine" in t["cached"] and t["stage_s"]["engine"] < spinning_engine.BUILD_S for t in flagged)
    built = [tuple(b["engine"]) for b in builds(tmp_path)]
    assert len(built) == len(set(built))
    assert "builds ahead in" in done.stderr and not processes_of(tmp_path)
    told = {t.number: t.user_attrs["outcome"]["stage_s"] for t in fake.optuna_trials(tmp_path) if "outcome" in t.user_attrs}
    # What it took and not what its trial did; its stops are taken off, which are seen ten times a second.
    assert all(told[t["number"]]["engine"] >= 0.4 * spinning_engine.BUILD_S for t in flagged)


def test_kill_9_leaves_no_build_behind_and_the_study_goes_on(tmp_path: Path) -> None:
    """The study's process is killed while a build is under way, stopped or not: nothing of it is left, and a start goes on."""
    fake.write_study(tmp_path, *CHANGES)
    command = [*COMMAND, "start", "study.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.DEVNULL)
    log = tmp_path / "cache" / "logs" / "fake"
    for _ in range(600):
        if list(log.glob("ahead-*.log")) or process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(0.7)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(200):
        if not processes_of(tmp_path):
            break
        time.sleep(0.1)
    assert processes_of(tmp_path) == []
    autotune(tmp_path, "start", "study.yaml")
    trials = json.loads(autotune(tmp_path, "trials", "study.yaml", "--json", "--all").stdout)
    assert len([t for t in trials if t["role"] == "search"]) == 9 and not processes_of(tmp_path)


def test_more_cores_than_there_are(tmp_path: Path) -> None:
    """Refused before anything runs, with what there is and what to do."""
    n = len(os.sched_getaffinity(0))
    fake.write_study(tmp_path, ("engines: [fake]", f"engines: [fake]\nbuild_ahead: {{cores: {n}}}"))
    told = fake.autotune(tmp_path, "start", "study.yaml", expect=3).stderr
    assert f"this process may use {n}" in told and "build_ahead: off" in told and not (tmp_path / "study.db").exists()
