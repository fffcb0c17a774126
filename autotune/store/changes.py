"""SQL for a worker that follows its study: whether anything changed since it last looked, and what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Text, cast, func, or_, select

from autotune.records import FINISHED, TrialRecord, TrialRole, TrialState, seconds_between
from autotune.store.reported import AT_ONCE
from autotune.store.tables import regimes, repetitions, trials
from autotune.store.trials import fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What can tell that a study has changed. `newest_id`: of its trials; `under_way`: ids of search trials that run."""

    counts: Mapping[tuple[TrialRole, TrialState], int]
    newest_id: int
    n_regimes: int
    under_way: frozenset[int]

    def n_finished(self, *roles: TrialRole) -> int:
        """Finished trials in these roles."""
        return sum(n for (role, state), n in self.counts.items() if role in roles and state in FINISHED)


def fetch_pulse(connection: Connection, study_id: int) -> Pulse:
    """The study's pulse: counted on an index, without reading a trial."""
    ours = trials.c.study_id == study_id
    grouped = select(trials.c.role, trials.c.state, func.count()).where(ours).group_by(trials.c.role, trials.c.state)
    # Asked for apart, and from the newest down: PostgreSQL would read every row for the largest id of each group.
    newest = select(trials.c.id).where(ours).order_by(trials.c.id.desc()).limit(1)
    running = select(trials.c.id).where(trials.c.study_id == study_id, trials.c.role == "search", trials.c.state == "running")
    return Pulse(
        counts={(role, state): n for role, state, n in connection.execute(grouped)},
        newest_id=connection.execute(newest).scalar() or 0,
        n_regimes=connection.execute(select(func.count()).where(regimes.c.study_id == study_id)).scalar_one(),
        under_way=frozenset(connection.execute(running).scalars()),
    )


def fetch_since(connection: Connection, study_id: int, after_id: int, among: Collection[int]) -> list[TrialRecord]:
    """The finished search trials that were begun after the one of that id, or whose id is `among` these."""
    later = or_(trials.c.id > after_id, trials.c.id.in_(tuple(among))) if among else trials.c.id > after_id
    ours = (trials.c.study_id == study_id, trials.c.role == "search", trials.c.state.in_(FINISHED))
    ids = list(connection.execute(select(trials.c.id).where(*ours, later)).scalars())
    # By their ids, so that none of the statements that gather a record walks through the study.
    return fetch(connection, trials.c.id.in_(ids)) if ids else []


def fetch_digests(connection: Connection, study_id: int) -> list[tuple[int, str]]:
    """Number and candidate's digest of every finished search trial, by number."""
    ours = (trials.c.study_id == study_id, trials.c.role == "search", trials.c.state.in_(FINISHED))
    wanted = select(trials.c.number, trials.c.candidate_digest).where(*ours).order_by(trials.c.number)
    return [(number, digest) for number, digest in connection.execute(wanted)]


def fetch_numbered(connection: Connection, study_id: int, numbers: Collection[int]) -> list[TrialRecord]:
    """Those search trials, by number, whatever their state; numbers that are not stored are left out."""
    ordered, found = sorted(numbers), []
    for i in range(0, len(ordered), AT_ONCE):
        some = trials.c.number.in_(ordered[i : i + AT_ONCE])
        found += fetch(connection, trials.c.study_id == study_id, trials.c.role == "search", some)
    return found


def fetch_repeated(connection: Connection, study_id: int) -> list[TrialRecord]:
    """The complete references, and the complete search trials that were measured again, by role and number."""
    again = trials.c.id.in_(select(repetitions.c.of_trial_id))
    ours = (trials.c.study_id == study_id, trials.c.state == "complete", trials.c.role.in_(("reference", "search")))
    return fetch(connection, *ours, or_(trials.c.role == "reference", again))


