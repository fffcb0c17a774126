"""SQL for what is watched while a study runs: few rows however many trials. Functions work inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, or_, select

from autotune.records import FINISHED, TrialRole, TrialState, seconds_between
from autotune.store.tables import telemetry, trials

_NO_ERROR = "accuracy_too_low"
"""A reason that a search meets all the time and that says nothing of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTrial:
    """How long a finished trial took, in all and by stage, in seconds."""

    trial_id: int
    role: TrialRole
    duration_s: float | None
    stage_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastError:
    """The newest trial that failed for another reason than its accuracy."""

    number: int
    role: TrialRole
    reason: str
    stage: str
    message: str
    finished_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSample:
    """The last sample of a telemetry series."""

    metric: str
    unit: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFigures:
    """A study at one moment. `n_trials`: role → state → how many. `finished`: the trials beyond the id that was asked for.

    They are ordered by id. `lowest_running`: the id of the oldest trial under way. `telemetry`: of the newest trial that
    has some, which finished at `telemetry_at`.
    """

    n_trials: Mapping[TrialRole, Mapping[TrialState, int]]
    finished: tuple[FinishedTrial, ...]
    lowest_running: int | None
    last_error: LastError | None
    telemetry: tuple[LastSample, ...]
    telemetry_at: str | None


def fetch(connection: Connection, study_id: int, after_id: int) -> StudyFigures:
    """The study's figures now."""
    of_study = trials.c.study_id == study_id
    counts: dict[TrialRole, dict[TrialState, int]] = {}
    wanted = select(trials.c.role, trials.c.state, func.count()).where(of_study).group_by(trials.c.role, trials.c.state)
    for role, state, n in connection.execute(wanted):
        counts.setdefault(role, {})[state] = n
    newest_telemetry = _newest_telemetry(connection, study_id)
    return StudyFigures(
        n_trials=counts,
        finished=_finished(connection, study_id, after_id),
        lowest_running=connection.execute(select(func.min(trials.c.id)).where(of_study, trials.c.state == "running")).scalar(),
        last_error=_last_error(connection, study_id),
        telemetry=newest_telemetry[1],
        telemetry_at=newest_telemetry[0],
    )


def _finished(connection: Connection, study_id: int, after_id: int) -> tuple[FinishedTrial, ...]:
    columns = (trials.c.id, trials.c.role, trials.c.started_at, trials.c.finished_at, trials.c.stage_s)
    mine = and_(trials.c.study_id == study_id, trials.c.id > after_id, trials.c.state.in_(FINISHED))
    return tuple(
        FinishedTrial(trial_id=i, role=role, duration_s=_seconds(began, ended), stage_s=stage_s or {})
        for i, role, began, ended, stage_s in connection.execute(select(*columns).where(mine).order_by(trials.c.id))
    )


def _seconds(began: str | None, ended: str | None) -> float | None:
    return seconds_between(began, ended) if began and ended else None


def _last_error(connection: Connection, study_id: int) -> LastError | None:
    failed = or_(trials.c.state == "crashed", and_(trials.c.state == "rejected", trials.c.reject_reason != _NO_ERROR))
    wanted = select(trials).where(trials.c.study_id == study_id, failed)
    row = (
        connection.execute(wanted.order_by(trials.c.finished_at.desc().nulls_last(), trials.c.id.desc()).limit(1))
        .mappings()
        .first()
    )
    if row is None:
        return None
    return LastError(
        number=row["number"],
        role=row["role"],
        reason=row["reject_reason"] or row["state"],
        stage=row["reject_stage"] or "",
        message=row["reject_message"] or "",
        finished_at=row["finished_at"],
    )


def _newest_telemetry(connection: Connection, study_id: int) -> tuple[str | None, tuple[LastSample, ...]]:
    has_some = select(telemetry.c.trial_id).where(telemetry.c.trial_id == trials.c.id).exists()
    wanted = select(trials.c.id, trials.c.finished_at).where(trials.c.study_id == study_id, has_some)
    found = connection.execute(wanted.order_by(trials.c.id.desc()).limit(1)).first()
    if found is None:
        return None, ()
    series = select(telemetry).where(telemetry.c.trial_id == found.id).order_by(telemetry.c.position)
    rows = connection.execute(series).mappings().all()
    samples = (LastSample(metric=r["metric"], unit=r["unit"], value=r["samples"][-1]) for r in rows if r["samples"])
    return found.finished_at, tuple(samples)
