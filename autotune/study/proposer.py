"""Proposer: Optuna's ask and tell for one study, with the clean-up that its own retry does not do.

Optuna's tables share the database with ours. Our rows are written first and `tell` comes last, so that after a crash a
trial that Optuna still calls running is either finished in our tables, and told, or put back.
"""

from __future__ import annotations

import logging
import random
import time
import warnings
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from autotune.candidate import Candidate
from autotune.errors import StoreError
from autotune.records import TrialRecord
from autotune.search.history import OUTCOME
from autotune.space.sampling import PAIR, candidate_from_params, nearest_in, params_from_candidate, random_candidate, suggest
from autotune.store.connection import BUSY_TIMEOUT_S, PAGES_KIB, parse_url, server_options
from autotune.store.retry import Patience, with_retry
from autotune.study.edits import check_edits, move_waiting
from autotune.study.objectives import objectives_of
from autotune.study.outcome import outcome_of, shown_attributes
from autotune.study.plan import StudyPlan
from autotune.study.scoring import objective_values, violations
from autotune.study.strategy import fresh_seed, strategy_named

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_REFERENCE = "autotune:reference"
_SUSPECT = "autotune:suspect"
_WARM = "autotune:warm_start"
_OPEN_ATTEMPTS = 6
_BUILD_ATTEMPTS = 4


