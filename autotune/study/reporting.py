"""What is reported as a trial's throughput, from all that the study has measured."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from autotune.bench.rounds import Spread, pooled_spread, repeated_estimate
from autotune.bench.statistics import t_quantile, with_process_spread
from autotune.records import Estimate, Regime, Repetition, TrialRecord, TrialRole, regime_at
from autotune.store.repository import Store

_ENOUGH_DOF = 4
_LEAST_DOF = 2
"""Below, Student's t makes every interval wider than its value: a spread from two processes says nothing."""
_NOTICED = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process's throughput of one trial. `key` names what was measured beside it: the round, if it was in one.

    `own_sd`: relative standard error inside the process.
    """

    key: Hashable
    regime: int
    rate: float
    own_sd: float
    started_at: str
    finished_at: str


def own_estimate(record: TrialRecord) -> Estimate | None:
    """What the trial's own load gave, whatever is reported."""
    return record.throughput_one_run or record.throughput_items_per_s


def processes(record: TrialRecord, since: Sequence[str]) -> list[Process]:
    """Every process in which the trial's candidate ran, in order of time.

    The own load of a search trial is not among them: it was chosen for being fast, and would pull the others up.
    """
    found = [_process((r.role, r.round), r.regime, r.throughput_items_per_s, r) for r in record.repetitions]
    if record.role == "reference":
        found.append(_process(("reference", record.number), regime_at(record.started_at, since), own_estimate(record), record))
    return sorted((p for p in found if p is not None), key=lambda p: p.finished_at)


def _process(key: Hashable, regime: int, rate: Estimate | None, of: TrialRecord | Repetition) -> Process | None:
    if rate is None or rate.value <= 0:
        return None
    # The half-width of a 95 % interval is about two standard errors.
    own_sd = rate.half_width / 2 / rate.value
    times = {"started_at": of.started_at or "", "finished_at": of.finished_at or ""}
    return Process(key=key, regime=regime, rate=rate.value, own_sd=own_sd, **times)


def reference_processes(references: Sequence[TrialRecord], regimes: Sequence[Regime]) -> list[Process]:
    """Every process in which the reference ran, under the present regime, in order of time."""
    since = [r.since for r in regimes]
    found = sorted((p for r in references for p in processes(r, since)), key=lambda p: p.finished_at)
    return [p for p in found if p.regime == len(regimes) + 1]


def as_reported(records: Sequence[TrialRecord], regimes: Sequence[Regime]) -> list[TrialRecord]:
    """The search trials and references, their throughput as it is to be reported.

    Where a candidate was measured in further processes under its newest regime, it is the mean over them; elsewhere the own
    load's value. The interval holds what a fresh process would measure, from the spread between processes that all of them
    show.
    """
    return _Reporting(records, regimes).reported(records)


class _Reporting:
    """The processes of the repeated trials and the references, and the spread that they show."""

    def __init__(self, records: Sequence[TrialRecord], regimes: Sequence[Regime]) -> None:
        since = [r.since for r in regimes]
        grouped = {(r.role, r.number): _by_regime(processes(r, since)) for r in records}
        # The references of one study are one configuration, although each has its own row.
        shared: dict[int, list[Process]] = {}
        for (role, _), found in grouped.items():
            for regime, members in found.items() if role == "reference" else ():
                shared.setdefault(regime, []).extend(members)
        self._grouped = grouped | {key: shared for key in grouped if key[0] == "reference"}
        groups = dict(_groups(self._grouped, shared))
        self.spread = pooled_spread(groups)
        finalists = pooled_spread({name: rates for name, rates in groups.items() if name[0] != "reference"})
        # Candidates for deployment vary less than a reference that may hop between two speeds, if there are enough to tell.
        self._enough = finalists if finalists is not None and finalists.dof >= _ENOUGH_DOF else self.spread

    def reported(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Those of the records that it was made from, with what is to be reported of them."""
        return [
            _with_reported(
                r, self._grouped[r.role, r.number], self._enough if r.repetitions and r.role == "search" else self.spread
            )
            for r in records
        ]


def _by_regime(found: Sequence[Process]) -> dict[int, list[Process]]:
    by_regime: dict[int, list[Process]] = {}
    for process in found:
        by_regime.setdefault(process.regime, []).append(process)
    return by_regime


def _groups(
    grouped: dict[tuple[TrialRole, int], dict[int, list[Process]]], shared: dict[int, list[Process]]
) -> Iterator[tuple[tuple[TrialRole, int, int], dict[Hashable, float]]]:
    for (role, number), by_regime in grouped.items():
        for regime, members in by_regime.items() if role != "reference" else ():
            yield (role, number, regime), {(regime, p.key): p.rate for p in members}
    for regime, members in shared.items():
        yield ("reference", 0, regime), {(regime, p.key): p.rate for p in members}


def _with_reported(record: TrialRecord, found: dict[int, list[Process]], spread: Spread | None) -> TrialRecord:
    own = own_estimate(record)
    if own is None or spread is None or spread.dof < _LEAST_DOF:
        return record
    reported = repeated_estimate({p.key: p.rate for p in found[max(found)]}, spread) if found else once(own, spread)
    regime = max(found, default=record.regime)
    return replace(record, throughput_items_per_s=reported, throughput_one_run=own, regime=regime)


def once(own: Estimate, spread: Spread) -> Estimate:
    """What is reported of a trial that ran in one process."""
    return with_process_spread(own, spread.relative_sd, spread.dof + 1)


def learn(store: Store, study_id: int, *, known: Spread | None = None) -> Spread | None:
    """The database reports of every complete trial what `as_reported` makes of all measurements so far; the spread they show.

    `known`: the spread with which all were reported before. While it has moved by less than 2 %, only what was measured again
    is reported anew: to rewrite thousands of trials for each measurement of the reference would take longer than a trial.
    None where too little was measured to know a spread.
    """
    measured, regimes = store.repeated(study_id), store.regimes(study_id)
    reporting = _Reporting(measured, regimes)
    changed = {
        (new.role, new.number): new.throughput_items_per_s
        for old, new in zip(measured, reporting.reported(measured), strict=True)
        if new.throughput_items_per_s is not None and new != old
    }
    spread = reporting.spread if reporting.spread is not None and reporting.spread.dof >= _LEAST_DOF else None
    moved = spread is not None and not (known is not None and _is_near(spread, known))
    if spread is not None and moved:
        for run in store.single_runs(study_id):
            new = once(run.own, spread)
            if new != run.reported:
                changed["search", run.number] = new
    if changed:
        store.set_reported(study_id, changed)
    return spread if moved else known


def _is_near(a: Spread, b: Spread) -> bool:
    """True when both add about the same to an interval."""
    x, y = (t_quantile(s.dof) * s.relative_sd for s in (a, b))
    return abs(x - y) <= _NOTICED * y
