"""Optuna's storage with a bounded memory: what it forgets, what it never does, and a long study opened without reading it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from autotune.study import trial_window
from autotune.study.trial_window import TrialWindow

SPACE = {"x": FloatDistribution(0.0, 1.0)}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of forty trials, four of which are the first."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monkeypatch.setattr(trial_window, "MOST", 40)
    monkeypatch.setattr(trial_window, "_FIRST", 4)


@pytest.fixture
def backend(tmp_path: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")


def opened(backend: optuna.storages.RDBStorage, remember: tuple[int, ...] = ()) -> optuna.Study:
    storage = TrialWindow(backend, remember)
    return optuna.create_study(study_name="s", storage=storage, directions=["maximize", "minimize"], load_if_exists=True)


def fill(study: optuna.Study, numbers: range, best: int = -1) -> None:
    """Trials on a diagonal where each is dominated, but for the best, and of which every fifth breaks a constraint."""
    for i in numbers:
        values = (2.0, -1.0) if i == best else (1.0 - i / 1000, i / 1000)
        broken = {"limit": 1.0 if i % 5 == 4 and i != best else -1.0}
        study.add_trial(create_trial(params={"x": 0.5}, distributions=SPACE, values=values, constraints=broken))


def numbers(study: optuna.Study) -> list[int]:
    return [t.number for t in study.get_trials(deepcopy=False)]


def test_a_long_study_is_remembered_in_part(backend: optuna.storages.RDBStorage) -> None:
    """Of 120 trials at most 48 are held; the first, the latest and the best are among them, in order, and each once."""
    study = opened(backend)
    for i in range(0, 120, 10):
        fill(study, range(i, i + 10), best=57)
        held = numbers(study)
        assert held == sorted(set(held)) and len(held) <= 48
    assert {0, 1, 2, 3, 57, *range(110, 120)} <= set(held)
    storage = study._storage
    assert isinstance(storage, TrialWindow)
    assert len(storage._trial_id_to_study_id_and_number) <= 48


def test_a_forgotten_trial_is_found_by_its_number(backend: optuna.storages.RDBStorage) -> None:
    """Everything is in the database still: by its number any trial is read from there."""
    study = opened(backend)
    fill(study, range(120))
    gone = next(i for i in range(120) if i not in numbers(study))
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, gone)
    assert study._storage.get_trial(trial_id).number == gone


def test_what_waits_or_runs_is_never_forgotten(backend: optuna.storages.RDBStorage) -> None:
    """A trial that runs and one that waits are seen beside a hundred others, and told and asked for."""
    study = opened(backend)
    running = study.ask(SPACE)
    study.enqueue_trial({"x": 0.25})
    fill(study, range(2, 120))
    states = [t.state for t in study.get_trials(deepcopy=False)[:2]]
    assert states == [TrialState.RUNNING, TrialState.WAITING]
    assert study.ask(SPACE).params == {"x": 0.25}
    study.tell(running, (1.0, 1.0))
    assert study.get_trials(deepcopy=False)[0].state == TrialState.COMPLETE


def test_a_long_study_is_opened_without_reading_it(
    backend: optuna.storages.RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new process reads what it is told to remember, the first, the latest and some others; later ones it sees as before."""
    first = opened(backend)
    running = first.ask(SPACE)
    fill(first, range(1, 120), best=57)
    read = backend._get_trials
    monkeypatch.setattr(backend, "_get_trials", lambda *args, **named: counted(read(*args, **named)))
    most: list[int] = []

    def counted(found: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
        most.append(len(found))
        return found

    study = opened(backend, remember=(57, 119))
    held = numbers(study)
    assert {0, 1, 2, 3, 57, *range(110, 120)} <= set(held) and max(most) <= 48
    first.tell(running, (1.0, 1.0))
    fill(first, range(120, 122))
    assert {0, 120, 121} <= set(numbers(study))
    assert study.get_trials(deepcopy=False)[0].state == TrialState.COMPLETE
