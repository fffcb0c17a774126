"""run_study: ask → run → save → tell until the budget is spent, from wherever an earlier run left off."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from autotune.candidate import Candidate
from autotune.errors import EnvironmentProblem, SpecError
from autotune.fingerprint import digest_of, file_digest
from autotune.records import FINISHED, TrialRecord, TrialRole
from autotune.store.repository import SEARCHED, Store
from autotune.store.studies import StudyRow
from autotune.store.worker import WorkerIdentity
from autotune.study.lock import device_lock, presence, workers_here
from autotune.study.observer import Observer
from autotune.study.plan import StudyPlan
from autotune.study.proposer import Proposal, Proposer
from autotune.study.recovery import is_dead, recover
from autotune.study.scoring import front
from autotune.trial.isolation import Interrupted, TrialProcess
from autotune.trial.known_accuracy import scores_exist
from autotune.trial.request import TrialRequest

_log = logging.getLogger(__name__)
_MAX_CRASHES_IN_A_ROW = 8
"""So many trials without one that ran mean that the machine, not the candidates, is at fault."""

_HEARTBEAT_S = 30.0
_OTHERS_POLL_S = 0.5
"""How often a worker that has no room for another trial looks whether those of the others are done."""

Ended = Literal["trials", "hours", "stopped", "exhausted"]


class StopSwitch:
    """How often a stop was asked for: once ends the study after the trial under way, twice ends that trial too."""

    def __init__(self, on_press: Callable[[], None] = lambda: None) -> None:
        self.count = 0
        self._on_press = on_press

    def press(self, *_: object) -> None:
        """One more request; has the signature of a signal handler."""
        self.count += 1
        self._on_press()


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
    target: int
    began: float
    spent: dict[str, float] = field(default_factory=dict)
    last_beat: float = 0.0

    def beat_and_ask(self) -> bool:
        """True when the trial under way is to end now; on the way other hosts hear that this worker lives."""
        self._beat()
        return self.switch.count > 1

    def beat_and_wait(self) -> bool:
        """True when waiting for the device is over: at the first request, for nothing would be lost by it."""
        self._beat()
        return self.switch.count > 0

    def _beat(self) -> None:
        if time.monotonic() - self.last_beat > _HEARTBEAT_S:
            self.last_beat = time.monotonic()
            self.store.heartbeat(self.worker.worker_id)

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
    with TrialProcess(plan.preload) as process, presence(study):
        run = _Run(
            plan=plan, store=store, study=study, worker=worker, process=process,
            observer=observer, switch=switch, target=target, began=time.monotonic(),
        )  # fmt: skip
        store.set_study_state(study.id, "running")
        try:
            return _run(run, hours or plan.spec.budget.hours)
        finally:
            if len(workers_here(study)) <= 1 and not store.running(study.id):
                store.set_study_state(study.id, "idle")


def _run(run: _Run, hours: float | None) -> StudyResult:
    proposer = run.timed("search", Proposer, run.plan, run.store.url, run.worker.worker_id)
    records = recover(run.store, run.study.id, proposer, run.observer.note)
    run.observer.planned(run.plan, len(records), run.target)
    reference = _reference(run, proposer)
    run.timed("search", proposer.enqueue_priors)
    earlier_s = sum(_duration_s(r) for r in records)
    ended: Ended | None = None
    while ended is None:
        records = run.timed("store", run.store.trials, run.study.id, FINISHED, SEARCHED)  # others may have finished some
        _stop_if_nothing_runs(records)
        if run.switch.count:
            ended = "stopped"
        elif len(records) >= run.target:
            ended = "trials"
        elif hours is not None and time.monotonic() - run.began + earlier_s >= hours * 3600:
            ended = "hours"
        elif len(records) + _n_under_way(run) >= run.target:
            _wait_for_others(run, proposer)
        else:
            ended = _one_trial(run, proposer, reference, records)
    # The last worker to leave has seen every trial, so the stored front is whole, also after one was killed in the middle.
    records = run.store.trials(run.study.id, FINISHED, SEARCHED)
    found = front(records, run.plan.spec)
    run.store.set_front(run.study.id, [r.number for r in found])
    return StudyResult(
        ended=ended,
        reference=reference,
        records=records,
        front=found,
        wall_s=time.monotonic() - run.began,
        overhead_s=dict(run.spent),
    )


def _n_under_way(run: _Run) -> int:
    return sum(t.role == "search" for t in run.store.running(run.study.id))


def _wait_for_others(run: _Run, proposer: Proposer) -> None:
    """A moment has passed; the trial of a worker that died meanwhile is put back, so that there is room for it again."""
    run.timed("waiting for the others", time.sleep, _OTHERS_POLL_S)
    if any(is_dead(t) for t in run.store.running(run.study.id)):
        recover(run.store, run.study.id, proposer, run.observer.note)


def _one_trial(run: _Run, proposer: Proposer, reference: TrialRecord, records: list[TrialRecord]) -> Ended | None:
    """One more finished trial, or the reason why there will be none."""
    known = {r.candidate: r for r in [reference, *records]}
    proposal = run.timed("search", proposer.ask, len(records))
    twin = known.get(proposal.candidate)
    if twin is not None and twin.role == "search":
        run.timed("search", proposer.tell, proposal.number, twin, records, {"duplicate_of": twin.number})
        return None if run.timed("search", proposer.enqueue_unseen, frozenset(known)) else "exhausted"
    trial_id = _claimed(run, proposer, proposal)
    if trial_id is None:
        return None
    if twin is not None and proposal.candidate in run.plan.priors:
        record = replace(twin, number=proposal.number, role="search", flags=(*twin.flags, "same_as_reference"))
        run.timed("store", run.store.finish_trial, trial_id, record)
    else:
        found = _measure(run, trial_id, proposal.number, "search", proposal.candidate, reference)
        if found is None:
            run.timed("search", proposer.put_back, proposal.number)
            return "stopped"
        record = found
    records.append(record)
    run.timed("search", proposer.tell, record.number, record, [reference, *records])
    _announce(run, record, records, reference)
    return None


def _claimed(run: _Run, proposer: Proposer, proposal: Proposal) -> int | None:
    """The id of the trial, now running in our tables; None when there turned out to be no room for it.

    Workers that claim at once may each see the other's claim, never neither, because each writes before it counts; then they
    step back for a random while. So a study meets its target exactly.
    """
    run.observer.trial_began(proposal.number, proposal.candidate, "search")
    trial_id: int = run.timed(
        "store", run.store.begin_trial, run.study.id, proposal.number, "search", proposal.candidate, run.worker
    )
    n_finished = sum(n for state, n in run.store.counts(run.study.id).items() if state != "running")
    if n_finished + _n_under_way(run) <= run.target and proposer.is_running(proposal.number):
        return trial_id
    run.store.discard_trial(trial_id)
    proposer.put_back(proposal.number)
    run.timed("waiting for the others", time.sleep, random.uniform(0, _OTHERS_POLL_S))
    return None


def _announce(run: _Run, record: TrialRecord, records: list[TrialRecord], reference: TrialRecord) -> None:
    found = front(records, run.plan.spec)
    run.timed("store", run.store.set_front, run.study.id, [r.number for r in found])
    run.observer.trial_ended(record, found, reference)
    _log.info("%s", outcome_line(record))


def _measure(
    run: _Run, trial_id: int, number: int, role: TrialRole, candidate: Candidate, reference: TrialRecord | None
) -> TrialRecord | None:
    """The stored record of a trial that was begun, or None when it was interrupted; then nothing of it is left."""
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
        with _device(run) if role == "search" else nullcontext():
            record = run.timed("trials", run.process.run, request, run.observer.stage_began, run.beat_and_ask)
    except (Interrupted, InterruptedError):
        run.store.discard_trial(trial_id)
        return None
    except (SpecError, EnvironmentProblem):
        run.store.discard_trial(trial_id)
        raise
    run.timed("store", run.store.finish_trial, trial_id, record)
    return record  # type: ignore[no-any-return]  # timed() passes on what it was given


@contextmanager
def _device(run: _Run) -> Iterator[None]:
    """Inside the block nobody else measures on the device; the wait is accounted for. Raises InterruptedError."""
    with device_lock(run.plan.fingerprint.kind, run.beat_and_wait) as waited_s:
        run.spent["waiting for the device"] = run.spent.get("waiting for the device", 0.0) + waited_s
        yield


def _reference(run: _Run, proposer: Proposer) -> TrialRecord:
    """The reference's record: measured first, again when the cache no longer has its predictions. Raises when it failed."""
    known = _usable_reference(run)
    if known is not None:
        return known
    try:
        with _device(run):
            known = _usable_reference(run)  # another worker may have measured it meanwhile
            if known is not None:
                return known
            record = _measured_reference(run)
    except InterruptedError:
        record = None
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


def _measured_reference(run: _Run) -> TrialRecord | None:
    candidate = run.plan.reference
    number = run.store.next_number(run.study.id, "reference")
    run.observer.trial_began(number, candidate, "reference")
    trial_id = run.timed("store", run.store.begin_trial, run.study.id, number, "reference", candidate, run.worker)
    return _measure(run, trial_id, number, "reference", candidate, None)


def _usable_reference(run: _Run) -> TrialRecord | None:
    """The newest reference whose predictions are still in the cache."""
    known = run.store.trials(run.study.id, ["complete"], ["reference"])
    return next((r for r in reversed(known) if scores_exist(run.plan.cache, reference_scores(r))), None)


def _stop_if_nothing_runs(records: Sequence[TrialRecord]) -> None:
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
