"""Store: all that is read from and written to our tables; each call is one transaction, repeated while the database is away."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, select

from autotune.candidate import Candidate
from autotune.errors import StoreError
from autotune.fingerprint import DeviceFingerprint
from autotune.records import Estimate, Regime, RepeatedRole, Series, TrialRecord, TrialRole, TrialState
from autotune.store import failed_tries, reported, schema, studies
from autotune.store import trials as of_trials
from autotune.store.connection import WRITE, make_engine, parse_url, shown
from autotune.store.crew import StudyCrew
from autotune.store.failed_tries import FailedTry
from autotune.store.reading import StudyReader
from autotune.store.repetitions import BegunRepetition, begin_reference, begin_repetition
from autotune.store.retry import Patience, with_retry
from autotune.store.studies import StudyRow
from autotune.store.tables import pareto, trials
from autotune.store.trials import Kept, RunningTrial
from autotune.store.worker import WorkerIdentity

_T = TypeVar("_T")
RETRY_S = 60.0
"""How long a call waits for a database that went away: a PostgreSQL restart or a failover takes seconds to tens of seconds."""

SEARCHED: tuple[TrialRole, ...] = ("search",)
COMPARABLE: tuple[TrialRole, ...] = ("search", "reference")
"""Roles that are measured under one load, so that one's result may stand for another's."""


def open_store(url: str, *, create: bool = True, retry_s: float = RETRY_S) -> Store:
    """The database at `url`, with exactly the tables that this version writes; made if it has none of ours and `create`.

    Tables of Optuna may be there already or come later. Raises StoreError when the database cannot be reached, has no tables
    and `create` is False, or has tables of another revision (which `autotune db upgrade` mends; nothing is upgraded here);
    EnvironmentProblem when the driver is missing.
    """
    parsed = parse_url(url)
    if not create:
        _require_file(str(parsed.database), parsed.get_backend_name(), shown(parsed))
    engine = make_engine(parsed)
    found = schema.connected_revision(engine, Patience(for_s=retry_s))
    if found is None and not create:
        raise StoreError(f"{shown(parsed)} holds no studies. Check the storage's name, or begin: autotune start STUDY.yaml")
    if found is None:
        found = schema.migrate(parsed)[1]
    schema.require_head(found, parsed)
    return Store(engine, retry_s=retry_s)


def wait_until_there(url: str, note: Callable[[str], None]) -> None:
    """A connection was made, however long it took; `note` hears of long absences. Raises StoreError where it is refused."""
    engine = make_engine(parse_url(url))
    try:
        with_retry(lambda: engine.connect().close(), url=engine.url, patience=Patience(for_s=math.inf, note=note))
    finally:
        engine.dispose()


def existing_store(url: str) -> Store | None:
    """As `open_store`, but None where that would make a file or tables. Nothing is written."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        return None
    engine = make_engine(parsed)
    found = schema.connected_revision(engine)
    if found is None:
        engine.dispose()
        return None
    schema.require_head(found, parsed)
    return Store(engine)


def upgrade(url: str) -> tuple[str | None, str]:
    """The tables at `url` are of the newest revision; returns the revisions before (None: there were none) and after.

    One transaction: all or nothing. Raises StoreError, also when a newer autotune wrote the tables.
    """
    parsed = parse_url(url)
    _require_file(str(parsed.database), parsed.get_backend_name(), shown(parsed))
    return schema.migrate(parsed)


def _require_file(database: str, backend: str, display: str) -> None:
    if backend == "sqlite" and not Path(database).is_file():
        raise StoreError(f"there is no database {display} ({Path(database).absolute()}). Check the storage's name and folder.")


