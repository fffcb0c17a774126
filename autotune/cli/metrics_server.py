"""What /metrics shows of a study, from its database, and where it is served."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from autotune.cli.saying import say
from autotune.errors import SpecError, StoreError
from autotune.pareto import hypervolume
from autotune.records import TrialRecord
from autotune.report.prometheus import Durations, ErrorSample, StudySample, registry_of, serve
from autotune.spec.model import StudySpec
from autotune.store.figures import StudyFigures
from autotune.store.repository import Store, open_store
from autotune.store.studies import StudyRow
from autotune.study.kinds import parts_of
from autotune.study.objectives import Objective, objectives_of
from autotune.study.presence import STATES, Presence, presence_of

LOOPBACK = "127.0.0.1"
_RETRY_S = 2.0
"""A scrape waits so long for a database that is away: Prometheus gives up after 10 s and asks again anyway."""
_LAG = 64
"""So many ids are looked at again: on PostgreSQL a lower id may become visible after a higher one."""


class StudyWatch:
    """Looks at a study for each scrape; durations are read once for each trial. Threads may share one."""

    def __init__(self, store: Store, name: str, spec: StudySpec) -> None:
        self._store, self._name, self._spec = store, name, spec
        self._trial_s, self._stage_s = Durations("role"), Durations("stage")
        self._below, self._seen = 0, set[int]()
        self._lock = threading.Lock()

    def look(self) -> StudySample | None:
        """The study now; None while the database is away, and before the study has begun."""
        with self._lock:
            try:
                row = self._store.study(self._name)
                return None if row is None else self._sample(row)
            except StoreError:
                return None

    def _sample(self, row: StudyRow) -> StudySample:
        figures = self._store.figures(row.id, self._below)
        self._count(figures)
        presence = presence_of(self._store, row)
        front = self._store.front(row.id)
        references = self._store.trials(row.id, ["complete"], ["reference"])
        reference = references[-1] if references else None
        objectives = objectives_of(self._spec)
        searched, error = figures.n_trials.get("search", {}), figures.last_error
        return StudySample(
            study=row.name,
            state=presence.state,
            states=STATES,
            is_paused=presence.pause is not None,
            began_at=row.created_at,
            n_trials={state: searched.get(state, 0) for state in ("complete", "rejected", "crashed")},
            n_running=searched.get("running", 0),
            target=row.target_trials,
            n_repetitions={role: _n_finished(figures, role) for role in ("final", "canary")},
            n_front=len(front),
            n_workers=_workers(presence),
            best=best_of(front, objectives),
            reference=best_of([] if reference is None else [reference], objectives),
            hypervolume_ratio=None if reference is None else hypervolume_ratio(front, reference, objectives),
            trial_s=self._trial_s,
            stage_s=self._stage_s,
            last_error=None
            if error is None
            else ErrorSample(
                trial=error.number,
                role=error.role,
                reason=error.reason,
                stage=error.stage,
                message=error.message,
                at=error.finished_at,
            ),
            telemetry=[(s.metric, s.unit, s.value) for s in figures.telemetry],
            telemetry_at=figures.telemetry_at,
        )

    def _count(self, figures: StudyFigures) -> None:
        highest = self._below
        for trial in figures.finished:
            highest = max(highest, trial.trial_id)
            if trial.trial_id in self._seen:
                continue
            self._seen.add(trial.trial_id)
            if trial.duration_s is not None:
                self._trial_s.add(trial.role, trial.duration_s)
            for stage, seconds in trial.stage_s.items():
                self._stage_s.add(stage, seconds)
        lowest = highest if figures.lowest_running is None else min(highest, figures.lowest_running - 1)
        self._below = max(self._below, lowest - _LAG)
        self._seen = {i for i in self._seen if i > self._below}


class PartsWatch:
    """As `StudyWatch`, for a study that may be in parts, one for each kind of device: all that are there, by name."""

    def __init__(self, store: Store, spec: StudySpec) -> None:
        self._store, self._spec = store, spec
        self._watches: dict[str, StudyWatch] = {}

    def look(self) -> list[StudySample] | None:
        """The parts now; None while the database is away, and before the study has begun."""
        try:
            names = [row.name for row in parts_of(self._spec.study, self._store)]
        except StoreError:
            return None
        # One statement, so that two scrapes at once make one watch of a part.
        watches = [self._watches.setdefault(name, StudyWatch(self._store, name, self._spec)) for name in names]
        samples = [sample for watch in watches if (sample := watch.look()) is not None]
        return samples or None


def _n_finished(figures: StudyFigures, role: str) -> int:
    return sum(n for r, states in figures.n_trials.items() if r == role for state, n in states.items() if state != "running")


def _workers(presence: Presence) -> dict[str, int]:
    counts = {state: sum(w.state == state for w in presence.workers) for state in ("working", "paused")}
    return {**counts, "lost": len(presence.lost)}


def best_of(front: Sequence[TrialRecord], objectives: Sequence[Objective]) -> dict[str, float]:
    """The best value of each objective among the records; an objective that none of them has is left out."""
    found = {}
    for objective in objectives:
        values = [v for r in front if (v := objective.read(r)) is not None]
        if values:
            found[objective.name] = max(values) if objective.maximize else min(values)
    return found


def hypervolume_ratio(front: Sequence[TrialRecord], reference: TrialRecord, objectives: Sequence[Objective]) -> float | None:
    """The volume that the front dominates above 0, where each objective is its ratio to the reference, more being better.

    Of what is to be small the ratio is turned over, so the reference alone has 1. None where the reference has a value that
    nothing can be divided by, or none.
    """
    points = [_ratios(r, reference, objectives) for r in front]
    if _ratios(reference, reference, objectives) is None:
        return None
    usable = [p for p in points if p is not None]
    return float(hypervolume(np.array(usable), np.zeros(len(objectives)))) if usable else 0.0


def _ratios(record: TrialRecord, reference: TrialRecord, objectives: Sequence[Objective]) -> list[float] | None:
    found = []
    for objective in objectives:
        value, base = objective.read(record), objective.read(reference)
        if value is None or base is None or value * base <= 0:
            return None
        grows = objective.maximize == (base > 0)  # a score below 0, such as a negated error, gets better towards 0
        found.append(value / base if grows else base / value)
    return found


def address_of(listen: str) -> tuple[str, int]:
    """Host and port of "[HOST:]PORT"; loopback where no host is named. Raises SpecError."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or int(port) > 65535 or (listen.count(":") > 1 and "[" not in listen) or listen.startswith(":"):
        raise SpecError(f"--metrics {listen}: allowed: [HOST:]PORT with PORT from 0 to 65535, such as 9464 or 0.0.0.0:9464")
    return host or LOOPBACK, int(port)


@contextmanager
def serving(listen: str | None, spec: StudySpec, storage: str) -> Iterator[None]:
    """/metrics of the study, or of its parts, is served while the block runs, unless `listen` is None.

    Raises SpecError or EnvironmentProblem.
    """
    if listen is None:
        yield
        return
    host, port = address_of(listen)
    store = open_store(storage, retry_s=_RETRY_S)
    end = _served(PartsWatch(store, spec), host, port)
    try:
        yield
    finally:
        end()
        store.close()


def _served(watch: PartsWatch, host: str, port: int) -> Callable[[], None]:
    address, end = serve(registry_of(watch.look), host, port)
    say(f"metrics: {address}")
    if host not in (LOOPBACK, "::1", "localhost"):
        text = f"whoever reaches {host} can read the study's metrics; there is no login"
        say(text, level=logging.WARNING, before="warning: ")
    return end
