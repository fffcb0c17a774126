"""SQL for what is reported of a trial beyond its own load: repetitions, regimes, and the estimate made from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, insert, or_, select

from autotune.records import Estimate, Regime, Repetition, TrialRole, regime_at
from autotune.store.tables import measurements, regimes, repetitions, studies, trials

OWN, REPORTED = "throughput_items_per_s", "throughput_reported"
"""Metrics in at_measurements: what the trial's own load gave, which never changes, and what is reported, which is learnt."""
AT_ONCE = 500
"""Trials that one statement names: SQLite takes 32,766 parameters, and 999 before 3.32."""


def fetch_regimes(connection: Connection, study_id: int) -> list[Regime]:
    """The regimes that were noted, from the second on; the first began with the study."""
    wanted = select(regimes).where(regimes.c.study_id == study_id).order_by(regimes.c.number)
    return [Regime(**{k: v for k, v in row.items() if k != "study_id"}) for row in connection.execute(wanted).mappings()]


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


def set_reported(connection: Connection, study_id: int, found: Mapping[tuple[TrialRole, int], Estimate]) -> None:
    """The throughput that is reported of these trials, by role and number, is the given one."""
    lock_study(connection, study_id)
    items = list(found.items())
    for some in (items[i : i + AT_ONCE] for i in range(0, len(items), AT_ONCE)):
        numbers: dict[TrialRole, list[int]] = {}
        for (role, number), _ in some:
            numbers.setdefault(role, []).append(number)
        named = or_(*(and_(trials.c.role == role, trials.c.number.in_(ns)) for role, ns in numbers.items()))
        wanted = select(trials.c.id, trials.c.role, trials.c.number).where(
            trials.c.study_id == study_id, trials.c.state == "complete", named
        )
        ids = {(r.role, r.number): r.id for r in connection.execute(wanted)}
        rows = [_row(ids[key], estimate) for key, estimate in some if key in ids]
        if rows:
            old = and_(measurements.c.metric == REPORTED, measurements.c.trial_id.in_([r["trial_id"] for r in rows]))
            connection.execute(delete(measurements).where(old))
            connection.execute(insert(measurements), rows)


def _row(trial_id: int, e: Estimate) -> dict[str, Any]:
    values = {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "method": e.method}
    return {"trial_id": trial_id, "metric": REPORTED, "unit": "items/s", **values}


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleRun:
    """The throughput of a complete search trial that was never repeated: its own load's, and what is reported, if anything."""

    number: int
    own: Estimate
    reported: Estimate | None


def fetch_single_runs(connection: Connection, study_id: int) -> list[SingleRun]:
    """All of a study, by number, without the rest of their records."""
    own, said = measurements.alias("own"), measurements.alias("said")
    parts = ("value", "low", "high", "n", "method")
    wanted = (
        select(trials.c.number, *(own.c[p] for p in parts), *(said.c[p] for p in parts))
        .join(own, and_(own.c.trial_id == trials.c.id, own.c.metric == OWN))
        .outerjoin(said, and_(said.c.trial_id == trials.c.id, said.c.metric == REPORTED))
        .where(trials.c.study_id == study_id, trials.c.role == "search", trials.c.state == "complete")
        .where(trials.c.id.not_in(select(repetitions.c.of_trial_id)))
        .order_by(trials.c.number)
    )
    return [
        SingleRun(
            number=row[0],
            own=Estimate(**dict(zip(parts, row[1:6], strict=True))),
            reported=None if row[6] is None else Estimate(**dict(zip(parts, row[6:], strict=True))),
        )
        for row in connection.execute(wanted)
    ]


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
    wanted = (
        select(repetitions, again.c.study_id, again.c.state, again.c.started_at, again.c.finished_at, *_measured())
        .join(again, again.c.id == repetitions.c.trial_id)
        .outerjoin(measurements, and_(measurements.c.trial_id == again.c.id, measurements.c.metric == OWN))
        .where(repetitions.c.of_trial_id.in_(of), again.c.state != "running")
        .order_by(again.c.id)
    )
    found: dict[int, list[Repetition]] = {}
    for row in connection.execute(wanted).mappings():
        found.setdefault(row["of_trial_id"], []).append(_repetition(row, clock))
    return {trial_id: tuple(reps) for trial_id, reps in found.items()}


def _measured() -> list[ColumnElement[Any]]:
    return [measurements.c[name] for name in ("value", "low", "high", "n", "method")]


def _repetition(row: RowMapping, clock: RegimeClock) -> Repetition:
    measured = None if row["value"] is None else {k: row[k] for k in ("value", "low", "high", "n", "method")}
    return Repetition(
        role=row["role"],
        round=row["round"],
        regime=clock.regime(row["study_id"], row["started_at"]),
        state=row["state"],
        throughput_items_per_s=Estimate.from_json(measured),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
