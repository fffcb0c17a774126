"""What a study of Optuna's tells the sampler: the trials so far, what they cost, and what failed where."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from autotune.search.encoding import Params, key_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

OUTCOME = "outcome"
"""User attribute of a trial, a mapping, for what Optuna has no place for; see `outcome`."""
REST = "rest"
"""What a trial takes outside the named stages, every time."""


def outcome(
    stage_s: Mapping[str, float],
    *,
    failed_in: str | None = None,
    unmeasured: Sequence[int | str] = (),
    duplicate: bool = False,
) -> dict[str, Any]:
    """The value of the user attribute OUTCOME; without one a trial costs the time from ask to tell, and is as it was told.

    `stage_s`: seconds by stage. `failed_in`: the stage whose result cannot be, which is so for all that share it.
    `unmeasured`: numbers of objectives and names of constraints whose told values stand for nothing. `duplicate`: it was
    answered from memory.
    """
    return {"stage_s": dict(stage_s), "failed_in": failed_in, "unmeasured": list(unmeasured), "duplicate": duplicate}


UNSEEN = 3.0
"""What no trial has come to yet is taken to cost so many times what a trial took on average."""
Response = int | str
"""The number of an objective or the name of a constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Work that is done once and reused. `parameters`: what its result depends on.

    `key`: of a candidate's parameters, what tells results of the stage apart, None where the candidate needs none; by default
    the values of `parameters`. `decides`: objectives (by number) and constraints (by name) that the result alone determines.
    `alike`: factors, by parameter and place among its factors, in which what is decided is expected to differ little.
    `unseen`: before any trial has done it, it is taken to cost so many times what a trial takes on average.
    """

    name: str
    parameters: tuple[str, ...]
    decides: tuple[int | str, ...] = ()
    alike: frozenset[tuple[str, int]] = frozenset()
    key: Callable[[Params], Hashable | None] | None = None
    unseen: float = UNSEEN

    def key_of(self, params: Params) -> Hashable | None:
        """What the candidate's result of this stage is known by."""
        if self.key is not None:
            return self.key(params)
        return tuple(params.get(name) for name in self.parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A trial that is over. `values`: by number of the objective or name of the constraint, what was measured.

    `failed_in`: the stage that rejects all that share its result. `failed`: it has no result for whatever reason. Constraints
    are feasible up to 0.
    """

    params: dict[str, Any]
    values: Mapping[int | str, float]
    seconds: Mapping[str, float]
    failed: bool = False
    failed_in: str | None = None


@dataclass(slots=True)
class History:
    """The finished and pending trials of a study, read once each.

    `made`: by stage, results that were made by trials which are no longer in `seen`. What such trials measured is forgotten,
    that they did is not.
    """

    seen: list[Seen] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)
    made: dict[str, set[Hashable]] = field(default_factory=dict)
    _numbers: set[int] = field(default_factory=set)
    _forgotten: set[bytes] = field(default_factory=set)
    _study: int | None = None

    @property
    def study(self) -> int | None:
        """Optuna's id of the study that it is of; None before the first update."""
        return self._study

    def update(
        self, study_id: int, trials: Sequence[FrozenTrial], me: int, trimmed: Callable[[Params], dict[str, Any]]
    ) -> None:
        """The trials are taken in. `me`: the number of the trial that is being asked for."""
        from optuna.trial import TrialState

        if self._study != study_id:
            self.seen, self.made, self._numbers, self._forgotten, self._study = [], {}, set(), set(), study_id
        self.pending = []
        for trial in trials:
            if trial.number in self._numbers or trial.number == me:
                continue
            if trial.state in (TrialState.RUNNING, TrialState.WAITING):
                params = trial.params or trial.system_attrs.get("fixed_params", {})
                self.pending += [trimmed(params)] if params else []
                continue
            self._numbers.add(trial.number)
            told = trial.user_attrs.get(OUTCOME, {})
            if told.get("duplicate"):
                self._forgotten.add(_digest(key_of(trimmed(trial.params))))
            elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.params:
                self.seen.append(_seen(trial, trimmed))

    def forget_all_but(self, kept: Sequence[Seen], made: Mapping[str, set[Hashable]]) -> None:
        """Only these are left in `seen`; by stage, what else was made is added to `made`."""
        self._forgotten |= {_digest(key_of(s.params)) for s in self.seen}
        self.seen = list(kept)
        for name, keys in made.items():
            self.made.setdefault(name, set()).update(keys)

    def known(self, keys: Sequence[Hashable]) -> list[bool]:
        """Which of the candidates with these keys were measured or are under way."""
        here = {key_of(s.params) for s in self.seen} | {key_of(p) for p in self.pending}
        forgotten = self._forgotten
        return [key in here or (bool(forgotten) and _digest(key) in forgotten) for key in keys]


def _digest(key: Any) -> bytes:
    """Eight bytes in place of what `key_of` gives, the same in every process (Python's hash of a string is not)."""
    plain = [(name, float(v) if isinstance(v, int | float) else v) for name, v in key]
    return blake2b(repr(plain).encode(), digest_size=8).digest()


def _seen(trial: FrozenTrial, trimmed: Callable[[Params], dict[str, Any]]) -> Seen:
    told = trial.user_attrs.get(OUTCOME, {})
    unmeasured = set(told.get("unmeasured", ()))
    values: dict[int | str, float] = {i: v for i, v in enumerate(trial.values or ()) if math.isfinite(v)}
    values |= {str(name): v for name, v in trial.constraints.items()}
    return Seen(
        params=trimmed(trial.params),
        values={k: v for k, v in values.items() if k not in unmeasured},
        seconds=_seconds(trial),
        failed=bool(unmeasured) or not trial.values,
        failed_in=told.get("failed_in"),
    )


def _seconds(trial: FrozenTrial) -> dict[str, float]:
    told = trial.user_attrs.get(OUTCOME, {}).get("stage_s")
    if told is not None:
        return {str(k): float(v) for k, v in told.items()}
    took = trial.duration
    return {} if took is None else {REST: took.total_seconds()}
