"""What a candidate is expected to cost: its stages that no trial has done yet, and the rest, in seconds."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autotune.search.encoding import Encoding, Params
from autotune.search.gaussian import Inputs
from autotune.search.history import UNSEEN, History, Seen, Stage

Array = NDArray[np.float64]
_LEAST_S = 1e-3
_RIDGE = 0.3


class Costs:
    """Learnt from the trials so far: the time of each stage when it is new, and of what every trial does again.

    `prepared`: by stage, results that were made apart from any trial; `begun`: those that are being made, for which pending
    trials wait.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        encoding: Encoding,
        history: History,
        overhead_s: float,
        prepared: Mapping[str, set[Hashable]] = MappingProxyType({}),
        begun: Mapping[str, Hashable] = MappingProxyType({}),
    ) -> None:
        self._stages, self._encoding, self._overhead_s = stages, encoding, overhead_s
        self.made: dict[str, set[Hashable]] = {s.name: set() for s in stages}
        self._first: dict[str, list[tuple[Params, float]]] = {s.name: [] for s in stages}
        self._again: dict[str, list[float]] = {s.name: [] for s in stages}
        self._rest: list[tuple[Params, float]] = []
        for seen in history.seen:
            self._take_in(seen)
        for stage in stages:
            self.made[stage.name] |= history.made.get(stage.name, set()) | prepared.get(stage.name, set())
        for params in history.pending:
            for stage in stages:
                key = stage.key_of(params)
                if key is None or begun.get(stage.name) != key:
                    self.made[stage.name].add(key)
        totals = [sum(seen.seconds.values()) for seen in history.seen]
        self._usual_s = float(np.mean(totals)) if totals else 1.0

    def _take_in(self, seen: Seen) -> None:
        named = {s.name for s in self._stages}
        for stage in self._stages:
            seconds, key = seen.seconds.get(stage.name), stage.key_of(seen.params)
            if seconds is None or key is None:
                continue
            if key in self.made[stage.name]:
                self._again[stage.name].append(seconds)
            else:
                self.made[stage.name].add(key)
                self._first[stage.name].append((seen.params, seconds))
        rest = sum(s for name, s in seen.seconds.items() if name not in named)
        if not seen.failed and rest > 0:
            self._rest.append((seen.params, rest))

    def lacks(self, rows: Sequence[Params], stages: Collection[str]) -> list[bool]:
        """Of each candidate whether one of these stages is still to be done for it."""
        asked = [s for s in self._stages if s.name in stages]
        return [any((key := s.key_of(row)) is not None and key not in self.made[s.name] for s in asked) for row in rows]

    def of(self, rows: Sequence[Params], passes: Array, without: Collection[str] = ()) -> Array:
        """Expected seconds of each candidate, shape (n,). `passes`: the probability that it comes to the end of its stages.

        `without`: stages that do not count.
        """
        total = np.full(len(rows), self._overhead_s)
        for stage in (s for s in self._stages if s.name not in without):
            groups = self._encoding.groups(rows, stage.name, stage.key_of)
            again = self._again[stage.name]
            each = np.full(len(groups.keys), float(np.mean(again)) if again else 0.0)
            each[[i for i, key in enumerate(groups.keys) if key is None]] = 0.0
            new = [i for i, key in enumerate(groups.keys) if key is not None and key not in self.made[stage.name]]
            if new:
                firsts = [rows[groups.first[i]] for i in new]
                each[new] = self._predicted(self._first[stage.name], firsts, stage.parameters, stage.unseen)
            total += each[groups.of_row]
        return np.maximum(total + passes * self._predicted(self._rest, rows, None, UNSEEN), _LEAST_S)

    def _predicted(
        self, known: Sequence[tuple[Params, float]], rows: Sequence[Params], only: tuple[str, ...] | None, unseen: float
    ) -> Array:
        """Seconds by ridge regression of their logarithm on the inputs."""
        if not known:
            return np.full(len(rows), unseen * self._usual_s)
        seconds = np.log([max(s, _LEAST_S) for _, s in known])
        inputs = self._encoding.inputs([p for p, _ in known], only)
        wanted = self._encoding.inputs(rows, only)
        levels = [np.unique(inputs.codes[:, f]) for f in range(inputs.codes.shape[1])]
        design, centre = _design(inputs, levels), float(np.mean(seconds))
        gram = design.T @ design + _RIDGE * np.eye(design.shape[1])
        weights = np.linalg.solve(gram, design.T @ (seconds - centre))
        low, high = float(np.min(seconds)), float(np.max(seconds))
        # No extrapolation beyond twice what was seen: a line has no idea of where it ends.
        found: Array = np.exp(np.clip(centre + _design(wanted, levels) @ weights, low - math.log(2), high + math.log(2)))
        return found


def _design(inputs: Inputs, levels: Sequence[NDArray[np.int64]]) -> Array:
    """The numbers, centred, and a column for every known value of a factor."""
    flags = [(inputs.codes[:, f, None] == known[None, :]).astype(np.float64) for f, known in enumerate(levels)]
    design: Array = np.concatenate([inputs.numbers - 0.5, *flags], axis=1)
    return design
