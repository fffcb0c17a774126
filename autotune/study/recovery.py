"""What dead workers left behind is stored, told to the search or put back: no trial is lost and none stays running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.records import FINISHED, TrialRecord
from autotune.store.journal import exclusive, left_behind, read, remove
from autotune.store.repository import Store
from autotune.store.trials import RunningTrial
from autotune.store.worker import WorkerIdentity
from autotune.study.heartbeat import is_dead as is_dead  # re-exported: the judgement of one look

if TYPE_CHECKING:
    from autotune.study.proposer import Proposer  # who asks only whether a worker is dead needs no search


def recover(
    store: Store,
    study_id: int,
    proposer: Proposer,
    note: Callable[[str], None],
    dead: Callable[[RunningTrial], bool] = is_dead,
    worst: Sequence[TrialRecord] = (),
) -> None:
    """Every trial of a dead worker is told to Optuna or put back. `worst`: as `known` of `Proposer.tell`.

    What its worker could not store must have been carried over before.
    """
    for trial in store.running(study_id):
        if dead(trial) and _given_back(store, study_id, trial):
            again = "its candidate is put back" if trial.role == "search" else "it will be measured again"
            note(f"{trial.role} trial {trial.number} was under way when its worker died; {again}")
    unfinished = proposer.unfinished()
    finished = {r.number: r for r in store.numbered(study_id, unfinished) if r.state in FINISHED}
    for number, record in finished.items():
        proposer.tell(number, record, [*worst, *finished.values()])
    _put_back_abandoned(store, study_id, proposer, set(unfinished) - set(finished))


def _given_back(store: Store, study_id: int, trial: RunningTrial) -> bool:
    if trial.role == "reference":  # nothing is measured without it, so its failures are told and not counted
        return store.discard_trial(trial.trial_id)
    return store.bury_trial(study_id, trial.trial_id, trial.worker)


def carry_over(store: Store, study_id: int, folder: Path, me: WorkerIdentity, note: Callable[[str], None]) -> None:
    """What workers that are gone measured and could not store, because the database was away or they were killed, is stored."""
    if not folder.is_dir():
        return
    with exclusive(folder):
        found = {path: read(path) for path in left_behind(folder, me)}
    # Without the lock: the database may go away again, and others need their journals then. Storing twice does no harm.
    for path, pages in found.items():
        for entry in pages.entries:
            kept = store.bring_trial(study_id, entry.trial_id, entry.record, entry.worker)
            what = f"{entry.record.role} trial {entry.record.number}"
            if kept == "stored":
                note(f"{what} was measured and not stored when its worker ended; it is carried over from the journal")
            elif kept == "superseded":
                note(f"{what} of the journal was measured again meanwhile; that measurement stays")
        if pages.n_damaged:
            note(f"{pages.n_damaged} damaged lines of the journal are set aside in {path.with_suffix('.damaged')}")
        remove(path)


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