def fetch_last(
    connection: Connection,
    study_id: int,
    n: int,
    states: Collection[TrialState] = FINISHED,
    before: int | None = None,
) -> list[TrialRecord]:
    """The `n` search trials of the highest numbers in these states, only numbers below `before` if given; by number."""
    ours = [trials.c.study_id == study_id, trials.c.role == "search", trials.c.state.in_(tuple(states))]
    ours += [] if before is None else [trials.c.number < before]
    highest = select(trials.c.number).where(*ours).order_by(trials.c.number.desc()).limit(n)
    return fetch_numbered(connection, study_id, list(connection.execute(highest).scalars()))


def fetch_ended_after(connection: Connection, study_id: int, instant: str) -> list[TrialRecord]:
    """The finished search trials that ended after that instant (ISO 8601), by number."""
    ours = (trials.c.study_id == study_id, trials.c.role == "search", trials.c.state.in_(FINISHED))
    return fetch(connection, *ours, trials.c.finished_at > instant)


def fetch_flagged(connection: Connection, study_id: int, flag: str) -> list[TrialRecord]:
    """The finished search trials one of whose own flags holds this text, by number."""
    ours = (trials.c.study_id == study_id, trials.c.role == "search", trials.c.state.in_(FINISHED))
    wanted = select(trials.c.number).where(*ours, cast(trials.c.flags, Text).contains(flag, autoescape=True))
    return fetch_numbered(connection, study_id, list(connection.execute(wanted).scalars()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedTrials:
    """Finished search trials without a result that share state, reason and stage; the message is the first one's."""

    state: TrialState
    reason: str
    stage: str
    n: int
    message: str


def fetch_rejections(connection: Connection, study_id: int) -> list[RejectedTrials]:
    """By state, reason and stage, the most frequent first."""
    ours = (trials.c.study_id == study_id, trials.c.role == "search", trials.c.state.in_(("rejected", "crashed")))
    kinds = (trials.c.state, trials.c.reject_reason, trials.c.reject_stage)
    grouped = connection.execute(select(*kinds, func.count(), func.min(trials.c.id)).where(*ours).group_by(*kinds)).all()
    wanted = select(trials.c.id, trials.c.reject_message).where(trials.c.id.in_([first for *_, first in grouped]))
    said = {trial_id: message for trial_id, message in connection.execute(wanted)}
    found = [
        RejectedTrials(state=state, reason=reason or "", stage=stage or "", n=n, message=said.get(first) or "")
        for state, reason, stage, n, first in grouped
    ]
    return sorted(found, key=lambda r: (-r.n, r.reason, r.stage))


def fetch_measured_s(
    connection: Connection, study_id: int, roles: Collection[TrialRole], states: Collection[TrialState]
) -> float:
    """Seconds that the trials in these roles and states took together."""
    ours = (trials.c.study_id == study_id, trials.c.role.in_(tuple(roles)), trials.c.state.in_(tuple(states)))
    wanted = select(trials.c.started_at, trials.c.finished_at).where(*ours)
    return sum(seconds_between(began, ended) for began, ended in connection.execute(wanted))


def fetch_rounds_s(connection: Connection, study_id: int, after_round: int) -> float:
    """Seconds that the finalists' rounds took, those beyond `after_round` that began since two things last happened.

    A trial of the search was finished, and the machine changed.
    """
    searched = select(func.max(trials.c.finished_at)).where(trials.c.study_id == study_id, trials.c.role == "search")
    changed = select(func.max(regimes.c.since)).where(regimes.c.study_id == study_id)
    since = max(connection.execute(last).scalar() or "" for last in (searched, changed))
    ours = (trials.c.study_id == study_id, trials.c.role == "final", trials.c.state.in_(FINISHED))
    wanted = (
        select(trials.c.started_at, trials.c.finished_at)
        .join(repetitions, repetitions.c.trial_id == trials.c.id)
        .where(*ours, repetitions.c.round > after_round)
    )
    return sum(seconds_between(began, ended) for began, ended in connection.execute(wanted) if (began or "") >= since)
