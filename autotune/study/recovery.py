"""What dead workers left behind is told to the search or put back, so that no trial is lost and none stays running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from autotune.records import FINISHED, TrialRecord
from autotune.store.repository import Store
from autotune.store.trials import RunningTrial
from autotune.store.worker import is_alive

if TYPE_CHECKING:
    from autotune.study.proposer import Proposer  # who asks only whether a worker is dead needs no search

SILENT_S = 600.0
"""A worker on another host that was not heard of for so long counts as dead: twenty missed heartbeats."""


def recover(
    store: Store, study_id: int, proposer: Proposer, note: Callable[[str], None], worst: Sequence[TrialRecord] = ()
) -> None:
    """Every trial of a dead worker is told to Optuna or put back. `worst`: as `known` of `Proposer.tell`."""
    for trial in store.running(study_id):
        if is_dead(trial) and store.discard_trial(trial.trial_id):
            again = "its candidate is put back" if trial.role == "search" else "it will be measured again"
            note(f"{trial.role} trial {trial.number} was under way when its worker died; {again}")
    unfinished = proposer.unfinished()
    finished = {r.number: r for r in store.numbered(study_id, unfinished) if r.state in FINISHED}
    for number, record in finished.items():
        proposer.tell(number, record, [*worst, *finished.values()])
    _put_back_abandoned(store, study_id, proposer, set(unfinished) - set(finished))


def _put_back_abandoned(store: Store, study_id: int, proposer: Proposer, numbers: set[int]) -> None:
    """Those of the trials that nobody measures are asked for again.

    Optuna cannot say whose a trial is, and a worker that asks for one is not in our tables until it has drawn every knob. So
    the trial is marked before our tables are read, and a worker looks for the mark after it has written there: of the two at
    least one sees the other.
    """
    measured = {t.number for t in store.running(study_id) if t.role == "search"}
    suspects = {n for n in sorted(numbers - measured) if proposer.suspect(n)}
    if suspects:
        begun = {r.number for r in store.numbered(study_id, suspects)}
        for number in sorted(suspects - begun):
            proposer.put_back(number)


def is_dead(trial: RunningTrial) -> bool:
    """True when nobody measures the trial any more."""
    alive = is_alive(trial.worker)
    return alive is False or (alive is None and trial.heartbeat_age_s > SILENT_S)
