"""CostAwareSampler: proposes what is expected to improve the front most per second, for any study of Optuna's.

    sampler = CostAwareSampler(stages=[Stage(name="build", parameters=("precision", "batch"), decides=(0,))])
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)

It scores every candidate, or a few thousand where there are more, by

    expected hypervolume improvement × probability of being feasible / expected seconds

with a Gaussian process per objective and constraint, exact knowledge of what a stage decides, and costs that count a stage only
where no earlier trial has done it. Pending trials are taken to come out as expected.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection

from autotune.search.costs import Costs
from autotune.search.encoding import Encoding, Params, key_of
from autotune.search.gaussian import Work
from autotune.search.history import History, Response, Seen, Stage
from autotune.search.improvement import Prediction, expected_improvement
from autotune.search.remembering import MOST as MOST_REMEMBERED
from autotune.search.remembering import remembered
from autotune.search.surrogate import Expectation, Surrogate

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Array = NDArray[np.float64]
Absence = Mapping[tuple[str, Any], frozenset[str]]
MOST_CANDIDATES = 1500
FAVOUR = 2.0
"""What a favoured candidate's score is multiplied by, as docs/search-settings.md says."""
_AROUND = 24
"""Front members whose neighbours are among the candidates where those cannot be enumerated."""
_BEYOND = 0.1
_LEAST = 1e-12


class CostAwareSampler(BaseSampler):
    """See the module. Usable by itself, with ask and tell or `study.optimize`, for any number of objectives and constraints.

    `stages`: work that is done once and reused, in the order in which a trial does it; a trial says what its stages took by
    the user attribute that `history.outcome` makes. Without stages, a trial's cost is learnt from how long it took.
    `search_space`: as for Optuna's other samplers; without one it is learnt from the first `n_startup_trials`, drawn at random,
    and parameters that a choice does not have are learnt, too. `factors`: what splits a parameter's choices into factors that
    the models see one by one. `absent`: by candidate, the parameters of the space that it does not have. `favoured`: candidates
    that somebody believes in; their score counts twice. `expected`: what somebody expects of a candidate's
    response: of an objective that no stage decides, its value up to a factor, above 0 (heeded where all that was measured is,
    too); of one that a stage decides, its value up to a summand; of a constraint, its violation. Proposing raises ValueError
    where that is no such number, or there is no such objective. `overhead_s`: what a trial
    takes whatever it does. Threads may share it (`optimize(n_jobs=2)`): one asks after the other.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        n_startup_trials: int = 2,
        search_space: Mapping[str, BaseDistribution] | None = None,
        stages: Sequence[Stage] = (),
        factors: Mapping[str, Callable[[Any], tuple[Hashable, ...]]] | None = None,
        absent: Callable[[Params], frozenset[str]] | None = None,
        favoured: Sequence[Params] = (),
        expected: Mapping[Response, Expectation] | None = None,
        overhead_s: float = 0.1,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._n_startup, self._space, self._stages = n_startup_trials, search_space, tuple(stages)
        self._factors, self._absent, self._overhead_s = dict(factors or {}), absent, overhead_s
        self._favoured = [dict(params) for params in favoured]
        self._history = History()
        self._encoding: Encoding | None = None
        self._gone: Absence | None = None
        self._surrogate = Surrogate(self._stages, dict(expected or {}))
        self._prepared: dict[str, set[Hashable]] = {}
        self._preparing: dict[str, Hashable] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({"_prepared": {}, "_preparing": {}} | state, _lock=threading.Lock())

    @property
    def work(self) -> Work:
        """What the models have cost so far."""
        return self._surrogate.work

    def reseed_rng(self) -> None:
        """Draws differ from those of the sampler this one was copied from."""
        self.reseed(None)

    def reseed(self, seed: int | None) -> None:
        """Draws follow from `seed`; what was learnt stays."""
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The given space, or every parameter that a finished trial had, with its latest distribution."""
        return self._space_of(study)

    def _space_of(self, study: Study) -> dict[str, BaseDistribution]:
        if self._space is not None:
            return dict(self._space)
        found: dict[str, BaseDistribution] = {}
        for earlier in study.get_trials(deepcopy=False):
            if earlier.state.is_finished():
                found |= earlier.distributions
        return {name: d for name, d in sorted(found.items()) if not d.single()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """The candidate of the highest score; empty, so that all is drawn at random, before enough trials have finished."""
        fixed = trial.system_attrs.get("fixed_params", {})
        if not search_space or set(search_space) <= set(fixed):
            return {}
        with self._lock:
            return self._sample(study, trial, search_space)

    def to_prepare(self, study: Study, stages: Collection[str]) -> dict[str, Any]:
        """The candidate that would be proposed once these stages were done for all, of those for which one is still to be done.

        Empty where there is none. So a program that has time can do it before a trial asks for it, and say so by
        `note_prepared`. Asks for no trial.
        """
        with self._lock:
            space = self._space_of(study)
            return self._sample(study, None, space, stages) if space else {}

    def note_preparing(self, params: Params | None, stages: Collection[str]) -> None:
        """These stages are being done for the candidate, apart from any trial: who shares them has to wait. None: no more."""
        with self._lock:
            self._preparing = {} if params is None else self._keys_of(params, stages)

    def note_prepared(self, params: Params, stages: Collection[str]) -> None:
        """These stages were done for the candidate, apart from any trial; for others that share their results as well."""
        with self._lock:
            for name, key in self._keys_of(params, stages).items():
                self._prepared.setdefault(name, set()).add(key)

    def _keys_of(self, params: Params, stages: Collection[str]) -> dict[str, Hashable]:
        gone = self._absent(params) if self._absent is not None else frozenset[str]()
        kept = {name: value for name, value in params.items() if name not in gone}
        return {s.name: s.key_of(kept) for s in self._stages if s.name in stages}

    def _sample(
        self,
        study: Study,
        trial: FrozenTrial | None,
        search_space: dict[str, BaseDistribution],
        lacking: Collection[str] | None = None,
    ) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False)
        encoding = self._encoding_of(search_space, trials)
        if self._history.study not in (None, study._study_id):
            self._prepared, self._preparing = {}, {}
        self._history.update(study._study_id, trials, -1 if trial is None else trial.number, encoding.trimmed)
        if len(self._history.seen) < self._n_startup:
            return {}
        minimize = [d == StudyDirection.MINIMIZE for d in study.directions]
        if len(self._history.seen) > MOST_REMEMBERED + MOST_REMEMBERED // 5:
            self._history.forget_all_but(*remembered(self._history.seen, self._stages, minimize))
        try:
            return self._proposed(encoding, minimize, lacking)
        finally:
            encoding.forget()

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _proposed(self, encoding: Encoding, minimize: Sequence[bool], lacking: Collection[str] | None) -> dict[str, Any]:
        history, surrogate = self._history, self._surrogate
        surrogate.fit(encoding, history, len(minimize))
        if not surrogate.is_ready(len(minimize)):
            return {}
        front, corner, members = self._front(minimize)
        pool = encoding.candidates(MOST_CANDIDATES, self._rng, members, self._favoured)
        keys = encoding.groups(pool, "candidate", key_of)
        favoured = {key_of(encoding.trimmed(params)) for params in self._favoured}
        # What is known stays in the pool, which is the same list each time, and gets a score of nothing.
        known = history.known(keys.keys)
        scores = [0.0 if done else FAVOUR if key in favoured else 1.0 for key, done in zip(keys.keys, known, strict=True)]
        weights = np.array(scores)[keys.of_row]
        costs = Costs(self._stages, encoding, history, self._overhead_s, self._prepared, self._preparing)
        if lacking is not None:
            weights = weights * np.array(costs.lacks(pool, lacking))
        if not np.any(weights > 0):
            return {}
        keeps, passes = surrogate.feasible(pool)
        gain = expected_improvement(front, corner, surrogate.objectives(pool, minimize))
        seconds = costs.of(pool, passes, lacking or ())
        score = weights * gain * keeps / seconds
        if not np.any(score > 0):
            score = weights * (keeps + _LEAST) / seconds
        return dict(pool[int(np.argmax(score))])

    def _encoding_of(self, search_space: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial]) -> Encoding:
        """The encoding of the last proposal, or a new one where the space, or what is known to be absent, has changed."""
        gone = None if self._absent is not None else _learnt_absence(trials)
        if self._encoding is None or self._encoding.space != search_space or self._gone != gone:
            absent = self._absent or partial(_absent_from, gone=gone or {})
            self._encoding, self._gone = Encoding(dict(search_space), self._factors, absent), gone
        return self._encoding

    def _front(self, minimize: Sequence[bool]) -> tuple[Array, Array, list[Params]]:
        """Expected objectives of the feasible trials and the pending ones, signs turned; the corner; the best candidates."""
        feasible = [s for s in self._history.seen if _is_feasible(s, len(minimize))]
        rows: list[Params] = [*(s.params for s in feasible), *self._history.pending]
        if not rows:
            everything: list[Params] = [s.params for s in self._history.seen]
            points = _points(self._surrogate.objectives(everything, minimize))
            return np.zeros((0, len(minimize))), np.min(points, axis=0) - 1e-9, everything[-_AROUND:]
        points = _points(self._surrogate.objectives(rows, minimize))
        worst: Array = np.min(points, axis=0)
        best: Array = np.max(points, axis=0)
        span = np.where(best > worst, best - worst, np.maximum(np.abs(best), 1e-9))
        order = np.argsort(-_depth(points))
        return points, worst - _BEYOND * span, [rows[i] for i in order[:_AROUND]]


