"""run_study: ask → run → save → tell until the budget is spent, from wherever an earlier run left off."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

from autotune.bench.metrics import metric_identity
from autotune.errors import AccuracyTooLow, DeviceFault, EnvironmentProblem, StoreAway, StoreError
from autotune.fingerprint import digest_of
from autotune.records import FINISHED, Regime, TrialRecord, TrialState
from autotune.spec.model import StudySpec
from autotune.store.repository import SEARCHED, Store
from autotune.store.studies import StudyRow
from autotune.store.worker import WorkerIdentity
from autotune.study.build_ahead import BuildAhead
from autotune.study.canary import run_canary
from autotune.study.finalists import reserve_s, rounds_so_far, run_finalists
from autotune.study.giving_up import rivals_in
from autotune.study.heartbeat import heartbeat
from autotune.study.kinds import require_kind
from autotune.study.known_trials import AnyOf
from autotune.study.lock import asking_lock, presence, workers_here
from autotune.study.memory import give_back
from autotune.study.observer import Observer
from autotune.study.orders import attending, study_time_s, wait_while_paused
from autotune.study.pinning import pin_front
from autotune.study.plan import StudyPlan
from autotune.study.proposer import Proposal, Proposer
from autotune.study.recovery import carry_over, recover
from autotune.study.regimes import note_changes
from autotune.study.reporting import learn
from autotune.study.session import StopSwitch, StudySession
from autotune.study.standing import Standing
from autotune.study.under_way import claimed, measured, reference_of, still_usable, stored
from autotune.study.warm_start import WarmStartGain, taken_over, warm_flags
from autotune.trial.isolation import TrialProcess
from autotune.trial.request import Rival
from autotune.variants.base import model_identity

__all__ = ["StopSwitch", "StudyResult", "outcome_line", "register_study", "registered_study", "run_study"]

_log = logging.getLogger(__name__)
_FAULTS = frozenset({"worker_crashed", "worker_died", "device_fault", "deadline_exceeded"})
_MAX_FAULTS_IN_A_ROW = 8
"""So many trials without one that ran mean that the machine, not the candidates, is at fault."""
_MAX_DEVICE_FAULTS_IN_A_ROW = 3
"""Each was tried in two processes: a device that fails three candidates in six of them is broken until somebody resets it."""
_MAX_FAILURES_IN_A_ROW = 40
"""The same for any failure but too low an accuracy, which is what a search may well meet for long."""

Ended = Literal["trials", "hours", "stopped", "exhausted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a run of a study left behind. `ties`: by the number of a member of the front, the trials no better or worse than it.

    `n_trials`: of the search, by state. `n_rounds`: of each finalist, in how many rounds it was measured again. `overhead_s`:
    wall time by what it was spent on, trials' own stages apart. `read_records` gives `records`.
    """

    ended: Ended
    reference: TrialRecord
    n_trials: Mapping[TrialState, int]
    n_rounds: tuple[int, ...]
    front: list[TrialRecord]
    ties: dict[int, list[int]]
    regimes: list[Regime]
    warm_start: WarmStartGain | None
    wall_s: float
    overhead_s: dict[str, float]
    read_records: Callable[[], list[TrialRecord]]

    @property
    def records(self) -> list[TrialRecord]:
        """The finished trials of the search, by number, read from the database at each call: there may be many."""
        return self.read_records()


def register_study(plan: StudyPlan, store: Store, target: int) -> StudyRow:
    """The study's row, made or found. Raises SpecError where it began with another model, objectives or kind of device."""
    # Looked at before anything is written, and again after, because two workers may begin a study at once.
    require_kind(plan, store)
    row = store.ensure_study(**_identity(plan.spec), environment=plan.fingerprint, target=target)
    require_kind(plan, store)
    return row


def registered_study(plan: StudyPlan, store: Store) -> StudyRow | None:
    """The row with which the study would go on, None where it would begin. Raises as `register_study`."""
    require_kind(plan, store)
    return store.study_alike(**_identity(plan.spec))


