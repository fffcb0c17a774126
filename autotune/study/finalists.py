"""The finalists: the front and the rivals of the best, measured again in rounds until it is settled which is best.

Whatever looked best among many noisy measurements was also lucky; only measurements that had no part in the choice tell its
speed. A round measures every finalist and the reference once, each in a fresh process and in random order. Which trials are in
a round follows from what was known before it, so a round that was interrupted goes on with the same ones.

Then the best and those closest to it go on in the same way until the best's value is known as precisely as the study asks, and
the best, the simplest of what ties, is known to be hardly slower than the fastest of them: on a noisy machine five processes
leave both off by several per cent, and another study would report something else.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from autotune.records import GIVEN_UP, LOADED, Regime, TrialRecord, loaded, with_reported
from autotune.spec.model import LoadSpec, StudySpec
from autotune.store.repository import COMPARABLE
from autotune.study.comparison import Comparison
from autotune.study.lock import finalists_lock
from autotune.study.objectives import objective_named
from autotune.study.orders import study_time_s
from autotune.study.present_speed import at_present_speed
from autotune.study.regimes import note_changes
from autotune.study.repeating import repeat
from autotune.study.reporting import as_reported, learn
from autotune.study.scoring import WORTH_SIMPLICITY, best, best_ties, comparable, front, is_repeated, preferred
from autotune.study.session import FOR_DEVICE, FOR_OTHERS, StudySession
from autotune.study.standing import Standing

_LEAST_ROUNDS = 3
"""Before, no ranking counts as settled: the noise of a comparison is estimated from the rounds themselves."""
_LONGER, _FINER = 4.0, 0.5
"""A finalist's load may last four times as long as a trial's and stops at half its interval: 60 s and 0.5 % by default."""
_CLOSEST = 3
"""So many go on for the precision, the best among them. One alone would keep the luck that it was chosen for."""
_SHARE_OF_SEARCH, _AT_LEAST_S = 0.3, 120.0
_PRECISION_S = (300.0, 3600.0)
"""The precision may take as long as the search, within these bounds."""
_SHARE_OF_HOURS = 0.2
_WIDER = 4
"""So many times the finalists are looked at, for what was given up or fails again is among the best, too."""


def reserve_s(spec: StudySpec, hours: float) -> float:
    """How much of a budget of `hours` the search leaves to the finalists, in seconds."""
    if spec.finalists.rounds == 0:
        return 0.0
    share_s = _SHARE_OF_HOURS * hours * 3600
    return share_s if spec.finalists.max_s is None else min(spec.finalists.max_s, share_s)


def limit_s(spec: StudySpec, search_s: float, *, with_precision: bool = False) -> float:
    """How long the rounds may take after trials that took `search_s`, or they and those for the precision; all in seconds."""
    if spec.finalists.max_s is not None:
        return spec.finalists.max_s
    limit = max(_AT_LEAST_S, _SHARE_OF_SEARCH * search_s)
    if with_precision and spec.finalists.precision < 1:
        limit = max(limit, min(max(search_s, _PRECISION_S[0]), _PRECISION_S[1]))
    return limit


def run_finalists(run: StudySession, reference: TrialRecord, left_s: float, reserved_s: float = 0.0) -> bool:
    """The finalists are measured as often as needed; False when time or the user ended it before. Resumes where it was.

    `left_s`: what is left of the study's budget; `reserved_s`: what of it the rounds get even where it is spent. Rounds of
    earlier starts and of other workers have used up their part of the time, unless the search went on or the machine changed
    since. Waiting for a device that others measure on uses up none.
    """
    spec = run.plan.spec
    if spec.finalists.rounds == 0:
        return True
    try:
        with finalists_lock(run.study, run.is_to_stop) as waited_s:
            run.add_time(FOR_OTHERS, waited_s)
            spent_s = run.store.rounds_s(run.study.id, run.rounds_before)
            budget_s = max(left_s - waited_s, reserved_s - spent_s)  # others measured meanwhile, or waited for a device
            search_s, now_s = _search_s(run), _clock_s(run)
            limits = [limit_s(spec, search_s, with_precision=p) - spent_s for p in (False, True)]
            return _rounds(run, reference, *(now_s + min(budget_s, limit) for limit in limits))
    except InterruptedError:
        return False


def rounds_so_far(run: StudySession) -> int:
    """The highest round that any finalist has."""
    return _last_round(_records(run))


def run_one_round(run: StudySession, reference: TrialRecord) -> None:
    """The present front is measured again once: after a change of the machine, what was measured before it is no comparison."""
    if run.plan.spec.finalists.rounds == 0:
        return
    try:
        with finalists_lock(run.study, run.is_to_stop):
            regimes, records = run.store.regimes(run.study.id), _records(run)
            round_ = _last_round(records) + 1
            members = contenders(known_before(records, round_, regimes), regimes, run.plan.spec)
            _measure_round(run, reference, round_, members, _load(run, len(members)), math.inf)
            learn(run.store, run.study.id)
    except InterruptedError:
        return


def _rounds(run: StudySession, reference: TrialRecord, deadline: float, last: float) -> bool:
    """Rounds until `deadline`, those for the precision until `last`."""
    spec = run.plan.spec
    round_, told = _round_to_go_on_with(_records(run)), False
    while True:
        regimes = run.store.regimes(run.study.id)
        known = known_before(_records(run), round_, regimes)
        members, until = contenders(known, regimes, spec), deadline
        if not members:
            return True
        load = _load(run, len(members))
        enough = is_enough(members, regimes, spec, run.rounds_before)
        if enough or _clock_s(run) >= deadline:
            members, until, load = closest(known, spec), last, finalist_load(spec, 0.0)
            if not members:
                return enough
            if _is_over(run, last):
                return False
            if not told:
                _tell_why(run, members, last)
                told = True
        if not _measure_round(run, reference, round_, members, load, until) and _is_over(run, last):
            return False
        note_changes(run)
        learn(run.store, run.study.id)
        round_ += 1


def _tell_why(run: StudySession, members: Sequence[TrialRecord], last: float) -> None:
    """A line on what the further rounds are for and how long they may take."""
    spec, left_s = run.plan.spec, max(0.0, last - _clock_s(run))
    half_width, until = mean_half_width(members[0], spec), f"until ± {spec.finalists.precision:.1%}"
    known = "not known to any precision" if half_width is None else f"known to ± {half_width:.1%}"
    if is_precise(members[0], spec):
        known, until = f"perhaps more than {WORTH_SIMPLICITY:.0%} behind another that it ties with", "until that is told"
    others = f" and {len(members) - 1} close to it go" if len(members) > 1 else " goes"
    run.observer.note(
        f"{preferred(spec)} of the best is {known}: it{others} on {until}, "
        f"for {f'{left_s / 60:.0f} minutes' if left_s >= 120 else f'{left_s:.0f} s'} at most (finalists.precision)"
    )


def _is_over(run: StudySession, deadline: float) -> bool:
    return run.switch.count > 0 or _clock_s(run) >= deadline


def _clock_s(run: StudySession) -> float:
    """The rounds' clock, in seconds: it stands still in a pause, and while others have the device or the database is away."""
    waited_s = run.spent.get(FOR_OTHERS, 0.0) + run.spent.get(FOR_DEVICE, 0.0) + run.store.patience.away_s
    return study_time_s(run) - waited_s


