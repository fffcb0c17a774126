"""Trials under way: claimed so that workers do not collide, measured one at a time on a device, kept or put back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from autotune.candidate import Candidate
from autotune.errors import EnvironmentProblem, SpecError
from autotune.records import TrialRecord, TrialRole
from autotune.spec.model import CLASS_METRICS, LoadSpec
from autotune.study.lock import device_lock, reference_lock
from autotune.study.orders import wait_while_paused
from autotune.study.plan import StudyPlan
from autotune.study.proposer import Proposal
from autotune.study.session import FOR_DEVICE, FOR_OTHERS, OTHERS_POLL_S, StudySession
from autotune.study.tries import tried
from autotune.trial.isolation import Interrupted
from autotune.trial.known_accuracy import scores_exist
from autotune.trial.request import Rival, TrialRequest

SPENT_ON = {"final": "finalists", "canary": "canary"}
"""What the wall time of a trial of that role is accounted for as; of all others as "trials"."""


def claimed(run: StudySession, proposal: Proposal) -> int | None:
    """The id of the trial, now running in our tables; None when there is no room for it, or another worker measures it.

    Workers that claim at once may each see the other's claim, never neither, because each writes before it counts; then they
    step back for a random while. So a study meets its target exactly.
    """
    run.observer.trial_began(proposal.number, proposal.candidate, "search")
    trial_id: int = run.timed(
        "store",
        run.store.begin_trial,
        run.study.id,
        proposal.number,
        "search",
        proposal.candidate,
        run.worker,
        run.environment_key,
    )
    counts, others = run.store.counts(run.study.id), [t for t in run.under_way() if t.trial_id != trial_id]
    n_finished = sum(n for state, n in counts.items() if state != "running")
    taken = any(t.candidate == proposal.candidate for t in others)
    if n_finished + len(others) < run.target and not taken and not run.proposer.is_suspect(proposal.number):
        return trial_id
    run.store.discard_trial(trial_id)
    run.proposer.put_back(proposal.number)
    run.timed(FOR_OTHERS, time.sleep, random.uniform(0, OTHERS_POLL_S))
    return None


def measured(
    run: StudySession,
    trial_id: int,
    number: int,
    role: TrialRole,
    candidate: Candidate,
    reference: TrialRecord | None,
    load: LoadSpec | None = None,
    rivals: tuple[Rival, ...] = (),
    flags: tuple[str, ...] = (),
) -> TrialRecord | None:
    """The stored record of a trial that was begun, or None; then nothing of it is left.

    None: it was interrupted, or this worker was taken for dead and others measured the candidate meanwhile.
    `load` replaces the study's; `rivals` let it be given up early; `flags` are added to the record's own.
    """
    spec = run.plan.spec
    request = TrialRequest(
        spec=spec if load is None else spec.model_copy(update={"load": load}),
        number=number,
        role=role,
        candidate=candidate,
        cache_root=run.plan.cache_root,
        log_path=trial_log(run.plan, role, number),
        reference_scores=reference_scores(reference),
        rivals=rivals,
    )
    try:
        with nullcontext() if role == "reference" else _device(run):
            if role == "search":
                run.timed("search", run.ahead.begin, number, candidate)
            with run.ahead.measuring(request) as asked:
                found = tried(run, asked, lambda: _once(run, asked))
                run.ahead.learn(found)
                if run.ahead.disturbed(found):
                    run.observer.note(f"trial {number} was disturbed by a build beside it, and is measured again without")
                    found = tried(run, request, lambda: _once(run, request))
            found = run.ahead.flagged(found)
    except (Interrupted, InterruptedError):
        run.store.discard_trial(trial_id)
        return None
    except (SpecError, EnvironmentProblem):
        run.store.discard_trial(trial_id)
        raise
    return stored(run, trial_id, replace(found, flags=(*found.flags, *flags)))


def _once(run: StudySession, request: TrialRequest) -> TrialRecord:
    spent_on = SPENT_ON.get(request.role, "trials")

    def on_stage(stage: str) -> None:
        run.ahead.at_stage(request, stage)
        run.observer.stage_began(stage)

    record: TrialRecord = run.timed(spent_on, run.process.run, request, on_stage, run.is_to_end)
    return record


def stored(run: StudySession, trial_id: int, record: TrialRecord) -> TrialRecord | None:
    """The record, which is in the database now, or None where nobody needs it any more.

    Until then it is in the journal, from which a later start carries it over.
    """
    run.journal.add(trial_id, record)
    kept = run.timed("store", run.store.bring_trial, run.study.id, trial_id, record, run.worker)
    run.journal.settle()
    if kept != "superseded":
        return record
    run.observer.note(f"{record.role} trial {record.number} was put back while this worker was silent, and measured by another")
    return None


@contextmanager
def _device(run: StudySession) -> Iterator[None]:
    """Inside the block nobody else measures on the device; the wait is accounted for. Raises InterruptedError."""

    def gives_way() -> bool:
        run.ahead.abort()  # somebody else measures, who may want what the build holds
        return run.is_to_give_way()

    with device_lock(run.plan.lock_name, gives_way) as waited_s:
        run.add_time(FOR_DEVICE, waited_s)
        yield


def reference_of(run: StudySession) -> TrialRecord:
    """The reference's record: measured first, again when the cache no longer has its predictions. Raises when it failed.

    KeyboardInterrupt: a stop was asked for before there was one.
    """
    known = _usable_reference(run)
    if known is not None:
        return known
    wait_while_paused(run)
    if run.switch.count:
        raise KeyboardInterrupt
    try:
        run.ahead.abort()  # it may hold what the others wait for
        # Workers on other devices of this host share its cache, and with it the reference.
        with reference_lock(run.study, run.is_to_stop), _device(run):
            known = _usable_reference(run)  # another worker may have measured it meanwhile
            if known is not None:
                return known
            record = _measured_reference(run)
    except InterruptedError:
        record = None
    if record is None:  # a pause or a stop came in between
        return reference_of(run)
    if record.state != "complete":
        why = f"{record.reject.stage}: {record.reject.message}" if record.reject else record.state
        raise EnvironmentProblem(
            f"the reference (the unmodified model at {record.candidate.engine}'s defaults) could not be "
            f"measured, so no candidate could be compared with it. {why}",
            remedy=f"autotune bench {run.plan.spec.file or 'STUDY.yaml'}",
        )
    if record.accuracy is not None and record.accuracy.value <= 0 and run.plan.spec.data.metric in CLASS_METRICS:
        raise SpecError(
            f"the unmodified model is right on none of {record.accuracy.n} samples: the labels, the preprocessing or the order "
            "of the classes do not fit the model, and no accuracy_drop could protect anything"
        )
    run.proposer.note_reference(record)
    run.observer.trial_ended(record, [], record)
    return record


def still_usable(run: StudySession, reference: TrialRecord) -> TrialRecord:
    """The reference, or another one where its predictions left the cache or were damaged meanwhile."""
    return reference if scores_exist(run.plan.cache, reference_scores(reference)) else reference_of(run)


def _measured_reference(run: StudySession) -> TrialRecord | None:
    candidate = run.plan.reference
    trial_id, number = run.timed("store", run.store.begin_reference, run.study.id, candidate, run.worker, run.environment_key)
    run.observer.trial_began(number, candidate, "reference")
    return measured(run, trial_id, number, "reference", candidate, None)


def _usable_reference(run: StudySession) -> TrialRecord | None:
    """The newest reference whose predictions are still in the cache."""
    known = run.store.trials(run.study.id, ["complete"], ["reference"])
    return next((r for r in reversed(known) if scores_exist(run.plan.cache, reference_scores(r))), None)


def trial_log(plan: StudyPlan, role: str, number: int) -> Path:
    """Where a trial's process writes what it prints."""
    return plan.cache_root / "logs" / plan.spec.study / f"{role}-{number:05d}.log"


def reference_scores(reference: TrialRecord | None) -> str | None:
    """The cache key under which the reference's predictions are kept."""
    return None if reference is None else reference.scores_key
