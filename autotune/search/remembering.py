"""Which trials a search remembers, so that its thousandth proposal costs what its five-hundredth did."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from autotune.pareto import front_mask
from autotune.search.history import Seen, Stage

MOST = 500
"""Trials that are kept when the history is tidied, which is when it holds a fifth more."""
_SHARE_BEST, _SHARE_LATEST, _SHARE_DECIDED = 0.3, 0.3, 0.3
Made = dict[str, set[Hashable]]


def remembered(seen: Sequence[Seen], stages: Sequence[Stage], minimize: Sequence[bool]) -> tuple[list[Seen], Made]:
    """About MOST of the trials in their order, and by stage the results that only forgotten ones had.

    Kept are the best, front after front; a witness of every stage's result that decides something or cannot be; the latest; and
    some of the others, spread over the study. Where the trial that first had a stage's result is forgotten, those after it no
    longer say what the stage takes: they found it done.
    """
    kept = {*_best(seen, minimize), *range(len(seen) - int(_SHARE_LATEST * MOST), len(seen)), *_witnesses(seen, stages)}
    others = [i for i in range(len(seen)) if i not in kept]
    spread = np.linspace(0, len(others) - 1, max(0, min(len(others), MOST - len(kept)))).round().astype(int)
    kept |= {others[int(i)] for i in spread}
    firsts = {stage.name: _firsts(seen, stage) for stage in stages}
    made: Made = {name: {key for key, i in first.items() if i not in kept} for name, first in firsts.items()}
    return [_without_stale_costs(seen[i], i, stages, firsts, kept) for i in sorted(kept)], made


def _best(seen: Sequence[Seen], minimize: Sequence[bool]) -> list[int]:
    """Where the feasible trials of the first fronts are."""
    n = len(minimize)
    usable = [
        i for i, s in enumerate(seen)
        if not s.failed and s.failed_in is None and all(k in s.values for k in range(n))
        and all(v <= 0 for k, v in s.values.items() if isinstance(k, str))
    ]  # fmt: skip
    signs = np.array([-1.0 if down else 1.0 for down in minimize])
    points = np.array([[seen[i].values[k] for k in range(n)] for i in usable], dtype=np.float64).reshape(len(usable), n) * signs
    left, chosen = np.arange(len(usable)), list[int]()
    while len(left) and len(chosen) < _SHARE_BEST * MOST:
        layer = front_mask(points[left])
        chosen += [usable[int(i)] for i in left[layer]]
        left = left[~layer]
    return chosen


def _witnesses(seen: Sequence[Seen], stages: Sequence[Stage]) -> list[int]:
    """The latest trial of every result that decides something, and of every one that cannot be; the newest where many."""
    found: dict[Hashable, int] = {}
    for i, s in enumerate(seen):
        for stage in stages:
            if stage.decides or s.failed_in == stage.name:
                result = (stage.name, stage.key_of(s.params), s.failed_in == stage.name)
                found.pop(result, None)
                found[result] = i
    return list(found.values())[-int(_SHARE_DECIDED * MOST) :]


def _firsts(seen: Sequence[Seen], stage: Stage) -> dict[Hashable, int]:
    """By a result of the stage, the trial that says what it took to make."""
    found: dict[Hashable, int] = {}
    for i, s in enumerate(seen):
        key = stage.key_of(s.params)
        if key is not None and stage.name in s.seconds:
            found.setdefault(key, i)
    return found


def _without_stale_costs(
    seen: Seen, at: int, stages: Sequence[Stage], firsts: dict[str, dict[Hashable, int]], kept: set[int]
) -> Seen:
    stale = set()
    for stage in stages:
        first = firsts[stage.name].get(stage.key_of(seen.params), at)
        if first != at and first not in kept:
            stale.add(stage.name)
    return replace(seen, seconds={k: v for k, v in seen.seconds.items() if k not in stale}) if stale else seen