def _load(run: StudySession, n_members: int) -> LoadSpec:
    """The load with which the rounds of so many finalists and the reference are over in their time."""
    spec = run.plan.spec
    return finalist_load(spec, limit_s(spec, _search_s(run)) / (spec.finalists.rounds * (1 + n_members)))


def _measure_round(
    run: StudySession, reference: TrialRecord, round_: int, members: list[TrialRecord], load: LoadSpec, deadline: float
) -> bool:
    """Every member and the reference has its repetition of the round; False when time or the user ended it."""
    spec = run.plan.spec
    done = {(r.role, r.number) for r in _records(run) if any(p.role == "final" and p.round == round_ for p in r.repetitions)}
    order = [reference, *members]
    # The round's own seed, so that a round which was interrupted goes on in the same order.
    random.Random(f"{spec.seed}/{run.study.name}/{round_}").shuffle(order)
    for trial in order:
        if (trial.role, trial.number) in done:
            continue
        if _is_over(run, deadline):
            return False
        if repeat(run, trial, "final", round_, reference, load) == "interrupted":
            return False
    return True


def finalist_load(spec: StudySpec, share_s: float) -> LoadSpec:
    """The load of one repetition: longer and to a finer interval than a trial's, but not longer than its share of the time.

    Several short processes tell more than one long one, because processes differ by more than the windows of one.
    """
    load = spec.load
    # Where the arrival rate is searched for, a trial takes several times the cap of one load.
    longest_s = min(_LONGER * load.max_s, (share_s - load.warmup_s) * load.max_s / load.longest_s)
    shortest_s = min(load.max_s, load.min_windows * load.window_s)
    return load.model_copy(update={"max_s": max(shortest_s, longest_s), "precision": _FINER * load.precision})


def contenders(records: Sequence[TrialRecord], regimes: Sequence[Regime], spec: StudySpec) -> list[TrialRecord]:
    """The trials that are worth another measurement: the front, and what may be as good as the best; at most as many as set.

    Trials of earlier regimes are set against the others at the speed that the machine's changes suggest.
    """
    searched = comparable([r for r in records if r.role == "search"], spec)
    twice = [r for r in records if r.repetitions]  # only these can have run under two regimes
    adjusted = [at_present_speed(r, twice, regimes) for r in searched]
    if not adjusted:
        return []
    objective = objective_named(preferred(spec), spec)
    sign = 1 if objective.maximize else -1
    ranked = sorted(adjusted, key=lambda r: (-sign * float(objective.read(r) or 0.0), r.number))
    comparison = Comparison(adjusted)
    top = next((r for r in ranked if is_repeated(r)), ranked[0])
    # What was given up is slower for certain; its interval is merely too wide to say so again.
    rivals = [r for r in ranked if r is top or not (GIVEN_UP in r.flags or comparison.is_better(top, r, objective))]
    half = math.ceil(spec.finalists.at_most / 2)
    chosen = dict.fromkeys(r.number for r in (top, *rivals[:half], *front(adjusted, spec), *rivals[half:]))
    by_number = {r.number: r for r in records if r.role == "search"}
    return [by_number[n] for n in list(chosen)[: spec.finalists.at_most]]