def _patient(method: Callable[Concatenate[Proposer, _P], _T]) -> Callable[Concatenate[Proposer, _P], _T]:
    """The method, repeated as a whole while the database is away; so each of them must come to the same when it runs twice."""

    @wraps(method)
    def call(self: Proposer, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self.patiently(lambda: method(self, *args, **kwargs))

    return call


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate to try, under the number that Optuna gave it."""

    number: int
    candidate: Candidate


class Proposer:
    """The search of one study. Not safe for threads; any number of processes may each have one on the same database.

    `storage`: a database's URL, or a storage of Optuna's that is open already. `strategy` replaces the study's. With `patience`
    every call waits for a database that is away, as those of our own store do. `remember`: as `TrialWindow` takes it, for a
    study that may be long already.
    """

    def __init__(
        self,
        plan: StudyPlan,
        storage: str | optuna.storages.BaseStorage,
        worker_id: str,
        strategy: str | None = None,
        patience: Patience | None = None,
        remember: Collection[int] = (),
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._plan, self._worker_id = plan, worker_id
        self._strategy = strategy_named(strategy or plan.spec.search.strategy, plan)
        self._url = parse_url(storage) if isinstance(storage, str) and patience is not None else None
        self._patience = patience
        self._study = self._opened(storage, remember)
        self.patiently(lambda: check_edits(self._study, plan.space, plan.spec))
        self._random = random.Random(fresh_seed(plan.spec.seed, worker_id, self._n_begun()))

    def _opened(self, storage: str | optuna.storages.BaseStorage, remember: Collection[int]) -> optuna.Study:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self.patiently(lambda: _open_study(self._plan, storage, remember))
        except (SQLAlchemyError, RuntimeError, optuna.exceptions.StorageInternalError) as exc:
            raise StoreError(f"Optuna cannot open its tables for the study {self._plan.spec.study!r}: {exc}") from exc

    def patiently(self, call: Callable[[], _T]) -> _T:
        """The call's answer, as soon as the database gives it. Raises StoreError as `with_retry` does."""
        if self._url is None or self._patience is None:
            return call()
        return with_retry(call, url=self._url, patience=self._patience, reset=self._forget_session)

    def _forget_session(self) -> None:
        """Optuna's next call begins a session of its own; the one that failed would fail again."""
        storage: Any = getattr(self, "_study", None) and self._study._storage
        session = getattr(getattr(storage, "_backend", storage), "scoped_session", None)
        if session is not None:
            try:
                session.remove()
            except Exception as exc:  # closing what is broken may fail as well; it is forgotten all the same
                _log.debug("a session of Optuna's could not be closed: %s", exc)

    @_patient
    def ask(self, n_finished: int) -> Proposal:
        """The next candidate; enqueued ones come first. `n_finished` decides which sampler proposes.

        A trial that another worker takes for abandoned, and puts back before all of it was drawn, is left to whoever asks next.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        while True:
            seed = fresh_seed(self._plan.spec.seed, self._worker_id, self._n_begun())
            self._study.sampler = self._strategy.sampler(n_finished, seed)
            try:
                trial = self._study.ask()  # some samplers note in it what they proposed
                return Proposal(number=trial.number, candidate=suggest(trial, self._plan.space))
            except UpdateFinishedTrialError as exc:
                _log.debug("a trial was put back while it was asked for: %s", exc)

    @_patient
    def tell(
        self, number: int, record: TrialRecord, known: Sequence[TrialRecord], note: Mapping[str, Any] | None = None
    ) -> None:
        """Optuna knows the trial's values and constraints. Telling a trial twice changes nothing.

        `known`: the trials whose worst value stands for one that was not measured; those that hold the worst do.
        """
        if not self.is_running(number):
            return
        try:
            self._tell(number, record, known, note or {})
        except (ValueError, RuntimeError):
            if self.is_running(number):
                raise
            # another worker, which took this one for dead, told it between the question and the answer

    def _tell(self, number: int, record: TrialRecord, known: Sequence[TrialRecord], note: Mapping[str, Any]) -> None:
        import optuna

        frozen = self._frozen(number)
        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        for name, value in violations(record, self._plan.spec).items():
            if name not in frozen.constraints:  # a call that is repeated has set some already
                trial.set_constraint(name, value)
        told = outcome_of(record, self._plan.spec, duplicate="duplicate_of" in note)
        for name, value in {**shown_attributes(record), **note, OUTCOME: told}.items():
            trial.set_user_attr(name, value)
        self._study.tell(number, objective_values(record, self._plan.spec, known))

    @_patient
    def note_finalists(self, records: Sequence[TrialRecord]) -> None:
        """Optuna's study names what is reported of each repeated trial; the attributes of a finished trial cannot change."""
        for record in records:
            rate, n = record.throughput_items_per_s, len(record.repetitions)
            if rate is not None and n:
                text = f"{rate.value:.6g} [{rate.low:.6g}, {rate.high:.6g}] items/s over {n} more processes"
                self._study.set_user_attr(f"trial {record.number}, measured again", text)

    @_patient
    def note_reference(self, record: TrialRecord) -> None:
        """Number 0 stands for the reference, which is measured but not part of the search (state FAIL: samplers ignore it)."""
        import optuna

        if self._study.get_trials(deepcopy=False):
            return
        attributes = {**shown_attributes(record), _REFERENCE: True, "role": "reference: the unmodified model, not searched"}
        self._study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs=attributes))

    @property
    def first_priors(self) -> tuple[Candidate, ...]:
        """The priors to ask for before the search: all, or only the certain ones where the strategy weighs the others."""
        return self._plan.certain if self._strategy.weighs_priors else self._plan.priors

    @_patient
    def enqueue_first(self, candidates: Iterable[Candidate]) -> None:
        """These are asked for first, in this order, after what waits already; each is enqueued once in the life of a study."""
        move_waiting(self._study, self._plan.space)
        for candidate in candidates:
            params = params_from_candidate(candidate, self._plan.space)
            if params is not None:
                self._study.enqueue_trial(params, skip_if_exists=True)

    @_patient
    def warm_start(self) -> dict[Candidate, str] | None:
        """What `keep_warm_start` was given when the study began, each at the nearest point of the space as it is now.

        None where nothing was given yet.
        """
        kept = self._study.user_attrs.get(_WARM)
        if kept is None:
            return None
        moved = ((nearest_in(Candidate.from_json(candidate), self._plan.space), origin) for candidate, origin in kept)
        return {candidate: origin for candidate, origin in moved if candidate is not None}

    @_patient
    def keep_warm_start(self, origins: Mapping[Candidate, str]) -> None:
        """These candidates the study begins with, each from the study that is named, whoever goes on with it, and whenever."""
        self._study.set_user_attr(_WARM, [[candidate.as_json(), origin] for candidate, origin in origins.items()])

    @_patient
    def next_build(self, is_built: Callable[[Candidate], bool], stages: Collection[str]) -> Candidate | None:
        """Whose `stages` to do before its trial comes: the first that waits to be asked for, else what the strategy names.

        None where nothing is known to be wanted. Call `note_building`, and `note_built` when it was done, or it is named again.
        """
        import optuna

        for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
            params = trial.system_attrs.get("fixed_params", {})
            if PAIR in params and not is_built(candidate := candidate_from_params(params)):
                return candidate
        if self._strategy.ahead is None:
            return None
        for _ in range(_BUILD_ATTEMPTS):
            found = self._strategy.ahead.to_prepare(self._study, stages)
            if PAIR not in found:
                return None
            if not is_built(candidate := candidate_from_params(found)):
                return candidate
            self.note_built(candidate, stages)  # a trial tried to, and failed
        return None

    def note_building(self, candidate: Candidate | None, stages: Collection[str]) -> None:
        """These stages are being done for the candidate, and trials that share their results would wait; None: no more."""
        params = None if candidate is None else params_from_candidate(candidate, self._plan.space)
        if self._strategy.ahead is not None:
            self._strategy.ahead.note_preparing(params, stages)

    def note_built(self, candidate: Candidate, stages: Collection[str]) -> None:
        """These stages were done for the candidate and cost its trial nothing, nor others that share their results."""
        params = params_from_candidate(candidate, self._plan.space)
        if self._strategy.ahead is not None and params is not None:
            self._strategy.ahead.note_prepared(params, stages)

    @_patient
    def enqueue_unseen(self, seen: Container[Candidate]) -> bool:
        """A random candidate that is not in `seen` is asked for next; False when 200 draws found none."""
        for _ in range(200):
            candidate = random_candidate(self._plan.space, self._random)
            if candidate not in seen:
                self._study.enqueue_trial(params_from_candidate(candidate, self._plan.space) or {})
                return True
        return False

    @_patient
    def put_back(self, number: int) -> None:
        """The trial is over without a result and its parameters are asked for again.

        Optuna's own retry callback would copy the dead run's constraints and attributes along with the parameters.
        """
        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return
        # Killed between two draws, a trial that was asked for by name has some of its parameters only.
        params = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
        # In this order: killed in between, a candidate is asked for twice, which is noticed, and none is lost.
        if PAIR in params:
            self._study.enqueue_trial(params)
        self._fail(number)

    @_patient
    def drop(self, number: int) -> None:
        """The trial is over without a result and is not asked for again, because another worker measures its candidate."""
        self._fail(number)

    def _fail(self, number: int) -> None:
        import optuna

        try:
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        except (ValueError, RuntimeError):
            if self.is_running(number):
                raise

    @_patient
    def suspect(self, number: int) -> bool:
        """The trial is marked, so that a worker that is just asking for it sees that another took it for abandoned.

        False when it is over already.
        """
        import optuna

        try:
            optuna.trial.Trial(self._study, self._frozen(number)._trial_id).set_user_attr(_SUSPECT, True)
        except (ValueError, RuntimeError):
            if self.is_running(number):
                raise
            return False
        return True

    @_patient
    def is_suspect(self, number: int) -> bool:
        """True when another worker marked the trial, or told or put it back already."""
        return _SUSPECT in self._frozen(number).user_attrs or not self.is_running(number)

    @_patient
    def is_running(self, number: int) -> bool:
        """False when the trial was told or put back, perhaps by another worker."""
        return not self._frozen(number).state.is_finished()

    @_patient
    def unfinished(self) -> dict[int, Candidate | None]:
        """Trials that Optuna calls running, with their candidates where they were drawn completely."""
        import optuna

        running = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        return {t.number: candidate_from_params(t.params) if PAIR in t.params else None for t in running}

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        storage = self._study._storage  # by number: a window holds not every trial
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number))

    @_patient
    def _n_begun(self) -> int:
        """How many trials Optuna has numbered."""
        trials = self._study.get_trials(deepcopy=False)
        return trials[-1].number + 1 if trials else 0