def _points(predictions: Sequence[Prediction]) -> Array:
    """The middle of each prediction, shape (n, m), signs turned so that more is better."""
    middle = [np.exp(p.mean) if p.log else p.mean for p in predictions]
    return np.stack([-v if p.minimize else v for v, p in zip(middle, predictions, strict=True)], axis=1)


def _depth(points: Array) -> Array:
    """How near to the front each point is: minus the number of points that dominate it."""
    at_least = np.all(points[None, :, :] >= points[:, None, :], axis=2)
    better = np.any(points[None, :, :] > points[:, None, :], axis=2)
    counted: Array = -np.sum(at_least & better, axis=1).astype(np.float64)
    return counted


def _is_feasible(seen: Seen, n_objectives: int) -> bool:
    kept = all(v <= 0 for name, v in seen.values.items() if isinstance(name, str))
    return kept and not seen.failed and seen.failed_in is None and all(i in seen.values for i in range(n_objectives))


def _learnt_absence(trials: Sequence[FrozenTrial]) -> Absence:
    """By a parameter's choice, the parameters that no trial with this choice had, though others did."""
    finished = [t for t in trials if t.state.is_finished() and t.params]
    names = {name for t in finished for name in t.params}
    if all(len(t.params) == len(names) for t in finished):
        return {}
    having: dict[tuple[str, Any], set[str]] = {}
    for t in finished:
        for name, value in t.params.items():
            if hasattr(t.distributions[name], "choices"):
                having.setdefault((name, value), set()).update(t.params)
    return {choice: frozenset(names - had) for choice, had in having.items() if names - had}


def _absent_from(params: Params, gone: Absence) -> frozenset[str]:
    """The parameters that a candidate with these choices does not have."""
    return frozenset(lacking for choice in params.items() for lacking in gone.get(choice, ()))
