"""run_study: ask → run → save → tell until the budget is spent, from wherever an earlier run left off."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from autotune.candidate import Candidate
from autotune.errors import EnvironmentProblem, SpecError
from autotune.fingerprint import digest_of, file_digest
from autotune.records import FINISHED, TrialRecord, TrialRole
from autotune.store.repository import SEARCHED, Store
from autotune.store.studies import StudyRow
from autotune.store.worker import WorkerIdentity, is_alive
from autotune.study.lock import device_lock
from autotune.study.observer import Observer
from autotune.study.plan import StudyPlan
from autotune.study.proposer import Proposer
from autotune.study.scoring import front
from autotune.trial.isolation import Interrupted, TrialProcess
from autotune.trial.request import TrialRequest
from autotune.trial.stages import scores_exist

_log = logging.getLogger(__name__)
_MAX_CRASHES_IN_A_ROW = 8
"""So many trials without one that ran mean that the machine, not the candidates, is at fault."""

_HEARTBEAT_S = 30.0
_SILENT_S = 600.0
"""A worker on another host that was not heard of for so long counts as dead: twenty missed heartbeats."""

Ended = Literal["trials", "hours", "stopped", "exhausted"]


class StopSwitch:
    """How often a stop was asked for: once ends the study after the trial under way, twice ends that trial too."""

    def __init__(self) -> None:
        self.count = 0

    def press(self, *_: object) -> None:
        """One more request; has the signature of a signal handler."""
        self.count += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a run of a study left behind. `overhead_s`: wall time by what it was spent on, trials' own stages apart."""

    ended: Ended
    reference: TrialRecord
    records: list[TrialRecord]
    front: list[TrialRecord]
    wall_s: float
    overhead_s: dict[str, float]


@dataclass(slots=True, kw_only=True)
class _Run:
    """The state of one run: what never changes, and the clocks."""

    plan: StudyPlan
    store: Store
    study: StudyRow
    worker: WorkerIdentity
    process: TrialProcess
    observer: Observer
    switch: StopSwitch
    began: float
    spent: dict[str, float]
    last_beat: float = 0.0

    def beat_and_ask(self) -> bool:
        """True when the trial under way is to end now; on the way other hosts hear that this worker lives."""
        if time.monotonic() - self.last_beat > _HEARTBEAT_S:
            self.last_beat = time.monotonic()
            self.store.heartbeat(self.worker.worker_id)
        return self.switch.count > 1

    def timed(self, what: str, call: Callable[..., Any], *args: Any) -> Any:
        """The call's result; its wall time is added to `what`."""
        begin = time.monotonic()
        try:
            return call(*args)
        finally:
            self.spent[what] = self.spent.get(what, 0.0) + time.monotonic() - begin


def register_study(plan: StudyPlan, store: Store, target: int) -> StudyRow:
    """The study's row, made or found. Raises SpecError where it began with another model or other objectives."""
    spec = plan.spec
    document = spec.model_dump(mode="json")
    model_file = spec.model.path or spec.model.weights
    model = {"file": file_digest(model_file) if model_file else None, "torch": spec.model.torch}
    return store.ensure_study(
        name=spec.study,
        spec_json=document,
        spec_digest=digest_of({"data": document["data"], "constraints": document["constraints"]}),
        model_digest=digest_of(model),
        objectives=spec.objectives,
        environment=plan.fingerprint,
        target=target,
    )


def run_study(
    plan: StudyPlan,
    store: Store,
    worker: WorkerIdentity,
    observer: Observer,
    switch: StopSwitch,
    *,
    trials: int | None = None,
    hours: float | None = None,
) -> StudyResult:
    """The study, run until its budget is spent, the space is exhausted, or the switch is pressed.

    `trials` and `hours` replace the budget of the study file. Raises SpecError or EnvironmentProblem when the study cannot go
    on at all, among them a reference that cannot be measured.
    """
    target = trials or plan.spec.budget.trials
    study = register_study(plan, store, target)
    with TrialProcess(plan.preload) as process:
        run = _Run(
            plan=plan, store=store, study=study, worker=worker, process=process,
            observer=observer, switch=switch, began=time.monotonic(), spent={},
        )  # fmt: skip
        store.set_study_state(study.id, "running")
        try:
            return _run(run, target, hours or plan.spec.budget.hours)
        finally:
            store.set_study_state(study.id, "idle")