def is_enough(finalists: Sequence[TrialRecord], regimes: Sequence[Regime], spec: StudySpec, after: int = 0) -> bool:
    """True when every finalist was in as many rounds as set under the present regime, or in fewer and the best is settled.

    Only rounds beyond `after` count.
    """
    present, rounds = regimes[-1].number if regimes else 1, spec.finalists.rounds
    counted = [[p for p in r.repetitions if p.role == "final" and p.regime == present and p.round > after] for r in finalists]
    fewest = min(map(len, counted))
    if fewest >= rounds:
        return True
    return fewest >= min(rounds, _LEAST_ROUNDS) and _is_settled(finalists, spec)


def closest(known: Sequence[TrialRecord], spec: StudySpec) -> list[TrialRecord]:
    """The best and those of its ties that are best beside it, at most three; none where the best is known well enough.

    That is where it is precise and certainly at most 3 % worse than the best of its ties, for an objective that is measured in
    rounds, or where `finalists.precision` is 1.
    """
    searched, objective = [r for r in known if r.role == "search"], objective_named(preferred(spec), spec)
    chosen = best(searched, spec)
    if spec.finalists.precision >= 1 or chosen is None or not is_repeated(chosen):
        return []
    comparison, others = Comparison(searched), [r for r in best_ties(searched, spec) if r is not chosen and is_repeated(r)]
    others.sort(key=lambda r: comparison.behind(r, chosen, objective))
    worse_by = [comparison.at_most_behind(chosen, r, objective) for r in others[:1]]
    if is_precise(chosen, spec) and all(part is None or part <= WORTH_SIMPLICITY for part in worse_by):
        return []
    return [chosen, *others][:_CLOSEST]


def is_precise(record: TrialRecord, spec: StudySpec) -> bool:
    """True when the 95 % interval of the mean over the trial's processes is within `finalists.precision` of it."""
    half_width = mean_half_width(record, spec)
    return half_width is not None and half_width <= spec.finalists.precision


def mean_half_width(record: TrialRecord, spec: StudySpec) -> float | None:
    """How far the 95 % interval of the mean over the trial's processes reaches up, as a part of the mean.

    0 for an objective without such a mean; None where so little was measured that only one process' own interval is known.
    """
    metric = objective_named(preferred(spec), spec).metric
    found = loaded(record, metric) if metric in LOADED else None
    if found is None or found.value <= 0:
        return 0.0
    if found.n != sum(p.regime == record.regime and loaded(p, metric) is not None for p in record.repetitions):
        return None
    # The interval holds one more process, t · s · √(1 + 1/n); the mean's own is t · s · √(1/n), on the same log scale.
    return math.expm1(math.log(found.high / found.value) / math.sqrt(found.n + 1))


def _is_settled(finalists: Sequence[TrialRecord], spec: StudySpec) -> bool:
    """True when the best is better than each of the others in the objective by which one is chosen."""
    objective = objective_named(preferred(spec), spec)
    comparison = Comparison(finalists)
    return any(all(r is top or comparison.is_better(top, r, objective) for r in finalists) for top in finalists)


def known_before(records: Sequence[TrialRecord], round_: int, regimes: Sequence[Regime]) -> list[TrialRecord]:
    """The records as they were reported before the finalists' round."""
    then = [
        replace(with_reported(r, {}), repetitions=tuple(p for p in r.repetitions if p.role != "final" or p.round < round_))
        for r in records
    ]
    return as_reported(then, regimes)


def _round_to_go_on_with(records: Sequence[TrialRecord]) -> int:
    """The last round, which may be incomplete, or the next where the search went on since: a round runs in one go."""
    last = _last_round(records)
    began = min(
        (p.started_at or "" for r in records for p in r.repetitions if p.role == "final" and p.round == last), default=""
    )
    searched_since = any(r.role == "search" and (r.finished_at or "") > began for r in records)
    return max(1, last + searched_since)


def _last_round(records: Sequence[TrialRecord]) -> int:
    return max((p.round for r in records for p in r.repetitions if p.role == "final"), default=0)


def _search_s(run: StudySession) -> float:
    return run.store.measured_s(run.study.id, COMPARABLE, ["complete"])


def _records(run: StudySession) -> list[TrialRecord]:
    """The complete trials that may become finalists, and the references; a study's others are not read."""
    found: list[TrialRecord] = run.timed("store", _read, run)
    return found


def _read(run: StudySession) -> list[TrialRecord]:
    searched = Standing(run.store, run.study.id, run.plan.spec).contending(_WIDER * run.plan.spec.finalists.at_most)
    references = run.store.trials(run.study.id, ["complete"], ["reference"])
    return [*references, *(r for r in searched if r.state == "complete")]