def _open_study(plan: StudyPlan, storage: str | optuna.storages.BaseStorage, remember: Collection[int]) -> optuna.Study:
    import optuna

    from autotune.study.trial_window import TrialWindow

    objectives = objectives_of(plan.spec)
    study = optuna.create_study(
        study_name=plan.spec.study,
        storage=TrialWindow(_open_storage(storage), remember) if isinstance(storage, str) else storage,
        directions=["maximize" if o.maximize else "minimize" for o in objectives],
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([o.label for o in objectives])
    return study


def _open_storage(storage_url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage. Workers that begin at once on a fresh database may each find a table that the other just made."""
    import optuna
    from sqlalchemy.exc import DBAPIError

    url = parse_url(storage_url)
    # Two writers may meet on SQLite; PostgreSQL may have been restarted since the last call.
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    if url.get_backend_name() != "sqlite":
        options = {"pool_pre_ping": True, "connect_args": server_options(url)}
    for _ in range(_OPEN_ATTEMPTS - 1):
        try:
            return _frugal(optuna.storages.RDBStorage(storage_url, engine_kwargs=options))
        except DBAPIError as exc:
            _log.info("opening Optuna's tables again after: %s", exc.orig)
            time.sleep(random.uniform(0.1, 0.5))
    return _frugal(optuna.storages.RDBStorage(storage_url, engine_kwargs=options))


def _frugal(storage: optuna.storages.RDBStorage) -> optuna.storages.RDBStorage:
    """Its connections to SQLite remember as little of the file as ours do."""
    from sqlalchemy import event

    if storage.engine.dialect.name == "sqlite":
        event.listen(storage.engine, "connect", lambda connection, _: connection.execute(f"PRAGMA cache_size=-{PAGES_KIB}"))
        storage.scoped_session.remove()
        storage.engine.dispose()  # those that there are would not hear of it
    return storage