def _run(run: _Run, target: int, hours: float | None) -> StudyResult:
    proposer = run.timed("search", Proposer, run.plan, run.store.url, run.worker.worker_id)
    records = _recover(run, proposer)
    run.observer.planned(run.plan, len(records), target)
    reference = _reference(run, proposer)
    run.timed("search", proposer.enqueue_priors)
    earlier_s = sum(_duration_s(r) for r in records)
    ended: Ended | None = None
    while ended is None:
        if run.switch.count:
            ended = "stopped"
        elif len(records) >= target:
            ended = "trials"
        elif hours is not None and time.monotonic() - run.began + earlier_s >= hours * 3600:
            ended = "hours"
        else:
            ended = _one_trial(run, proposer, reference, records)
    return StudyResult(
        ended=ended,
        reference=reference,
        records=records,
        front=front(records, run.plan.spec),
        wall_s=time.monotonic() - run.began,
        overhead_s=dict(run.spent),
    )


def _one_trial(run: _Run, proposer: Proposer, reference: TrialRecord, records: list[TrialRecord]) -> Ended | None:
    """One more record in `records`, or the reason why there will be none."""
    others = run.timed("store", run.store.trials, run.study.id, FINISHED, SEARCHED)
    records[:] = others  # other workers may have finished some
    known = {r.candidate: r for r in [reference, *records]}
    proposal = run.timed("search", proposer.ask, len(records))
    twin = known.get(proposal.candidate)
    if twin is not None and (twin.role == "search" or proposal.candidate in run.plan.priors):
        if twin.role == "search":
            run.timed("search", proposer.tell, proposal.number, twin, records, {"duplicate_of": twin.number})
            return None if run.timed("search", proposer.enqueue_unseen, frozenset(known)) else "exhausted"
        record = replace(twin, number=proposal.number, role="search", flags=(*twin.flags, "same_as_reference"))
        run.observer.trial_began(proposal.number, proposal.candidate, "search")
        run.timed("store", run.store.save_finished, run.study.id, record, run.worker)
    else:
        found = _measure(run, proposal.number, "search", proposal.candidate, reference)
        if found is None:
            run.timed("search", proposer.put_back, proposal.number)
            return "stopped"
        record = found
    records.append(record)
    run.timed("search", proposer.tell, record.number, record, [reference, *records])
    _announce(run, record, records, reference)
    _stop_if_nothing_runs(records)
    return None


def _announce(run: _Run, record: TrialRecord, records: list[TrialRecord], reference: TrialRecord) -> None:
    found = front(records, run.plan.spec)
    run.timed("store", run.store.set_front, run.study.id, [r.number for r in found])
    run.observer.trial_ended(record, found, reference)
    _log.info("%s", outcome_line(record))


def _measure(
    run: _Run, number: int, role: TrialRole, candidate: Candidate, reference: TrialRecord | None
) -> TrialRecord | None:
    """The stored record of a candidate, or None when it was interrupted; then nothing of it is left."""
    run.observer.trial_began(number, candidate, role)
    trial_id = run.timed("store", run.store.begin_trial, run.study.id, number, role, candidate, run.worker)
    request = TrialRequest(
        spec=run.plan.spec,
        number=number,
        role=role,
        candidate=candidate,
        cache_root=run.plan.cache_root,
        log_path=trial_log(run.plan, role, number),
        reference_scores=reference_scores(reference),
    )
    try:
        with device_lock(run.plan.fingerprint.kind, lambda: run.switch.count > 1) as waited_s:
            run.spent["waiting for the device"] = run.spent.get("waiting for the device", 0.0) + waited_s
            record = run.timed("trials", run.process.run, request, run.observer.stage_began, run.beat_and_ask)
    except (Interrupted, InterruptedError):
        run.store.discard_trial(trial_id)
        return None
    except (SpecError, EnvironmentProblem):
        run.store.discard_trial(trial_id)
        raise
    run.timed("store", run.store.finish_trial, trial_id, record)
    return record  # type: ignore[no-any-return]  # timed() passes on what it was given


