"""What dead workers left behind is told to the search or put back, so that no trial is lost and none stays running."""

from __future__ import annotations

from collections.abc import Callable

from autotune.records import FINISHED, TrialRecord
from autotune.store.repository import SEARCHED, Store
from autotune.store.trials import RunningTrial
from autotune.store.worker import is_alive
from autotune.study.proposer import Proposer

SILENT_S = 600.0
"""A worker on another host that was not heard of for so long counts as dead: twenty missed heartbeats."""


def recover(store: Store, study_id: int, proposer: Proposer, note: Callable[[str], None]) -> list[TrialRecord]:
    """The finished trials of the search, once every trial of a dead worker is told to Optuna or put back."""
    # Optuna is read first: a worker asks Optuna, then begins in our tables, so what it began meanwhile shows there.
    unfinished = proposer.unfinished()
    still_running = set()
    for trial in store.running(study_id):
        if not is_dead(trial):
            still_running.add(trial.number)
        elif store.discard_trial(trial.trial_id):
            note(f"trial {trial.number} was under way when its worker died; its candidate is put back")
    records = store.trials(study_id, FINISHED, SEARCHED)
    finished = {r.number: r for r in records}
    for number in unfinished:
        if number in finished:
            proposer.tell(number, finished[number], records)
        elif number not in still_running:
            proposer.put_back(number)
    return records


def is_dead(trial: RunningTrial) -> bool:
    """True when nobody measures the trial any more."""
    alive = is_alive(trial.worker)
    return alive is False or (alive is None and trial.heartbeat_age_s > SILENT_S)