def _identity(spec: StudySpec) -> dict[str, Any]:
    """The study's name and document, and what may not change while it lives."""
    document = spec.as_stored()
    fixed = {"data": document["data"], "constraints": document["constraints"]}
    return {
        "name": spec.study,
        "spec_json": document,
        "spec_digest": digest_of({**fixed, **_metric_code(spec), **_load_identity(spec)}),
        "model_digest": digest_of(model_identity(spec.model)),
        "objectives": spec.objectives,
    }


def _metric_code(spec: StudySpec) -> dict[str, str | None]:
    """The code of a metric of the user's, which may change while its name stays; nothing for ours."""
    return {k: v for k, v in metric_identity(spec.data.metric).items() if k != "metric"}


def _load_identity(spec: StudySpec) -> dict[str, Any]:
    """What makes the load another one, so that throughputs are no comparison; nothing for the closed loop."""
    identity = spec.load.identity()
    return {"load": identity} if identity else {}


def run_study(
    plan: StudyPlan,
    store: Store,
    worker: WorkerIdentity,
    observer: Observer,
    switch: StopSwitch,
    *,
    trials: int | None = None,
    hours: float | None = None,
    again: bool = False,
) -> StudyResult:
    """The study, run until its budget is spent, the space is exhausted, or the switch is pressed; then its finalists.

    `trials` and `hours` replace the budget of the study file; `again` measures anew what was measured. Raises SpecError or
    EnvironmentProblem when the study cannot go on at all, among them a reference that cannot be measured.
    """
    target = trials or plan.spec.budget.trials
    study = register_study(plan, store, target)
    began = time.monotonic()
    with (
        store.waiting(lambda: switch.count > 0, observer.note),
        TrialProcess(plan.preload) as process,
        presence(study),
        attending(store, study, worker, switch),
        heartbeat(store, worker.worker_id),
    ):
        proposer = _proposer(plan, store, study, worker)
        ahead = BuildAhead(plan, proposer, observer.note, lambda: switch.count > 0)
        run = StudySession(
            plan=plan, store=store, proposer=proposer, study=study, worker=worker, ahead=ahead,
            process=process, observer=observer, switch=switch, target=target, began=began, again=again,
            environment_key=store.add_environment(plan.fingerprint),
        )  # fmt: skip
        run.spent["search"] = time.monotonic() - began
        try:
            store.set_study_state(study.id, "running")
            with ahead:
                return _run(run, hours or plan.spec.budget.hours)
        except StoreAway as exc:
            raise StoreAway(f"{exc} {_what_waits(run)}") from exc
        finally:
            with suppress(StoreError):  # the state is for people to read; who works on the study is known without it
                if len(workers_here(study)) <= 1 and not store.running(study.id):
                    store.set_study_state(study.id, "idle")


def _what_waits(run: StudySession) -> str:
    path = run.journal.path
    if not path.exists():
        return "All that was measured is stored; the next start goes on."
    return f"What was measured and not stored is in {path}; the next start, when the database is back, carries it over."


def _proposer(plan: StudyPlan, store: Store, study: StudyRow, worker: WorkerIdentity) -> Proposer:
    newest = store.next_number(study.id, "search") - 1
    remember = [*store.front_numbers(study.id), newest] if newest >= 0 else []
    return Proposer(plan, store.url, worker.worker_id, patience=store.patience, remember=remember)