def _reference(run: _Run, proposer: Proposer) -> TrialRecord:
    """The reference's record: measured first, again when the cache no longer has its predictions. Raises when it failed."""
    known = _usable_reference(run)
    if known is None:
        with device_lock(run.plan.fingerprint.kind, lambda: bool(run.switch.count)):
            pass  # another worker may be measuring it at this moment
        known = _usable_reference(run)
    if known is not None:
        return known
    number = run.store.next_number(run.study.id, "reference")
    record = _measure(run, number, "reference", run.plan.reference, None)
    if record is None:
        raise KeyboardInterrupt
    if record.state != "complete":
        why = f"{record.reject.stage}: {record.reject.message}" if record.reject else record.state
        raise EnvironmentProblem(
            f"the reference (the unmodified model at {record.candidate.engine}'s defaults) could not be "
            f"measured, so no candidate could be compared with it. {why}",
            remedy=f"autotune bench {run.plan.spec.file or 'STUDY.yaml'}",
        )
    proposer.note_reference(record)
    run.observer.trial_ended(record, [], record)
    return record


def _usable_reference(run: _Run) -> TrialRecord | None:
    """The newest reference whose predictions are still in the cache."""
    known = run.store.trials(run.study.id, ["complete"], ["reference"])
    return next((r for r in reversed(known) if scores_exist(run.plan.cache, reference_scores(r))), None)


def _recover(run: _Run, proposer: Proposer) -> list[TrialRecord]:
    """The finished trials, after what dead workers left behind was told or put back."""
    for trial in run.store.running(run.study.id):
        alive = is_alive(trial.worker)
        if alive is False or (alive is None and trial.heartbeat_age_s > _SILENT_S):
            run.store.discard_trial(trial.trial_id)
            run.observer.note(f"trial {trial.number} was under way when its worker died; its candidate is put back")
    records = run.store.trials(run.study.id, FINISHED, SEARCHED)
    finished = {r.number: r for r in records}
    still_running = {t.number for t in run.store.running(run.study.id)}
    for number in proposer.unfinished():
        if number in finished:
            proposer.tell(number, finished[number], records)
        elif number not in still_running:
            proposer.put_back(number)
    return records


def _stop_if_nothing_runs(records: list[TrialRecord]) -> None:
    last = records[-_MAX_CRASHES_IN_A_ROW:]
    if len(last) == _MAX_CRASHES_IN_A_ROW and all(r.state == "crashed" for r in last):
        raise EnvironmentProblem(
            f"the last {_MAX_CRASHES_IN_A_ROW} trials all crashed; the last one: {last[-1].reject and last[-1].reject.message}",
            remedy="autotune doctor",
        )


def trial_log(plan: StudyPlan, role: str, number: int) -> Path:
    """Where a trial's process writes what it prints."""
    return plan.cache_root / "logs" / plan.spec.study / f"{role}-{number:05d}.log"


def reference_scores(reference: TrialRecord | None) -> str | None:
    """The cache key under which the reference's predictions are kept."""
    return None if reference is None else reference.scores_key


def outcome_line(record: TrialRecord) -> str:
    """One line in a stable key=value order."""
    parts = [f"trial={record.number}", f"state={record.state}", str(record.candidate)]
    if record.throughput_items_per_s:
        parts.append(f"items_per_s={record.throughput_items_per_s.value:.1f}±{record.throughput_items_per_s.half_width:.1f}")
    if record.accuracy:
        parts.append(f"{record.metric or 'accuracy'}={record.accuracy.value:.4f}")
    if record.reject:
        parts.append(f"reject={record.reject.reason}")
    return " ".join([*parts, f"cached={','.join(record.cached) or '-'}"])


def _duration_s(record: TrialRecord) -> float:
    if not (record.started_at and record.finished_at):
        return 0.0
    return max(0.0, (datetime.fromisoformat(record.finished_at) - datetime.fromisoformat(record.started_at)).total_seconds())
