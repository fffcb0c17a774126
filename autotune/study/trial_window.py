"""TrialWindow: Optuna's storage with a bounded memory, so that proposing the 10,000th candidate costs what the 500th did.

Optuna's own cache holds every trial of a study for ever, about 10 KB each, and its samplers look at all of them: univariate TPE
took 0.35 s per proposal at 1,000 trials and 2.3 s at 10,000. Everything is still written; only what is read is bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.storages import _CachedStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autotune.pareto import front_mask

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

MOST = 500
"""Finished trials that are remembered when the window is tidied, which is when it holds a fifth more."""
_FIRST = 64
"""Trials of the lowest numbers, which stay: priors and warm starts are among them, and are not to be enqueued again."""
_SHARE_BEST, _SHARE_LATEST = 0.3, 0.4


class TrialWindow(_CachedStorage):
    """As Optuna's cached storage, but of a study's finished trials it remembers about MOST.

    These are the first, the best (layers of the front of what keeps the constraints), the latest, and some of the others spread
    over the study. `get_all_trials` gives those, all that wait or run among them; a trial by its number or id is always found.
    `remember`: numbers of trials worth remembering, the newest there is among them: a long study is opened without reading it.
    """

    def __init__(self, backend: RDBStorage, remember: Iterable[int] = ()) -> None:
        super().__init__(backend)
        self._remember = frozenset(remember)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        known = self._studies.get(study_id)
        if known is None or known.last_finished_trial_id == -1:
            self._open(study_id)
        super()._read_trials_from_remote_storage(study_id)
        with self._lock:
            self._tidy(study_id)

    def _open(self, study_id: int) -> None:
        """A long study's window is read without reading the study."""
        newest = max(self._remember, default=-1)
        if newest < MOST + MOST // 5:
            return
        self.get_study_directions(study_id)  # makes the study's place in the cache
        numbers = {*range(_FIRST), *self._remember, *range(newest - int(_SHARE_LATEST * MOST), newest + 1)}
        numbers |= {int(i) for i in np.linspace(0, newest, max(1, MOST - len(numbers)))}
        ids = {n: self._backend.get_trial_id_from_study_id_trial_number(study_id, n) for n in sorted(numbers)}
        states = (TrialState.RUNNING, TrialState.WAITING)
        unfinished = self._backend.get_all_trials(study_id, deepcopy=False, states=states)
        found = self._backend._get_trials(study_id, None, set(ids.values()), ids[newest])
        with self._lock:
            self._add_trials_to_cache(study_id, [*found, *unfinished])
            study = self._studies[study_id]
            study.last_finished_trial_id = ids[newest]
            study.unfinished_trial_ids |= {t._trial_id for t in unfinished}

    def _tidy(self, study_id: int) -> None:
        """What is not worth remembering is forgotten."""
        study = self._studies[study_id]
        finished = [t for _, t in sorted(study.trials.items()) if t.state.is_finished()]
        if len(finished) <= MOST + MOST // 5:
            return
        kept = {t.number for t in _worth_remembering(finished, self._directions(study_id), self._remember)}
        for trial in finished:
            if trial.number not in kept:
                del study.trials[trial.number]
                del self._trial_id_to_study_id_and_number[trial._trial_id]
                del self._study_id_and_number_to_trial_id[study_id, trial.number]

    def _directions(self, study_id: int) -> list[StudyDirection]:
        # As get_study_directions, which would wait for the lock that is held already.
        found = self._studies[study_id].directions
        return found if found is not None else self._backend.get_study_directions(study_id)


def _worth_remembering(
    finished: list[FrozenTrial], directions: Collection[StudyDirection], always: Collection[int]
) -> list[FrozenTrial]:
    """MOST of the trials, which are in order of their numbers, or a few more."""
    n_latest = int(_SHARE_LATEST * MOST)
    kept = {t.number: t for t in (*finished[:_FIRST], *finished[-n_latest:], *(t for t in finished if t.number in always))}
    signs = np.array([-1.0 if d == StudyDirection.MINIMIZE else 1.0 for d in directions])
    for trial in _best(finished, signs, int(_SHARE_BEST * MOST)):
        kept[trial.number] = trial
    others = [t for t in finished if t.number not in kept]
    spread = np.linspace(0, len(others) - 1, max(0, min(len(others), MOST - len(kept)))).round().astype(int)
    return [*kept.values(), *(others[i] for i in spread)]


def _best(finished: list[FrozenTrial], signs: Any, n: int) -> list[FrozenTrial]:
    """At least `n` of the feasible trials, or all: front after front."""
    feasible = [t for t in finished if t.state == TrialState.COMPLETE and all(v <= 0 for v in t.constraints.values())]
    points = np.array([t.values for t in feasible], dtype=np.float64).reshape(len(feasible), len(signs)) * signs
    left, chosen = np.arange(len(feasible)), list[int]()
    while len(left) and len(chosen) < n:
        layer = front_mask(points[left])
        chosen += [int(i) for i in left[layer]]
        left = left[~layer]
    return [feasible[i] for i in chosen]