def _run(run: StudySession, hours: float | None) -> StudyResult:
    _swept(run)
    n_absences = run.store.patience.n_absences
    run.timed("store", run.known.refresh)
    run.observer.planned(run.plan, len(run.known), run.target)
    reference = reference_of(run)
    run.timed("search", _enqueue_first, run)
    run.rounds_before = rounds_so_far(run) if run.again else 0
    note_changes(run)
    run.timed("store", run.known.learn)
    clock = _Clock(run, hours)
    ended: Ended | None = None
    while ended is None:
        wait_while_paused(run)
        if run.store.patience.n_absences > n_absences:  # a call may have arrived whose answer did not
            n_absences = run.store.patience.n_absences
            _swept(run)
        run.timed("store", run.known.refresh)  # others may have finished some
        if run.switch.count:
            ended = "stopped"
        elif len(run.known) >= run.target:
            ended = "trials"
        elif clock.left_s() <= clock.reserve_s:
            ended = "hours"
        elif len(run.known) + len(run.under_way()) >= run.target:
            _wait_for_others(run)
        else:
            if run.timed("store", run.has_lost_others):
                _swept(run)
            reference = still_usable(run, reference)
            run_canary(run, reference)
            ended = _one_trial(run, reference)
    run.ahead.close()
    run.ahead.let_go()
    if run.ahead.summary:
        run.observer.note(run.ahead.summary)
    # They get what was reserved for them even where the last trial ran over.
    if ended != "stopped" and not run_finalists(run, reference, clock.left_s(), clock.reserve_s) and run.switch.count:
        ended = "stopped"
    if ended != "stopped":
        _swept(run)  # a worker may have died after it asked for a trial, or before it told of one, when nobody waited for it
    return _result(run, ended)


def _swept(run: StudySession) -> None:
    """What workers left behind that are gone is stored, told or put back."""
    carry_over(run.store, run.study.id, run.journal_folder, run.worker, run.observer.note)
    run.timed("store", run.known.refresh)
    recover(run.store, run.study.id, run.proposer, run.observer.note, run.silence.is_dead, run.known.worst)


def _enqueue_first(run: StudySession) -> None:
    """What earlier studies found best is asked for first, then the plan's priors, or those that the strategy leaves to it.

    Whoever begins a study decides what it takes over: it goes on with the same, though others may have found more since.
    """
    with asking_lock(run.study):
        if run.proposer.warm_start() is None:
            run.proposer.keep_warm_start(taken_over(run.store, run.study, run.plan, run.observer.note))
        run.warm = run.proposer.warm_start() or {}  # as kept: a worker on another host may have decided at the same time
        run.proposer.enqueue_first((*run.warm, *run.proposer.first_priors))


def _result(run: StudySession, ended: Ended) -> StudyResult:
    run.timed("store", learn, run.store, run.study.id)
    # The last worker to leave has seen every trial, so the stored front is whole, also after one was killed in the middle.
    standing = Standing(run.store, run.study.id, run.plan.spec)
    run.store.set_front(run.study.id, [r.number for r in standing.front])
    reference = run.store.trials(run.study.id, ["complete"], ["reference"])[-1]
    pin_front(run, [reference, *standing.front])
    again = [r for r in run.store.repeated(run.study.id) if r.role == "search"]
    run.proposer.note_finalists(again)
    rounds = [sum(p.role == "final" for p in r.repetitions) for r in again]
    counts = run.store.counts(run.study.id)
    return StudyResult(
        ended=ended,
        reference=reference,
        n_trials={state: counts[state] for state in FINISHED},
        n_rounds=tuple(n for n in rounds if n),
        front=standing.front,
        ties=standing.ties(),
        regimes=run.store.regimes(run.study.id),
        warm_start=standing.warm_start(),
        wall_s=time.monotonic() - run.began,
        overhead_s=dict(run.spent),
        read_records=lambda: run.store.trials(run.study.id, FINISHED, SEARCHED),
    )


class _Clock:
    """What is left of the budget in hours, earlier starts of the study counted, and what of it the finalists get.

    Time in which the study was paused or waited for its database does not count.
    """

    def __init__(self, run: StudySession, hours: float | None) -> None:
        self._earlier_s = run.store.measured_s(run.study.id, ("search", "final", "canary"))
        self._run, self._limit_s = run, math.inf if hours is None else hours * 3600
        self._patience = run.store.patience
        self.reserve_s = 0.0 if hours is None else reserve_s(run.plan.spec, hours)

    def left_s(self) -> float:
        """Seconds until the budget is spent; infinite without one."""
        return self._limit_s - self._earlier_s - (study_time_s(self._run) - self._run.began - self._patience.away_s)


def _wait_for_others(run: StudySession) -> None:
    """A moment has passed; the trial of a worker that died meanwhile is put back, so that there is room for it again."""
    run.pause()
    if any(run.silence.is_dead(t) for t in run.under_way()):
        _swept(run)


