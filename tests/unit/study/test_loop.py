"""The loop over trials that take no time: what it leaves in the database, and that it reads little of it on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from study_samples import study
from virtual_study import VirtualMachine, replace_model

from autotune.candidate import Candidate, Choices
from autotune.records import TrialRecord
from autotune.spec.model import CanarySpec, FinalistsSpec, SearchSpec
from autotune.store.repository import Store, open_store
from autotune.store.worker import this_worker
from autotune.study import loop
from autotune.study.loop import StudyResult, run_study
from autotune.study.observer import Silent
from autotune.study.plan import make_plan
from autotune.study.scoring import front, ties_of
from autotune.study.session import StopSwitch


class Process(VirtualMachine):
    """A machine that a study may hold on to like a process."""

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def rate(c: Candidate) -> float:
    """More with the batch, up to 32, and with threads."""
    return 100.0 * math.log2(1 + min(c.batch_size, 32)) * (c.worker_threads or 1) * (2.0 if c.precision == "fp16" else 1.0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the study to so many trials in a process of its own kind; the result and the store."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    machine = Process(truth=rate, noise=0.01, own=0.01)
    monkeypatch.setattr(loop, "TrialProcess", lambda preload: machine)

    def started(trials: int, observer: Silent | None = None, **sections: Any) -> tuple[StudyResult, Store]:
        space = {"precision": Choices(values=("fp32", "fp16")), "batch_size": Choices(values=(1, 2, 4, 8, 16, 32, 64))}
        values = {"space": space, "cache": tmp_path / "cache", "search": SearchSpec(strategy="random")}
        values |= {"finalists": FinalistsSpec(rounds=1, at_most=2), "canary": CanarySpec(every_minutes=100_000)}
        plan = replace_model(make_plan(study(**(values | sections))))
        store = open_store(f"sqlite:///{tmp_path / 'study.db'}")
        return run_study(plan, store, this_worker(), observer or Silent(), StopSwitch(), trials=trials), store

    return started


def test_the_target_is_met_and_the_stored_front_is_that_of_all_trials(run: Any) -> None:
    """Ten trials, then ten more in another process: each once, and front, ties and counts as from the whole records."""
    run(6)
    result, store = run(12)
    spec = study()
    records = result.records
    assert result.ended == "trials" and len(records) == 12 == sum(result.n_trials.values())
    assert len({r.candidate for r in records}) == 12
    assert result.front == front(records, spec) and result.ties == ties_of(result.front, records, spec)
    (row,) = store.studies()
    assert store.front_numbers(row.id) == tuple(sorted(r.number for r in result.front))
    assert result.n_rounds and len(result.n_rounds) == sum(bool(r.repetitions) for r in records)


def test_a_space_that_is_used_up_ends_the_study(run: Any) -> None:
    """Four candidates, the reference among them, and a target of thirty: every one is measured once, and then it is over."""
    space = {"precision": Choices(values=("fp32", "fp16")), "batch_size": Choices(values=(1, 2))}
    off = {"finalists": FinalistsSpec(rounds=0), "canary": CanarySpec(every_trials=0)}
    result, _ = run(30, space=space, **off)
    assert result.ended == "exhausted"
    assert len({r.candidate for r in result.records}) == len(result.records)


class Beside(Silent):
    """While the last trial ends, another worker asks Optuna for one, and is killed before it has written anything of it."""

    def __init__(self, folder: Path, after: int) -> None:
        self._url, self._left = f"sqlite:///{folder / 'study.db'}", after

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        """The trial that is asked for stays RUNNING."""
        self._left -= record.role == "search"
        if self._left == 0:
            optuna.load_study(study_name=study().study, storage=self._url).ask()


def test_what_a_worker_asked_for_before_it_was_killed_is_not_left_running(run: Any, tmp_path: Path) -> None:
    """Also where the target was reached meanwhile, so that nobody waited for it."""
    result, _ = run(3, observer=Beside(tmp_path, after=3))
    assert result.ended == "trials"
    trials = optuna.load_study(study_name=study().study, storage=f"sqlite:///{tmp_path / 'study.db'}").get_trials()
    assert "RUNNING" not in {t.state.name for t in trials} and len(trials) > 4


def test_no_trial_reads_all_trials(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its beginning and its end the loop reads no list of all search trials, canaries included."""
    run(2)
    read, whole = Store.trials, []

    def watched(self: Store, study_id: int, states: Any = None, roles: Any = None) -> list[TrialRecord]:
        whole.append(roles)
        return read(self, study_id, states, roles)

    monkeypatch.setattr(Store, "trials", watched)
    run(10, finalists=FinalistsSpec(rounds=0))
    assert whole and all(roles == ["reference"] for roles in whole)
