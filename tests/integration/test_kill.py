"""A study that is killed at any point goes on as if it had not been: nothing lost, nothing twice, nothing left running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from assets import fake_study as fake
from assets.watching import opened, shows, wait_until

from autotune.records import FINISHED, TrialRecord
from autotune.space.sampling import candidate_from_params
from autotune.spec.load import load_spec
from autotune.store.repository import SEARCHED, open_store
from autotune.study import scoring

N_TRIALS = 5
KILLED_START = Path(__file__).parents[1] / "assets" / "killed_start.py"
STAGES = ("proposed", "variant", "engine", "accuracy", "load")
CHAINS = {
    "the reference": tuple(f"reference:{stage}" for stage in STAGES),
    "a trial": tuple(f"search:{stage}" for stage in STAGES),
    "the bookkeeping": ("claimed", "finished", "half-told", "told"),
}
"""Points at which one study is killed, start after start; see tests/assets/killed_start.py."""


def finished(folder: Path) -> list[TrialRecord]:
    store, study_id = opened(folder)
    return store.trials(study_id, FINISHED, SEARCHED)


def ours(folder: Path) -> list[psutil.Process]:
    """Processes of this test's studies: those whose working folder or locks are in its folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("XDG_RUNTIME_DIR") == str(folder / "runtime"):
                found.append(process)
        except psutil.Error:
            continue
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def assert_whole(folder: Path, n_trials: int = N_TRIALS) -> None:
    """As many finished trials as asked for, each once, the same in our tables and in Optuna's, and nothing under way."""
    store, study_id = opened(folder)
    records = store.trials(study_id, FINISHED, SEARCHED)
    assert len(records) == n_trials
    assert len({r.candidate for r in records}) == n_trials
    assert store.running(study_id) == []
    assert len(store.trials(study_id, ["complete"], ["reference"])) == 1
    states = {t.number: t.state.name for t in fake.optuna_trials(folder)}
    assert "RUNNING" not in states.values()
    assert all(states[r.number] == "COMPLETE" for r in records)
    told = [t for t in fake.optuna_trials(folder) if t.state.name == "COMPLETE" and "duplicate_of" not in t.user_attrs]
    assert {t.number for t in told} == {r.number for r in records}
    assert all(set(fake.constraints(t)) == {"runs", "accuracy_drop"} for t in told)
    priors = [r.candidate for r in records if (r.candidate.precision, r.candidate.batch_size) == ("int8-tensor", 8)]
    assert n_trials < 3 or len(priors) >= 1, "a prior that was under way when the study was killed is not tried again"
    members = scoring.front(records, load_spec(folder / "study.yaml"))
    assert store.front_numbers(study_id) == tuple(sorted(r.number for r in members))


def study(folder: Path, n_trials: int = N_TRIALS, *changes: tuple[str, str]) -> Path:
    return fake.write_study(folder, ("{trials: 12}", f"{{trials: {n_trials}}}"), *changes)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_killed_study_goes_on_where_it_was(chain: str, tmp_path: Path) -> None:
    """kill -9 of the study's process, at one point after another, costs the trial under way each time and nothing else."""
    study(tmp_path)
    before: dict[int, TrialRecord] = {}
    for point in CHAINS[chain]:
        words = [sys.executable, str(KILLED_START), point, "3" if point == "half-told" else "1", "start", "study.yaml"]
        environment = fake.environment(tmp_path)
        killed = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert killed.returncode == -signal.SIGKILL, f"{point}: {killed.stderr}"
        wait_until(lambda: not ours(tmp_path), seconds=5)
        after = {r.number: r for r in finished(tmp_path)}
        assert {n: after[n] for n in before} == before, point
        before = after
    fake.autotune(tmp_path, "start", "study.yaml")
    assert_whole(tmp_path)
    assert {r.number: r for r in finished(tmp_path) if r.number in before} == before


AGAIN = ("finalists: off", "finalists: {rounds: 2, at_most: 2, precision: 1}"), ("canary: off", "canary: {every_trials: 2}")
REPEATED = {
    "canary": ("canary:proposed", "canary:load", "reporting"),
    "finalists": ("final:proposed", "final:load", "repeated", "reporting"),
}