def _one_trial(run: StudySession, reference: TrialRecord) -> Ended | None:
    """One more finished trial, or the reason why there will be none."""
    known = run.known
    with asking_lock(run.study):
        proposal = run.ahead.next_proposal(lambda: run.timed("search", run.proposer.ask, len(known)))
    number = known.number_of(proposal.candidate)
    if number is not None and not run.again:
        twin = run.store.trial(run.study.id, number)
        run.timed("search", run.proposer.tell, proposal.number, twin, known.worst, {"duplicate_of": number})
        seen = AnyOf(known, {reference.candidate})
        return None if run.timed("search", run.proposer.enqueue_unseen, seen) else "exhausted"
    elsewhere = {t.candidate for t in run.under_way()}
    if proposal.candidate in elsewhere:
        run.proposer.drop(proposal.number)
        if not run.timed("search", run.proposer.enqueue_unseen, AnyOf(known, elsewhere, {reference.candidate})):
            _wait_for_others(run)
        return None
    trial_id = claimed(run, proposal)
    if trial_id is None:
        return None
    record = _finished(run, proposal, trial_id, reference, rivals_in(known.front, run.plan.spec, run.regime))
    if record is None:
        run.timed("search", run.proposer.put_back, proposal.number)
        return "stopped" if run.switch.count else None
    told = run.ahead.as_if_built(record)
    run.timed("search", run.proposer.tell, record.number, told, [reference, *known.worst, record])
    reported = run.timed("store", known.report, record.number)
    _announce(run, reported)
    give_back()
    _stop_if_nothing_runs(known.last)
    return None


def _finished(
    run: StudySession,
    proposal: Proposal,
    trial_id: int,
    reference: TrialRecord,
    faster: tuple[Rival, ...],
) -> TrialRecord | None:
    """The claimed trial's stored record; a prior that is the reference itself is not measured a second time."""
    twice = proposal.candidate == reference.candidate and proposal.candidate not in run.known
    if not twice or proposal.candidate not in (*run.plan.priors, *run.warm):
        flags = warm_flags(run.warm, proposal.candidate)
        return measured(run, trial_id, proposal.number, "search", proposal.candidate, reference, rivals=faster, flags=flags)
    record = replace(reference, number=proposal.number, role="search", flags=(*reference.flags, "same_as_reference"))
    return stored(run, trial_id, record)


def _announce(run: StudySession, record: TrialRecord) -> None:
    """The finished trial is told beside the reference as it is reported now: its machine may have changed since it began."""
    reference = run.known.reference.references[-1]
    run.timed("store", run.store.set_front, run.study.id, [r.number for r in run.known.front])
    pin_front(run, [reference, *run.known.front])
    _log.info("%s", outcome_line(record))
    run.observer.trial_ended(record, run.known.front, reference)


def _stop_if_nothing_runs(records: Sequence[TrialRecord]) -> None:
    """Returns unless everything fails. Raises EnvironmentProblem then, with the last reason."""
    reasons: list[str] = []
    for record in reversed(records[-_MAX_FAILURES_IN_A_ROW:]):
        if record.state == "complete" or record.reject is None or record.reject.reason == AccuracyTooLow.reason:
            break
        reasons.append(record.reject.reason)
    n = len(reasons)
    broken = _n_first(reasons, {DeviceFault.reason}) >= _MAX_DEVICE_FAULTS_IN_A_ROW
    if broken or _n_first(reasons, _FAULTS) >= _MAX_FAULTS_IN_A_ROW or n >= _MAX_FAILURES_IN_A_ROW:
        what = "the device stays broken" if broken else "nothing runs any more"
        message = records[-1].reject.message if records[-1].reject else ""
        raise EnvironmentProblem(
            f"{what}: the last {n} trials all failed ({', '.join(sorted(set(reasons)))}). The last one: {message}",
            remedy="autotune doctor" if not broken else "nvidia-smi, a reset of the device, then autotune doctor",
        )


def _n_first(reasons: Sequence[str], among: Set[str]) -> int:
    """How many of the first reasons are `among` these."""
    return sum(1 for _ in takewhile(among.__contains__, reasons))


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
