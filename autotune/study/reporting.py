"""What is reported of a trial's load, from all that the study has measured: throughput, latency, energy and power alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.bench.rounds import Rates, Spread, pooled_spread, repeated_estimate
from autotune.bench.statistics import t_quantile, with_process_spread
from autotune.records import (
    LOADED,
    Estimate,
    Regime,
    Repetition,
    TrialRecord,
    TrialRole,
    loaded,
    own_load,
    regime_at,
    with_reported,
)
from autotune.store.repository import Store
from autotune.study.objectives import THROUGHPUT

Group = tuple[TrialRole, int, int]
"""A configuration under one regime: role, number and regime."""
_ENOUGH_DOF = 4
_LEAST_DOF = 2
"""Below, Student's t makes every interval wider than its value: a spread from two processes says nothing."""
_NOTICED = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What one process gave for one trial in one metric. `key` names what was measured beside it: the round, if it was in one.

    `own_sd`: relative standard error inside the process.
    """

    key: Hashable
    regime: int
    value: float
    own_sd: float
    started_at: str
    finished_at: str


def processes(record: TrialRecord, since: Sequence[str], metric: str = THROUGHPUT) -> list[Process]:
    """Every process in which the trial's candidate ran and the metric was measured, in order of time.

    The own load of a search trial is not among them: it was chosen for being fast, and would pull the others up.
    """
    found = [_process((r.role, r.round), r.regime, loaded(r, metric), r) for r in record.repetitions]
    if record.role == "reference":
        regime = regime_at(record.started_at, since)
        found.append(_process(("reference", record.number), regime, own_load(record, metric), record))
    return sorted((p for p in found if p is not None), key=lambda p: p.finished_at)


def _process(key: Hashable, regime: int, measured: Estimate | None, of: TrialRecord | Repetition) -> Process | None:
    if measured is None or measured.value <= 0:
        return None
    # The half-width of a 95 % interval is about two standard errors.
    own_sd = measured.half_width / 2 / measured.value
    times = {"started_at": of.started_at or "", "finished_at": of.finished_at or ""}
    return Process(key=key, regime=regime, value=measured.value, own_sd=own_sd, **times)


def reference_processes(references: Sequence[TrialRecord], regimes: Sequence[Regime]) -> list[Process]:
    """Every process in which the reference ran, under the present regime, in order of time; their throughput."""
    since = [r.since for r in regimes]
    found = sorted((p for r in references for p in processes(r, since)), key=lambda p: p.finished_at)
    return [p for p in found if p.regime == len(regimes) + 1]


def as_reported(records: Sequence[TrialRecord], regimes: Sequence[Regime]) -> list[TrialRecord]:
    """The search trials and references, each metric of LOADED as it is to be reported.

    Where a candidate was measured in further processes under its newest regime, it is the mean over them; elsewhere the own
    load's value. The interval holds what a fresh process would measure, from the spread between processes that all of them
    show.
    """
    reporting = _all_metrics(records, regimes)
    return [_with_reported(r, reporting) for r in records]


class _Reporting:
    """One metric of the repeated trials and the references: their processes, and the spread that these show."""

    def __init__(self, metric: str, records: Sequence[TrialRecord], regimes: Sequence[Regime]) -> None:
        self._metric = metric
        since = [r.since for r in regimes]
        grouped = {(r.role, r.number): _by_regime(processes(r, since, metric)) for r in records}
        # The references of one study are one configuration, although each has its own row.
        shared: dict[int, list[Process]] = {}
        for (role, _), found in grouped.items():
            for regime, members in found.items() if role == "reference" else ():
                shared.setdefault(regime, []).extend(members)
        self._grouped = grouped | {key: shared for key in grouped if key[0] == "reference"}
        searched = {key: found for key, found in grouped.items() if key[0] != "reference"}
        groups = {(*key, regime): members for key, found in searched.items() for regime, members in found.items()}
        finalists = _pooled(groups)
        self.spread = _pooled({**groups, **{("reference", 0, regime): members for regime, members in shared.items()}})
        # Candidates for deployment vary less than a reference that may hop between two speeds, if there are enough to tell.
        self._enough = finalists if finalists is not None and finalists.dof >= _ENOUGH_DOF else self.spread

    def estimate(self, record: TrialRecord) -> Estimate | None:
        """What is to be reported of one of the records that this was made from; None where no more is known than its load."""
        own = own_load(record, self._metric)
        spread = self._enough if record.repetitions and record.role == "search" else self.spread
        if own is None or spread is None or spread.dof < _LEAST_DOF:
            return None
        found = self._grouped[record.role, record.number]
        return repeated_estimate({p.key: p.value for p in found[max(found)]}, spread) if found else once(own, spread)

    def regime(self, record: TrialRecord) -> int:
        """The regime under which the record's candidate ran last."""
        return max(self._grouped[record.role, record.number], default=record.regime)


