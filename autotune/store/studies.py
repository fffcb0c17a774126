"""SQL for studies, their environments and their fronts. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, delete, insert, or_, select, update

from autotune.errors import SpecError, SpecProblem, StoreError
from autotune.fingerprint import DeviceFingerprint
from autotune.store.tables import database_now, environments, pareto, studies, trials
from autotune.store.trials import insert_missing

_AT_MOST_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """A study as it is stored. `environment_key`: the device and library versions on which it began."""

    id: int
    name: str
    state: str
    target_trials: int
    objectives: tuple[str, ...]
    spec: Mapping[str, Any]
    spec_digest: str
    model_digest: str
    environment_key: str
    created_at: str


def ensure(
    connection: Connection,
    name: str,
    spec: Mapping[str, Any],
    spec_digest: str,
    model_digest: str,
    objectives: Sequence[str],
    environment: DeviceFingerprint,
    target: int,
) -> StudyRow:
    """The study, made or found; its spec and target are the given ones. Raises SpecError where what may not change did."""
    insert_environment(connection, environment)
    values: dict[str, Any] = {
        "spec_digest": spec_digest,
        "model_digest": model_digest,
        "objectives": list(objectives),
        "environment_key": environment.key,
        "created_at": database_now(connection.dialect.name),
        "state": "new",
    }
    changing: dict[str, Any] = {"spec": dict(spec), "target_trials": target}
    insert_missing(connection, studies, {"name": name, **values, **changing})
    found = find_alike(connection, name, spec, spec_digest, model_digest, objectives)
    if found is None:
        raise StoreError(f"the study {name} vanished while it was being opened; start it again.")
    connection.execute(update(studies).where(studies.c.id == found.id).values(**changing))
    return replace(found, spec=dict(spec), target_trials=target)


def find_alike(
    connection: Connection,
    name: str,
    spec: Mapping[str, Any],
    spec_digest: str,
    model_digest: str,
    objectives: Sequence[str],
) -> StudyRow | None:
    """The study of that name, if there is one. Raises SpecError where what may not change did."""
    found = find(connection, name)
    if found is not None and (problems := list(_differences(found, spec, spec_digest, model_digest, tuple(objectives)))):
        raise SpecError(problems)
    return found


def insert_environment(connection: Connection, environment: DeviceFingerprint) -> None:
    """The device and library versions are stored under their key."""
    values = {"key": environment.key, "device": environment.device, "fingerprint": asdict(environment)}
    insert_missing(connection, environments, {**values, "created_at": database_now(connection.dialect.name)})


def fetch_environment(connection: Connection, key: str) -> DeviceFingerprint:
    """The environment stored under `key`. Raises StoreError."""
    found = connection.execute(select(environments.c.fingerprint).where(environments.c.key == key)).scalar()
    if found is None:
        raise StoreError(f"no environment {key} is stored.")
    try:
        return DeviceFingerprint.from_json(found)
    except TypeError as exc:
        raise StoreError(f"environment {key} was stored by another version of autotune: {exc}. Try: update autotune") from exc


def find_environment(connection: Connection, key: str) -> DeviceFingerprint | None:
    """The environment stored under `key`; None where there is none, or one that this version cannot read."""
    try:
        return fetch_environment(connection, key)
    except StoreError:
        return None


def _differences(
    found: StudyRow, spec: Mapping[str, Any], spec_digest: str, model_digest: str, objectives: tuple[str, ...]
) -> Iterator[SpecProblem]:
    other_name = f"what the study {found.name} began with, or another name as `study:`"
    if found.model_digest != model_digest:
        yield SpecProblem(
            key="model", found=f"{model_digest[:12]}, the study has {found.model_digest[:12]}", allowed=other_name
        )
    if found.objectives != objectives:
        now, then = ", ".join(objectives), ", ".join(found.objectives)
        yield SpecProblem(key="objectives", found=f"{now}; the study has {then}", allowed=other_name)
    if found.spec_digest != spec_digest:
        # Where results are kept is free to change, and may hold a password.
        changed = [c for c in changed_keys(found.spec, spec) if not c.startswith(("storage:", "artifacts:", "cache"))]
        more = f" and {len(changed) - _AT_MOST_SHOWN} more" if len(changed) > _AT_MOST_SHOWN else ""
        what = "; ".join(changed[:_AT_MOST_SHOWN]) + more or "another choice of engines or knobs, or other code of the metric"
        yield SpecProblem(key="study", found=f"the study {found.name} with changes: {what}", allowed=other_name)


def changed_keys(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key: old → new` for each leaf that differs, in the order of the old document."""
    for key in dict.fromkeys((*then, *now)):
        old, new = then.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} → {new}"


def find(connection: Connection, name: str) -> StudyRow | None:
    """The study of that name."""
    row = connection.execute(select(studies).where(studies.c.name == name)).mappings().one_or_none()
    return None if row is None else _study(row)


def find_family(connection: Connection, name: str, mark: str) -> list[StudyRow]:
    """The study of that name and those whose name goes on with `mark`, by name."""
    begins = studies.c.name.startswith(f"{name}{mark}", autoescape=True)
    rows = connection.execute(select(studies).where(or_(studies.c.name == name, begins)).order_by(studies.c.name)).mappings()
    # SQLite's LIKE takes a for A.
    return [_study(row) for row in rows if row["name"] == name or row["name"].startswith(f"{name}{mark}")]


def find_all(connection: Connection) -> list[StudyRow]:
    """Every study, by name."""
    return [_study(row) for row in connection.execute(select(studies).order_by(studies.c.name)).mappings()]


def _study(row: RowMapping) -> StudyRow:
    return StudyRow(**{**row, "objectives": tuple(row["objectives"])})


def set_state(connection: Connection, study_id: int, state: str) -> None:
    """The study is in `state`."""
    connection.execute(update(studies).where(studies.c.id == study_id).values(state=state))


def set_front(connection: Connection, study_id: int, numbers: Collection[int]) -> None:
    """The front is these search trials and no others; those that stay keep the time since when they are in it."""
    # The study's row is locked first, so that of two who rewrite the front one waits for the other.
    connection.execute(select(studies.c.id).where(studies.c.id == study_id).with_for_update())
    ours = and_(trials.c.study_id == study_id, trials.c.role == "search", trials.c.number.in_(tuple(numbers)))
    wanted = {row.id: row.number for row in connection.execute(select(trials.c.id, trials.c.number).where(ours))}
    if missing := set(numbers) - set(wanted.values()):
        raise ValueError(f"the front names trials that are not stored: {sorted(missing)}")
    present = set(connection.execute(select(pareto.c.trial_id).where(pareto.c.study_id == study_id)).scalars())
    gone = present - set(wanted)
    if gone:
        connection.execute(delete(pareto).where(pareto.c.study_id == study_id, pareto.c.trial_id.in_(gone)))
    for trial_id in set(wanted) - present:
        row = {"study_id": study_id, "trial_id": trial_id, "since": database_now(connection.dialect.name)}
        connection.execute(insert(pareto).values(**row))


def front_numbers(connection: Connection, study_id: int) -> tuple[int, ...]:
    """The numbers of the search trials in the front, ascending."""
    wanted = select(trials.c.number).join(pareto, pareto.c.trial_id == trials.c.id).where(pareto.c.study_id == study_id)
    return tuple(connection.execute(wanted.order_by(trials.c.number)).scalars())