@pytest.mark.parametrize("what", REPEATED)
def test_a_killed_repetition_is_measured_once(what: str, tmp_path: Path) -> None:
    """kill -9 while finalists or the canary are measured: no repetition is lost or doubled, no trial or number changes."""
    study(tmp_path, N_TRIALS, *AGAIN)
    if what == "finalists":  # all trials are done, so that only the rounds are left
        fake.autotune(tmp_path, "start", "study.yaml")
        text = (tmp_path / "study.yaml").read_text()
        (tmp_path / "study.yaml").write_text(text.replace("rounds: 2", "rounds: 3"))
    kept: dict[tuple[str, int, str, int], float] = {}
    codes = []
    for n, point in enumerate(REPEATED[what]):
        if what == "finalists" and n == 3:
            (tmp_path / "study.yaml").write_text((tmp_path / "study.yaml").read_text().replace("rounds: 3", "rounds: 5"))
        words = [sys.executable, str(KILLED_START), point, "2" if n == 1 else "1", "start", "study.yaml"]
        killed = subprocess.run(
            words, cwd=tmp_path, env=fake.environment(tmp_path), capture_output=True, text=True, timeout=120
        )
        codes.append(killed.returncode)
        assert killed.returncode in (-signal.SIGKILL, 0), f"{point}: {killed.stderr}"
        wait_until(lambda: not ours(tmp_path), seconds=5)
        after = repetitions(tmp_path)
        assert {key: after[key] for key in kept} == kept, point
        kept = after
    assert codes.count(-signal.SIGKILL) >= len(codes) - 1, codes  # the last point may find nothing left to do
    fake.autotune(tmp_path, "start", "study.yaml")
    assert_whole(tmp_path)
    after = repetitions(tmp_path)
    assert {key: after[key] for key in kept} == kept
    rounds = {round_ for _, _, role, round_ in after if role == "final"}
    assert rounds == set(range(1, max(rounds) + 1)) and len(rounds) >= 2
    assert all(("reference", 0, "final", r) in after for r in rounds)
    n_final = [sum(key[:3] == ("search", r.number, "final") for key in after) for r in finished(tmp_path)]
    assert max(n_final) == len(rounds)


def repetitions(folder: Path) -> dict[tuple[str, int, str, int], float]:
    """Items per second of every stored repetition, by the trial it belongs to, its role and round; each is there once."""
    store, study_id = opened(folder)
    found = [
        ((r.role, r.number, p.role, p.round), p.throughput_items_per_s.value if p.throughput_items_per_s else 0.0)
        for r in store.trials(study_id, ["complete"], ["search", "reference"])
        for p in r.repetitions
    ]
    assert len(found) == len(dict(found)) == len(store.trials(study_id, None, ["final", "canary"])) - n_under_way(folder)
    return dict(found)


def n_under_way(folder: Path) -> int:
    store, study_id = opened(folder)
    return sum(t.role in ("final", "canary") for t in store.running(study_id))


