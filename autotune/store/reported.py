"""SQL for what is reported of a trial beyond its own load: repetitions, regimes, and the estimate made from all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, RowMapping, and_, case, delete, func, insert, or_, select

from autotune.records import LATENCIES, LOADED, Estimate, LatencySummary, Regime, Repetition, TrialRole, regime_at
from autotune.store.tables import measurements, regimes, repetitions, studies, trials

REPORTED = {metric: f"{metric}_reported" for metric in LOADED} | {"throughput_items_per_s": "throughput_reported"}
"""Metrics in at_measurements: what the trial's own load gave, which never changes, and what is reported, which is learnt."""
UNITS = dict.fromkeys(LATENCIES, "ms") | {
    "throughput_items_per_s": "items/s",
    "energy_j_per_item": "J/item",
    "power_w": "W",
    "goodput_items_per_s": "items/s",
    "peak_items_per_s": "items/s",
}
"""Units of the estimates; accuracy and its drop have the metric's own, which is a share for top1 and top5."""
_ENDS = ("value", "low", "high")
_PARTS = (*_ENDS, "n", "method")
AT_ONCE = 500
"""Trials that one statement names: SQLite takes 32,766 parameters, and 999 before 3.32."""


def fetch_regimes(connection: Connection, study_id: int) -> list[Regime]:
    """The regimes that were noted, from the second on; the first began with the study."""
    wanted = select(regimes).where(regimes.c.study_id == study_id).order_by(regimes.c.number)
    return [Regime(**{k: v for k, v in row.items() if k != "study_id"}) for row in connection.execute(wanted).mappings()]


def with_estimate(source: FromClause, trial_id: ColumnElement[int], metric: str) -> tuple[FromClause, list[ColumnElement[Any]]]:
    """The source joined with one metric, and its value, low and high: what is reported, or else what the own load gave."""
    own = measurements.alias(f"own_{metric}")
    source = source.outerjoin(own, and_(own.c.trial_id == trial_id, own.c.metric == metric))
    if metric not in REPORTED:
        return source, [own.c[end] for end in _ENDS]
    said = measurements.alias(f"said_{metric}")
    source = source.outerjoin(said, and_(said.c.trial_id == trial_id, said.c.metric == REPORTED[metric]))
    return source, [func.coalesce(said.c[end], own.c[end]) for end in _ENDS]


def lock_study(connection: Connection, study_id: int) -> None:
    """Until the transaction ends, of two who write what is learnt of a study one waits for the other."""
    connection.execute(select(studies.c.id).where(studies.c.id == study_id).with_for_update())


def add_regime(connection: Connection, study_id: int, regime: Regime) -> bool:
    """The regime is stored. False: one of its number was stored before, and stays."""
    lock_study(connection, study_id)
    known = select(regimes.c.number).where(regimes.c.study_id == study_id, regimes.c.number == regime.number)
    if connection.execute(known).one_or_none() is not None:
        return False
    connection.execute(insert(regimes).values(study_id=study_id, **asdict(regime)))
    return True


def set_reported(connection: Connection, study_id: int, found: Mapping[tuple[TrialRole, int], Mapping[str, Estimate]]) -> None:
    """Of these trials, by role and number, the estimates are reported, by metric of LOADED; of other metrics as before."""
    lock_study(connection, study_id)
    items = [(key, estimates) for key, estimates in found.items() if estimates]
    for some in (items[i : i + AT_ONCE] for i in range(0, len(items), AT_ONCE)):
        numbers: dict[TrialRole, list[int]] = {}
        for (role, number), _ in some:
            numbers.setdefault(role, []).append(number)
        named = or_(*(and_(trials.c.role == role, trials.c.number.in_(ns)) for role, ns in numbers.items()))
        wanted = select(trials.c.id, trials.c.role, trials.c.number).where(
            trials.c.study_id == study_id, trials.c.state == "complete", named
        )
        ids = {(r.role, r.number): r.id for r in connection.execute(wanted)}
        for metric, name in REPORTED.items():
            rows = [_row(ids[key], metric, found[metric]) for key, found in some if key in ids and metric in found]
            if rows:
                old = and_(measurements.c.metric == name, measurements.c.trial_id.in_([r["trial_id"] for r in rows]))
                connection.execute(delete(measurements).where(old))
                connection.execute(insert(measurements), rows)


