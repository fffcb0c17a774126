"""From Optuna's parameters to the numbers and factors that the models see, and to the candidates there are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autotune.search.gaussian import Inputs

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = Mapping[str, Any]
_STRETCH = 4.0
"""Choices that are positive numbers with a larger ratio than this between the ends are seen on a logarithmic scale."""
_MOST_LEVELS = 16
_MOST_ENUMERATED = 8000
_ABSENT = 0.5


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows that share a key. `keys`: each once. `of_row`: shape (n,), the place of each row's key. `first`: a row per key."""

    keys: list[Hashable]
    of_row: NDArray[np.intp]
    first: list[int]

    @staticmethod
    def of(keys: Sequence[Hashable]) -> Groups:
        """The groups of rows with these keys."""
        at: dict[Hashable, int] = {}
        of_row = np.array([at.setdefault(key, len(at)) for key in keys], dtype=np.intp)
        first = {int(place): i for i, place in reversed(list(enumerate(of_row)))}
        return Groups(list(at), of_row, [first[place] for place in range(len(at))])


def _none(params: Params) -> frozenset[str]:
    return frozenset()


@dataclass(slots=True)
class Encoding:
    """The models' view of a search space. `factors`: by parameter, what splits its choice into several factors.

    `absent` says which parameters a candidate does not have; their numbers lie in the middle and decide nothing.
    """

    space: Mapping[str, BaseDistribution]
    factors: Mapping[str, Callable[[Any], tuple[Hashable, ...]]] = field(default_factory=dict)
    absent: Callable[[Params], frozenset[str]] = _none
    _codes: dict[Hashable, int] = field(default_factory=dict)
    _everything: list[dict[str, Any]] | None = None
    _kept: dict[Hashable, tuple[Sequence[Params], Any]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        # What is kept goes by the identity of lists, which a copy does not share.
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"_kept": {}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def inputs(self, rows: Sequence[Params], only: tuple[str, ...] | None = None) -> Inputs:
        """The rows as the models' inputs, of all parameters or of `only` some. The rows must not be changed afterwards."""
        found: Inputs = self.once(rows, only, lambda: self._encoded(rows, only))
        return found

    def groups(self, rows: Sequence[Params], name: str, key: Callable[[Params], Hashable]) -> Groups:
        """The rows by their `key`; `name` tells keys apart. The rows must not be changed afterwards."""
        found: Groups = self.once(rows, name, lambda: Groups.of([key(row) for row in rows]))
        return found

    def once(self, rows: Sequence[Params], what: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` makes of the rows, made once for each `what`. The rows must not be changed afterwards."""
        # The rows are kept along with what is made of them, so that no other list can come to have the same id.
        if (id(rows), what) not in self._kept:
            self._kept[id(rows), what] = (rows, make())
        return self._kept[id(rows), what][1]

    def forget(self) -> None:
        """Of all rows but those of an enumerated space, what was made of them is let go."""
        self._kept = {k: (rows, made) for k, (rows, made) in self._kept.items() if rows is self._everything}

    def factors_of(self, only: tuple[str, ...] | None = None) -> list[tuple[str, int]]:
        """The columns of `Inputs.codes`: the parameter, and which factor of its choice."""
        names = [n for n in self.space if (only is None or n in only) and not is_numeric(self.space[n])]
        return [(name, k) for name in names for k in range(self._n_factors(name))]

    def _n_factors(self, name: str) -> int:
        return max((len(self._split(name)(c)) for c in _choices(self.space[name])), default=1)

    def _split(self, name: str) -> Callable[[Any], tuple[Hashable, ...]]:
        return self.factors.get(name, _whole)

    def _encoded(self, rows: Sequence[Params], only: tuple[str, ...] | None) -> Inputs:
        names = [n for n in self.space if only is None or n in only]
        numeric = [n for n in names if is_numeric(self.space[n])]
        numbers = np.full((len(rows), len(numeric)), _ABSENT)
        for j, name in enumerate(numeric):
            scale = _scale(self.space[name])
            numbers[:, j] = [scale(row[name]) if name in row else _ABSENT for row in rows]
        columns: list[list[int]] = []
        for name, k in self.factors_of(only):
            split = self._split(name)
            parts = [split(row[name]) if name in row else () for row in rows]
            columns.append([self._code((name, k), p[k] if k < len(p) else None) for p in parts])
        codes = np.array(columns, dtype=np.int64).T if columns else np.zeros((len(rows), 0), dtype=np.int64)
        return Inputs(numbers, codes.reshape(len(rows), len(columns)))

    def _code(self, factor: Hashable, value: Hashable) -> int:
        return self._codes.setdefault((factor, value), len(self._codes))

    def trimmed(self, params: Params) -> dict[str, Any]:
        """The parameters that the candidate has, of this space."""
        gone = self.absent(params)
        return {k: v for k, v in params.items() if k in self.space and k not in gone}

    def candidates(
        self, most: int, rng: np.random.Generator, around: Sequence[Params], also: Sequence[Params] = ()
    ) -> list[dict[str, Any]]:
        """All candidates, the same list each time, where they are at most _MOST_ENUMERATED.

        Else a draw of `most`, up to half of them neighbours of `around`, and those of `also`.
        """
        if self._everything is None:
            self._everything = self._enumerated()
        if self._everything:
            return self._everything
        near = [moved for params in around for moved in self._neighbours(params)]
        drawn = [near[i] for i in rng.permutation(len(near))[: most // 2]]
        drawn += [self._drawn(rng) for _ in range(most - len(drawn))]
        return list({key_of(t): t for t in map(self.trimmed, [*also, *drawn])}.values())

    def _enumerated(self) -> list[dict[str, Any]]:
        """Every candidate; empty where they are too many or a parameter is continuous."""
        levels = {name: levels_of(d) for name, d in self.space.items()}
        lists = [found for found in levels.values() if found is not None]
        if len(lists) < len(levels) or math.prod(map(len, lists)) > _MOST_ENUMERATED:
            return []
        rows = (dict(zip(levels, values, strict=True)) for values in itertools.product(*lists))
        return list({key_of(t): t for t in map(self.trimmed, rows)}.values())

    def _drawn(self, rng: np.random.Generator) -> dict[str, Any]:
        return {name: _drawn(d, rng) for name, d in self.space.items()}

    def _neighbours(self, params: Params) -> list[dict[str, Any]]:
        """The candidates that differ from it in one parameter, by few steps where it is a number."""
        found = []
        for name, d in self.space.items():
            if name in params:
                found += [{**params, name: value} for value in _next_to(d, params[name])]
        return found


def _whole(choice: Any) -> tuple[Hashable, ...]:
    return (choice,)


def key_of(params: Params) -> Hashable:
    """Equal for equal candidates."""
    return tuple(sorted(params.items()))


def is_numeric(d: BaseDistribution) -> bool:
    """True for ranges, and for choices that are all numbers, at least two."""
    choices = _choices(d)
    return not choices or (len(choices) > 1 and all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices))


def _choices(d: BaseDistribution) -> tuple[Any, ...]:
    return tuple(getattr(d, "choices", ()))


def _scale(d: BaseDistribution) -> Callable[[Any], float]:
    """From a value to [0, 1]."""
    choices = _choices(d)
    low, high = (min(choices), max(choices)) if choices else (getattr(d, "low", 0), getattr(d, "high", 1))
    log = getattr(d, "log", False) or (bool(choices) and low > 0 and high / low > _STRETCH)
    begin, end = (math.log(low), math.log(high)) if log else (float(low), float(high))
    span = (end - begin) or 1.0
    return lambda value: ((math.log(value) if log else float(value)) - begin) / span


def levels_of(d: BaseDistribution) -> list[Any] | None:
    """Every value of the distribution, or a ladder of some; None where it is continuous."""
    choices = _choices(d)
    if choices:
        return list(choices)
    low, high, step = getattr(d, "low", 0), getattr(d, "high", 0), getattr(d, "step", None)
    if step is None or getattr(d, "log", False):
        if isinstance(low, int) and isinstance(high, int) and high - low < _MOST_LEVELS:
            return list(range(low, high + 1))
        return [low] if low == high else None
    n = int((high - low) / step + 1e-9)
    return [low + k * step for k in range(n + 1)] if n < 4 * _MOST_LEVELS else None


def _drawn(d: BaseDistribution, rng: np.random.Generator) -> Any:
    choices = _choices(d)
    if choices:
        return choices[int(rng.integers(len(choices)))]
    levels = levels_of(d)
    if levels is not None:
        return levels[int(rng.integers(len(levels)))]
    return _at(d, float(rng.random()))


def _at(d: BaseDistribution, share: float) -> Any:
    """The value at this share of a range, on its own scale and steps."""
    low, high, step = getattr(d, "low", 0), getattr(d, "high", 1), getattr(d, "step", None)
    whole = isinstance(low, int) and isinstance(high, int)
    if getattr(d, "log", False):
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    if step:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return round(value) if whole else float(value)


def _next_to(d: BaseDistribution, value: Any) -> list[Any]:
    """Other values close to this one; of choices that are no numbers all others."""
    levels = levels_of(d)
    if levels is None:
        here = _scale(d)(value)
        near = [_at(d, min(1.0, max(0.0, here + move))) for move in (-0.25, -0.1, -0.04, 0.04, 0.1, 0.25)]
        return [v for v in dict.fromkeys(near) if v != value]
    if not is_numeric(d):
        return [v for v in levels if v != value]
    levels = sorted(levels)
    at = min(range(len(levels)), key=lambda i: abs(levels[i] - value))
    return [levels[i] for i in range(max(0, at - 2), min(len(levels), at + 3)) if levels[i] != value]