def test_a_deleted_cache_costs_only_the_reference(tmp_path: Path) -> None:
    """Without the reference's predictions no drop could be paired, so it is measured again; finished trials stay."""
    study(tmp_path, 2)
    fake.autotune(tmp_path, "start", "study.yaml")
    before = finished(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    fake.autotune(tmp_path, "start", "study.yaml", "--trials", 3)
    store, study_id = opened(tmp_path)
    assert len(store.trials(study_id, ["complete"], ["reference"])) == 2
    assert finished(tmp_path)[:2] == before
    assert len(finished(tmp_path)) == 3


SLOW = ("max_s: 0.2", "max_s: 1.2"), ("min_windows: 4", "min_windows: 24")
"""More than a second of load, so that a signal meets a trial under way."""


def started(folder: Path, *more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        fake.command("start", "study.yaml", *more), cwd=folder, env=fake.environment(folder), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def search_is_under_way(folder: Path) -> bool:
    return shows(folder, lambda store, study_id: any(t.role == "search" for t in store.running(study_id)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_finishes_the_trial_under_way(number: signal.Signals, tmp_path: Path) -> None:
    """Asked once, a study keeps what it is measuring, then leaves with 130; a later start goes on."""
    study(tmp_path, 2, *SLOW)
    process = started(tmp_path)
    wait_until(lambda: search_is_under_way(tmp_path))
    time.sleep(0.3)  # until it measures
    process.send_signal(number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    assert len(finished(tmp_path)) == 1
    assert not search_is_under_way(tmp_path)
    fake.autotune(tmp_path, "start", "study.yaml")
    assert_whole(tmp_path, 2)


def test_two_signals_put_the_trial_back_at_once(tmp_path: Path) -> None:
    """Asked twice, a study does not wait: the trial is put back, and measured by a later start."""
    study(tmp_path, 2, ("accuracy_drop: 0.05", "accuracy_drop: 0.9"))  # so that no trial is rejected before its load
    fake.autotune(tmp_path, "start", "study.yaml", "--trials", 1)
    text = (tmp_path / "study.yaml").read_text()
    endless = text.replace("max_s: 0.2", "max_s: 60").replace("min_windows: 4", "min_windows: 1000")
    (tmp_path / "study.yaml").write_text(endless)
    process = started(tmp_path)
    wait_until(lambda: search_is_under_way(tmp_path))
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    assert process.returncode == 130, log
    assert len(finished(tmp_path)) == 1 and not search_is_under_way(tmp_path)
    assert not ours(tmp_path)
    assert "RUNNING" not in {t.state.name for t in fake.optuna_trials(tmp_path)}
    (tmp_path / "study.yaml").write_text(text)
    fake.autotune(tmp_path, "start", "study.yaml")
    assert_whole(tmp_path, 2)


def test_workers_at_once_share_a_study(tmp_path: Path) -> None:
    """Two starts and a helper on one fresh database: one reference, no number twice, and the target met exactly."""
    study(tmp_path, 7)
    processes = [started(tmp_path, "--workers", 2), started(tmp_path)]
    for process in processes:
        _, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
    assert_whole(tmp_path, 7)
    store, study_id = opened(tmp_path)
    assert len(store.trials(study_id, None, ["reference"])) == 1
    numbers = [r.number for r in finished(tmp_path)]
    assert len(set(numbers)) == 7


def test_workers_at_once_share_a_study_on_postgresql(postgresql_url: str, tmp_path: Path) -> None:
    """The same on PostgreSQL, where rows and not files are locked, with finalists and a canary that any of them measures."""
    study(tmp_path, 5, *AGAIN)
    processes = [started(tmp_path, "--storage", postgresql_url) for _ in range(3)]
    for process in processes:
        _, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
    store = open_store(postgresql_url, create=False)
    row = store.study("fake")
    assert row is not None
    records = store.trials(row.id, FINISHED, SEARCHED)
    assert len({r.candidate for r in records}) == len(records) == 5
    assert store.running(row.id) == [] and len(store.trials(row.id, None, ["reference"])) == 1
    assert all(r.repetitions for r in store.front(row.id))
    states = {t.number: t.state.name for t in fake.optuna_trials(tmp_path, store.url)}
    assert "RUNNING" not in states.values() and all(states[r.number] == "COMPLETE" for r in records)
    store.close()


def test_a_worker_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    """Of two workers one is killed with -9; the other puts its trial back and reaches the target alone."""
    study(tmp_path, 3)
    first, second = started(tmp_path), started(tmp_path)
    wait_until(lambda: search_is_under_way(tmp_path))
    first.kill()
    _, log = second.communicate(timeout=120)
    first.communicate()
    assert second.returncode == 0, log
    assert_whole(tmp_path, 3)


def test_what_a_killed_worker_had_asked_for_is_tried_by_one_that_lives(tmp_path: Path) -> None:
    """Killed between asking and beginning: no row of ours tells of it, and nobody has to wait for it to have room."""
    study(tmp_path, 6, *SLOW)
    survivor = started(tmp_path)
    wait_until(lambda: search_is_under_way(tmp_path))
    words = [sys.executable, str(KILLED_START), "search:proposed", "1", "start", "study.yaml"]
    killed = subprocess.run(words, cwd=tmp_path, env=fake.environment(tmp_path), capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    n_before = len(finished(tmp_path))
    _, log = survivor.communicate(timeout=120)
    assert survivor.returncode == 0 and n_before < 5, log
    (lost,) = (t for t in fake.optuna_trials(tmp_path) if t.state.name == "FAIL" and t.params)
    assert candidate_from_params(lost.params) in {r.candidate for r in finished(tmp_path)}
    assert_whole(tmp_path, 6)


def test_ctrl_c_reaches_helpers_once(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole terminal group; a helper must not count it twice and drop what it measures."""
    study(tmp_path, 30, *SLOW)
    process = started(tmp_path, "--workers", 2)
    wait_until(lambda: search_is_under_way(tmp_path))
    time.sleep(1.0)
    n_before = len(finished(tmp_path))
    os.killpg(process.pid, signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    wait_until(lambda: not ours(tmp_path), seconds=5)
    assert len(finished(tmp_path)) > n_before
    store, study_id = opened(tmp_path)
    assert store.running(study_id) == []
    assert "RUNNING" not in {t.state.name for t in fake.optuna_trials(tmp_path)}
