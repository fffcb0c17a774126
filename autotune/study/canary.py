"""The canary: the reference measured again between the trials, so that a change of the machine is noticed while it matters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from autotune.records import Regime, TrialRecord
from autotune.spec.model import CanarySpec
from autotune.study.finalists import run_one_round
from autotune.study.regimes import note_changes, verdict
from autotune.study.repeating import repeat
from autotune.study.reporting import Process
from autotune.study.session import StudySession


def is_due(
    spec: CanarySpec, searched: Sequence[TrialRecord], found: Sequence[Process], regimes: Sequence[Regime], now: datetime
) -> bool:
    """True when the reference is to be measured again. `found`: its processes under the present regime, in order of time.

    After 1, 2, 4 … search trials at first, because the spread between processes is wanted early, then after every so many or so
    long; at once when the last measurement looks odd, to tell an outlier from a change.
    """
    if spec.every_trials == 0 or not found:
        return False
    last = datetime.fromisoformat(found[-1].finished_at)
    n_since = sum(r.finished_at is not None and datetime.fromisoformat(r.finished_at) > last for r in searched)
    if verdict(found, regimes).suspicious:
        return True
    too_long = (now - last).total_seconds() >= 60 * spec.every_minutes
    return n_since >= min(spec.every_trials, 2 ** (len(found) - 1)) or (n_since >= 1 and too_long)


def run_canary(run: StudySession, reference: TrialRecord) -> None:
    """The reference is measured again if it is due; after a change of the machine the present front is, too."""
    if run.plan.spec.canary.every_trials == 0:
        return
    run.timed("store", run.known.refresh)
    state = run.known.reference
    if not is_due(run.plan.spec.canary, run.known.since_reference, state.processes, state.regimes, datetime.now(UTC)):
        return
    n_before = sum(p.role == "canary" for r in state.references for p in r.repetitions)
    if repeat(run, reference, "canary", n_before + 1, reference) != "measured":
        return
    if note_changes(run):
        run_one_round(run, reference)
    run.timed("store", run.known.learn)