def _row(trial_id: int, metric: str, e: Estimate) -> dict[str, Any]:
    values = {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "method": e.method}
    return {"trial_id": trial_id, "metric": REPORTED[metric], "unit": UNITS[metric], **values}


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleRun:
    """A complete search trial that was never repeated: what its own load gave, and what is reported, by metric of LOADED."""

    number: int
    own: Mapping[str, Estimate]
    reported: Mapping[str, Estimate]


def fetch_single_runs(connection: Connection, study_id: int, metrics: Collection[str]) -> list[SingleRun]:
    """All of a study that have any of the metrics, by number, without the rest of their records."""
    own, said = measurements.alias("own"), measurements.alias("said")
    name = case(REPORTED, value=own.c.metric)
    wanted = (
        select(trials.c.number, own.c.metric, *(own.c[p] for p in _PARTS), *(said.c[p] for p in _PARTS))
        .join(own, and_(own.c.trial_id == trials.c.id, own.c.metric.in_(tuple(metrics))))
        .outerjoin(said, and_(said.c.trial_id == trials.c.id, said.c.metric == name))
        .where(trials.c.study_id == study_id, trials.c.role == "search", trials.c.state == "complete")
        .where(trials.c.id.not_in(select(repetitions.c.of_trial_id)))
        .order_by(trials.c.number)
    )
    found: dict[int, tuple[dict[str, Estimate], dict[str, Estimate]]] = {}
    for number, metric, *values in connection.execute(wanted):
        measured, reported = found.setdefault(number, ({}, {}))
        measured[metric] = _estimate(values[: len(_PARTS)])
        if values[len(_PARTS)] is not None:
            reported[metric] = _estimate(values[len(_PARTS) :])
    return [SingleRun(number=number, own=own, reported=reported) for number, (own, reported) in found.items()]


def _estimate(parts: Sequence[Any]) -> Estimate:
    return Estimate(**dict(zip(_PARTS, parts, strict=True)))


class RegimeClock:
    """Tells the regime of an instant, for any study in the database, or for one alone."""

    def __init__(self, connection: Connection, study_id: int | None = None) -> None:
        self._since: dict[int, list[str]] = {}
        wanted = select(regimes.c.study_id, regimes.c.since).order_by(regimes.c.number)
        for row in connection.execute(wanted if study_id is None else wanted.where(regimes.c.study_id == study_id)):
            self._since.setdefault(row.study_id, []).append(row.since)

    @property
    def has_changes(self) -> bool:
        """True when some study it knows has more than its first regime."""
        return bool(self._since)

    def regime(self, study_id: int, started_at: str | None) -> int:
        """The number of the regime in which a trial began; 1 for one whose beginning is not known."""
        return regime_at(started_at, self._since.get(study_id, ()))


def fetch_repetitions(
    connection: Connection, clock: RegimeClock, *where: ColumnElement[bool]
) -> dict[int, tuple[Repetition, ...]]:
    """The finished repetitions of the trials that `where` selects, by trial id, each in order of time."""
    again = trials.alias("again")
    of = select(trials.c.id).where(*where)
    parts = [measurements.c[name] for name in ("metric", *_PARTS)]
    wanted = (
        select(repetitions, again.c.study_id, again.c.state, again.c.started_at, again.c.finished_at, *parts)
        .join(again, again.c.id == repetitions.c.trial_id)
        .outerjoin(measurements, and_(measurements.c.trial_id == again.c.id, measurements.c.metric.in_(LOADED)))
        .where(repetitions.c.of_trial_id.in_(of), again.c.state != "running")
        .order_by(again.c.id)
    )
    by_trial: dict[int, tuple[RowMapping, dict[str, Estimate]]] = {}
    for row in connection.execute(wanted).mappings():
        _, measured = by_trial.setdefault(row["trial_id"], (row, {}))
        if row["metric"] is not None:
            measured[row["metric"]] = _estimate([row[name] for name in _PARTS])
    found: dict[int, list[Repetition]] = {}
    for row, measured in by_trial.values():
        found.setdefault(row["of_trial_id"], []).append(_repetition(row, measured, clock))
    return {trial_id: tuple(reps) for trial_id, reps in found.items()}


def _repetition(row: RowMapping, measured: Mapping[str, Estimate], clock: RegimeClock) -> Repetition:
    return Repetition(
        role=row["role"],
        round=row["round"],
        regime=clock.regime(row["study_id"], row["started_at"]),
        state=row["state"],
        throughput_items_per_s=measured.get("throughput_items_per_s"),
        latency_ms=LatencySummary(**{name: measured.get(metric) for metric, name in LATENCIES.items()}),
        energy_j_per_item=measured.get("energy_j_per_item"),
        power_w=measured.get("power_w"),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