class Store(StudyReader, StudyCrew):
    """Threads may share one; a forked child finds connections of its own in it.

    A write returns when it is on disk. Reads never see half a trial. What a finished trial measured never changes; what is
    reported of its throughput is learnt anew.
    """

    def __init__(self, engine: Engine, *, retry_s: float = RETRY_S) -> None:
        self._reader = engine
        self._writer = engine.execution_options(**{WRITE: True})
        self.patience = Patience(for_s=retry_s)

    @property
    def url(self) -> str:
        """The URL with its driver and its password, for others who connect to the same database; never for messages."""
        return self._reader.url.render_as_string(hide_password=False)

    @property
    def shown_url(self) -> str:
        """The URL for messages, without the password."""
        return shown(self._reader.url)

    @contextmanager
    def waiting(self, should_stop: Callable[[], bool], note: Callable[[str], None]) -> Iterator[None]:
        """Inside the block calls wait for a database that is away until it is back, or until `should_stop` says so.

        `note` hears of it. For the thread of the study; others that share this store had better use `beat_once`.
        """
        before, self.patience = self.patience, Patience(for_s=math.inf, should_stop=should_stop, note=note)
        try:
            yield
        finally:
            self.patience = before

    def close(self) -> None:
        """No connection is open any more."""
        self._reader.dispose()

    # Studies

    def ensure_study(
        self,
        name: str,
        spec_json: Mapping[str, Any],
        spec_digest: str,
        model_digest: str,
        objectives: Sequence[str],
        environment: DeviceFingerprint,
        target: int,
    ) -> StudyRow:
        """The study `name`, made or found. Spec and target trials become the given ones.

        `spec_digest` is the caller's digest of what may not change while a study lives (engines, the knobs' choices, data,
        metric). Raises SpecError when it, the model or the objectives are not those that the study began with.
        """
        given = (name, spec_json, spec_digest, model_digest, objectives, environment, target)
        return self._write(lambda c: studies.ensure(c, *given))

    def study_alike(
        self, name: str, spec_json: Mapping[str, Any], spec_digest: str, model_digest: str, objectives: Sequence[str]
    ) -> StudyRow | None:
        """The study that `ensure_study` would go on with, None where it would make one. Raises SpecError as that does."""
        return self._read(lambda c: studies.find_alike(c, name, spec_json, spec_digest, model_digest, objectives))

    def study(self, name: str) -> StudyRow | None:
        """The study of that name, None where there is none."""
        return self._read(lambda c: studies.find(c, name))

    def study_family(self, name: str, mark: str) -> list[StudyRow]:
        """The study of that name and those whose name goes on with `mark`, by name, without reading the others."""
        return self._read(lambda c: studies.find_family(c, name, mark))

    def studies(self) -> list[StudyRow]:
        """Every study, by name."""
        return self._read(studies.find_all)

    def set_study_state(self, study_id: int, state: str) -> None:
        """The study is in `state`, a word of at most 16 letters."""
        self._write(lambda c: studies.set_state(c, study_id, state))

    def add_environment(self, environment: DeviceFingerprint) -> str:
        """The environment is stored; its key, which `begin_trial` takes."""
        self._write(lambda c: studies.insert_environment(c, environment))
        return environment.key

    def environment(self, key: str) -> DeviceFingerprint:
        """The device and library versions of that key. Raises StoreError where there are none."""
        return self._read(lambda c: studies.fetch_environment(c, key))

    def known_environment(self, key: str) -> DeviceFingerprint | None:
        """As `environment`, but None where there are none, as in a database that another version wrote."""
        return self._read(lambda c: studies.find_environment(c, key))

    # Trials, written

    def begin_trial(
        self,
        study_id: int,
        number: int,
        role: TrialRole,
        candidate: Candidate,
        worker: WorkerIdentity,
        environment_key: str | None = None,
    ) -> int:
        """The id of the trial, now running at `worker`; a running one of that number is taken over.

        `environment_key`: where it is measured, if not where the study began. Raises StoreError if the trial is finished.
        """
        return self._write(lambda c: of_trials.begin(c, study_id, number, role, candidate, worker, environment_key))

    def finish_trial(self, trial_id: int, record: TrialRecord) -> bool:
        """The finished trial is stored whole. False: it was finished before, and what was stored then stays.

        Raises StoreError if it was discarded, ValueError if the record is of another trial or holds a non-finite number.
        """
        return self._write(lambda c: of_trials.finish(c, trial_id, record))

    def bring_trial(self, study_id: int, trial_id: int, record: TrialRecord, worker: WorkerIdentity) -> Kept:
        """As `finish_trial`, also where the trial was put back meanwhile; then it is "superseded" if it was measured again."""
        return self._write(lambda c: of_trials.bring(c, study_id, trial_id, record, worker))

    def save_finished(
        self, study_id: int, record: TrialRecord, worker: WorkerIdentity, environment_key: str | None = None
    ) -> bool:
        """As `begin_trial` and `finish_trial` in one transaction; False if the same record is stored already.

        Raises StoreError when another trial of that number is finished.
        """
        try:
            return self._write(lambda c: self._begin_and_finish(c, study_id, record, worker, environment_key))
        except StoreError:
            if self._stored_alike(study_id, record):
                return False
            raise

    def discard_trial(self, trial_id: int) -> bool:
        """The running trial is gone, as if it had not begun. False: it is finished and stays, or was never there."""
        return self._write(lambda c: of_trials.discard(c, trial_id))

    def bury_trial(self, study_id: int, trial_id: int, worker: WorkerIdentity) -> bool:
        """As `discard_trial` for the trial of a dead worker, which is counted as a failed try."""
        return self._write(lambda c: failed_tries.bury(c, study_id, trial_id, worker))

    def add_failed_try(
        self, study_id: int, role: TrialRole, candidate: Candidate, worker: WorkerIdentity, failed: FailedTry
    ) -> None:
        """A try whose process died or had to be ended is counted."""
        self._write(lambda c: failed_tries.add(c, study_id, role, candidate, worker, failed))

    def failed_tries(self, study_id: int, role: TrialRole, candidate: Candidate, number: int) -> list[FailedTry]:
        """The failed tries that count when the candidate is to be tried as trial `number` of that role."""
        return self._read(lambda c: failed_tries.fetch(c, study_id, role, candidate, number))

    def heartbeat(self, worker_id: str) -> int:
        """The worker was just heard of; how many trials it runs."""
        return self._write(lambda c: of_trials.beat(c, worker_id))

    def beat_once(self, worker_id: str) -> None:
        """As `heartbeat`, from any thread, in a single try. Raises SQLAlchemyError where the database is away."""
        with self._writer.begin() as connection:
            of_trials.beat(connection, worker_id)

    # Repetitions and regimes

    def begin_repetition(
        self,
        study_id: int,
        of: TrialRecord,
        role: RepeatedRole,
        round_: int,
        worker: WorkerIdentity,
        environment_key: str | None = None,
    ) -> BegunRepetition | None:
        """The trial's candidate, to be measured again for this round; None when another worker has or had it."""
        return self._write(lambda c: begin_repetition(c, study_id, of, role, round_, worker, environment_key))

    def begin_reference(
        self, study_id: int, candidate: Candidate, worker: WorkerIdentity, environment_key: str | None = None
    ) -> tuple[int, int]:
        """The id and the number of a new reference, which no other worker is given although many may ask at once."""
        return self._write(lambda c: begin_reference(c, study_id, candidate, worker, environment_key))

    def regimes(self, study_id: int) -> list[Regime]:
        """The regimes that were noted, from the second on; the first began with the study."""
        return self._read(lambda c: reported.fetch_regimes(c, study_id))

    def add_regime(self, study_id: int, regime: Regime) -> bool:
        """The regime is stored. False: another worker noted one of that number before, which stays."""
        return self._write(lambda c: reported.add_regime(c, study_id, regime))

    def set_reported(self, study_id: int, found: Mapping[tuple[TrialRole, int], Mapping[str, Estimate]]) -> None:
        """What is reported of these complete trials, by role and number, and metric of LOADED. What they measured stays."""
        self._write(lambda c: reported.set_reported(c, study_id, found))

    # Trials, read

    def trials(
        self, study_id: int, states: Collection[TrialState] | None = None, roles: Collection[TrialRole] | None = None
    ) -> list[TrialRecord]:
        """The trials in any of the states and roles (None: all), by role and number, without their telemetry."""
        where: list[ColumnElement[bool]] = [trials.c.study_id == study_id]
        where += [] if states is None else [trials.c.state.in_(tuple(states))]
        where += [] if roles is None else [trials.c.role.in_(tuple(roles))]
        return self._read(lambda c: of_trials.fetch(c, *where))

    def trial(self, study_id: int, number: int, role: TrialRole = "search") -> TrialRecord:
        """One trial, without its telemetry. Raises StoreError where there is none of that number."""
        found = self._read(lambda c: of_trials.fetch(c, _one(study_id, number, role)))
        if not found:
            raise StoreError(f"the study has no {role} trial {number} in {self.shown_url}. See them all: autotune trials STUDY")
        return found[0]

    def telemetry(self, study_id: int, number: int, role: TrialRole = "search") -> tuple[Series, ...]:
        """The telemetry of one trial; empty where none was taken."""
        return self._read(lambda c: of_trials.fetch_telemetry(c, _one(study_id, number, role)))

    def find_finished(
        self, study_id: int, candidate: Candidate, roles: Collection[TrialRole] = COMPARABLE
    ) -> TrialRecord | None:
        """The newest complete trial of an equal candidate, else the newest rejected one, else None; crashes do not count."""
        return self._read(lambda c: of_trials.fetch_finished(c, study_id, candidate, roles))

    def running(self, study_id: int) -> list[RunningTrial]:
        """The trials that were begun and not finished, with who began them."""
        return self._read(lambda c: of_trials.fetch_running(c, study_id))

    def counts(self, study_id: int, roles: Collection[TrialRole] = SEARCHED) -> dict[TrialState, int]:
        """How many trials are in each state; every state is there."""
        return self._read(lambda c: of_trials.fetch_counts(c, study_id, roles))

    def next_number(self, study_id: int, role: TrialRole) -> int:
        """One more than the highest number of that role, from 0; for roles that Optuna does not number."""
        highest = select(func.max(trials.c.number)).where(trials.c.study_id == study_id, trials.c.role == role)
        found: int | None = self._read(lambda c: c.execute(highest).scalar())
        return 0 if found is None else found + 1

    # The front

    def set_front(self, study_id: int, numbers: Collection[int]) -> None:
        """The front is these search trials and no others. Raises ValueError when one is not stored."""
        self._write(lambda c: studies.set_front(c, study_id, numbers))

    def front_numbers(self, study_id: int) -> tuple[int, ...]:
        """The numbers of the search trials in the front, ascending."""
        return self._read(lambda c: studies.front_numbers(c, study_id))

    def front(self, study_id: int) -> list[TrialRecord]:
        """The trials in the front, by number, without reading the others."""
        members = select(pareto.c.trial_id).where(pareto.c.study_id == study_id)
        return self._read(lambda c: of_trials.fetch(c, trials.c.id.in_(members)))

    # Transactions

    def _read(self, ask: Callable[[Connection], _T]) -> _T:
        return self._within(self._reader, ask)

    def _write(self, change: Callable[[Connection], _T]) -> _T:
        """`change` may run again after its commit was lost sight of, so every change here can be repeated."""
        return self._within(self._writer, change)

    def _within(self, engine: Engine, work: Callable[[Connection], _T]) -> _T:
        def once() -> _T:
            with engine.begin() as connection:
                return work(connection)

        return with_retry(once, url=engine.url, patience=self.patience)

    def _begin_and_finish(
        self, c: Connection, study_id: int, record: TrialRecord, worker: WorkerIdentity, environment_key: str | None
    ) -> bool:
        trial_id = of_trials.begin(c, study_id, record.number, record.role, record.candidate, worker, environment_key)
        return of_trials.finish(c, trial_id, record)

    def _stored_alike(self, study_id: int, record: TrialRecord) -> bool:
        stored = self._read(lambda c: of_trials.fetch(c, _one(study_id, record.number, record.role)))
        return bool(stored) and stored[0].as_json() == record.as_json()


def _one(study_id: int, number: int, role: TrialRole) -> ColumnElement[bool]:
    return and_(trials.c.study_id == study_id, trials.c.role == role, trials.c.number == number)