def _all_metrics(records: Sequence[TrialRecord], regimes: Sequence[Regime]) -> dict[str, _Reporting]:
    return {metric: _Reporting(metric, records, regimes) for metric in LOADED}


def _by_regime(found: Sequence[Process]) -> dict[int, list[Process]]:
    by_regime: dict[int, list[Process]] = {}
    for process in found:
        by_regime.setdefault(process.regime, []).append(process)
    return by_regime


def _pooled(groups: Mapping[Group, Sequence[Process]]) -> Spread | None:
    values: dict[Group, Rates] = {name: {(name[2], p.key): p.value for p in found} for name, found in groups.items()}
    return pooled_spread(values, [p.own_sd for found in groups.values() if len(found) > 1 for p in found])


def _with_reported(record: TrialRecord, reporting: Mapping[str, _Reporting]) -> TrialRecord:
    estimates = _estimates(record, reporting)
    if not estimates:
        return record
    return replace(with_reported(record, estimates), regime=reporting[THROUGHPUT].regime(record))


def _estimates(record: TrialRecord, reporting: Mapping[str, _Reporting]) -> dict[str, Estimate]:
    found = {metric: of.estimate(record) for metric, of in reporting.items()}
    return {metric: estimate for metric, estimate in found.items() if estimate is not None}


def once(own: Estimate, spread: Spread) -> Estimate:
    """What is reported of a trial that ran in one process."""
    return with_process_spread(own, spread.relative_sd, spread.dof + 1, spread.own_sd)


def learn(store: Store, study_id: int, known: Mapping[str, Spread] | None = None) -> Mapping[str, Spread]:
    """The database reports of every complete trial what `as_reported` makes of all measurements so far; the spreads they show.

    `known`: the spreads with which all were reported before, by metric of LOADED. While one has moved by less than 2 %, only
    what was measured again is reported anew: to rewrite thousands of trials for each measurement of the reference would take
    longer than a trial. The same object comes back where none has moved. Metrics of which too little was measured are left out.
    """
    known = {} if known is None else known
    measured, regimes = store.repeated(study_id), store.regimes(study_id)
    reporting = _all_metrics(measured, regimes)
    changed: dict[tuple[TrialRole, int], dict[str, Estimate]] = {}
    for record in measured:
        new = {m: e for m, e in _estimates(record, reporting).items() if e != loaded(record, m)}
        if new:
            changed[record.role, record.number] = new
    spreads = {metric: of.spread for metric, of in reporting.items() if of.spread is not None}
    moved = {metric: spread for metric, spread in spreads.items() if _is_news(spread, known.get(metric))}
    if moved:
        for run in store.single_runs(study_id, list(moved)):
            said = {metric: once(own, moved[metric]) for metric, own in run.own.items()}
            new = {metric: estimate for metric, estimate in said.items() if estimate != run.reported.get(metric)}
            if new:
                changed["search", run.number] = new
    if changed:
        store.set_reported(study_id, changed)
    return {**known, **moved} if moved else known


def _is_news(found: Spread, known: Spread | None) -> bool:
    """True when enough processes tell it, and it adds something else to an interval than the one that is known."""
    if found.dof < _LEAST_DOF:
        return False
    if known is None:
        return True
    x, y = (t_quantile(s.dof) * s.relative_sd for s in (found, known))
    return abs(x - y) > _NOTICED * y
