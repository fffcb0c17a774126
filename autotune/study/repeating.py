"""A trial's candidate measured once more in a fresh process, stored as a repetition of it."""

from __future__ import annotations

from typing import Literal

from autotune.records import RepeatedRole, TrialRecord
from autotune.spec.model import LoadSpec
from autotune.study.orders import wait_while_paused
from autotune.study.session import StudySession
from autotune.study.under_way import measured

Outcome = Literal["measured", "elsewhere", "interrupted"]


def repeat(
    run: StudySession, of: TrialRecord, role: RepeatedRole, round_: int, reference: TrialRecord, load: LoadSpec | None = None
) -> Outcome:
    """The repetition of `of` in this round is stored, or another worker has it, or the user ended it and nothing is left.

    A study that is paused goes on here once it is resumed.
    """
    while True:
        wait_while_paused(run)
        if run.switch.count:
            return "interrupted"
        begun = run.timed("store", run.store.begin_repetition, run.study.id, of, role, round_, run.worker, run.environment_key)
        if begun is None:
            return "elsewhere"
        run.observer.trial_began(begun.number, of.candidate, role)
        record = measured(run, begun.trial_id, begun.number, role, of.candidate, reference, load)
        if record is not None:
            run.observer.repeated(of, record, round_)
            return "measured"
