"""SQL for all studies of a database at once: how far each is, and the best of its stored front, in a few statements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, RowMapping, func, select

from autotune.records import FINISHED, Regime, TrialRecord, TrialState
from autotune.store.reported import AT_ONCE, with_estimate
from autotune.store.tables import pareto, regimes, repetitions, studies, trials
from autotune.store.trials import fetch_by_id

_METRIC_OF = {
    "rate": "throughput_items_per_s", "accuracy": "accuracy", "latency_p99": "latency_p99", "energy": "energy_j_per_item",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """One study without its specification. `best`: the fastest trial of its stored front, or where throughput is no objective
    the best in the last one; None before there is any.
    """

    id: int
    name: str
    target_trials: int
    created_at: str
    n_trials: Mapping[TrialState, int]
    n_repetitions: int
    regimes: tuple[Regime, ...]
    best: TrialRecord | None


def fetch_summaries(connection: Connection) -> list[StudySummary]:
    """All studies, by name."""
    counts: dict[int, dict[TrialState, int]] = {}
    grouped = select(trials.c.study_id, trials.c.state, func.count()).where(trials.c.role == "search")
    for study_id, state, n in connection.execute(grouped.group_by(trials.c.study_id, trials.c.state)):
        counts.setdefault(study_id, {})[state] = n
    again = _repetitions_by_study(connection)
    changed = _regimes_by_study(connection)
    rows = connection.execute(
        select(studies.c.id, studies.c.name, studies.c.target_trials, studies.c.created_at, studies.c.objectives)
        .order_by(studies.c.name)
    ).all()  # fmt: skip
    best = _best_by_study(connection, {row.id: row.objectives for row in rows})
    none: dict[TrialState, int] = dict.fromkeys(("running", *FINISHED), 0)
    return [
        StudySummary(
            id=row.id,
            name=row.name,
            target_trials=row.target_trials,
            created_at=row.created_at,
            n_trials=none | counts.get(row.id, {}),
            n_repetitions=again.get(row.id, 0),
            regimes=changed.get(row.id, ()),
            best=best.get(row.id),
        )
        for row in rows
    ]


def _repetitions_by_study(connection: Connection) -> dict[int, int]:
    """Finished repetitions of search trials."""
    of, again = trials.alias("of"), trials.alias("again")
    wanted = (
        select(of.c.study_id, func.count())
        .select_from(repetitions)
        .join(of, of.c.id == repetitions.c.of_trial_id)
        .join(again, again.c.id == repetitions.c.trial_id)
        .where(of.c.role == "search", again.c.state != "running")
        .group_by(of.c.study_id)
    )
    return {study_id: n for study_id, n in connection.execute(wanted)}


def _regimes_by_study(connection: Connection) -> dict[int, tuple[Regime, ...]]:
    found: dict[int, tuple[Regime, ...]] = {}
    for row in connection.execute(select(regimes).order_by(regimes.c.number)).mappings():
        regime = Regime(**{k: v for k, v in row.items() if k != "study_id"})
        found[row["study_id"]] = (*found.get(row["study_id"], ()), regime)
    return found


def _best_by_study(connection: Connection, objectives: Mapping[int, Sequence[str]]) -> dict[int, TrialRecord]:
    """By study, the member of the stored front that is best in the objective by which one is chosen."""
    columns: list[ColumnElement[Any]] = [trials.c.peak_memory_mib.label("memory")]
    source: FromClause = pareto.join(trials, trials.c.id == pareto.c.trial_id)
    for name, metric in _METRIC_OF.items():
        source, (value, _, _) = with_estimate(source, pareto.c.trial_id, metric)
        columns.append(value.label(name))
    chosen: dict[int, tuple[float, int]] = {}
    wanted = select(pareto.c.study_id, pareto.c.trial_id, *columns).select_from(source).order_by(pareto.c.trial_id)
    for row in connection.execute(wanted).mappings():
        worth = _worth(row, objectives.get(row["study_id"], ()))
        if row["study_id"] not in chosen or worth > chosen[row["study_id"]][0]:
            chosen[row["study_id"]] = (worth, row["trial_id"])
    study_of = {trial_id: study_id for study_id, (_, trial_id) in chosen.items()}
    ids, found = list(study_of), dict[int, TrialRecord]()
    for i in range(0, len(ids), AT_ONCE):
        records = fetch_by_id(connection, trials.c.id.in_(ids[i : i + AT_ONCE]))
        found |= {study_of[trial_id]: record for trial_id, record in records.items()}
    return found


def _worth(row: RowMapping, objectives: Sequence[str]) -> float:
    """How good the trial is in the objective by which one is chosen; more is better, −∞ where it was not measured."""
    objective = "throughput" if "throughput" in objectives else objectives[-1] if objectives else "throughput"
    column = {"throughput": "rate", "cost": "rate"}.get(objective, objective)
    value = row.get(column)
    if value is None:
        return -math.inf
    return -float(value) if objective in ("latency_p99", "energy", "memory") else float(value)
