"""Measurements in rounds: interleaved, in random order, kept one by one, and ended before the stage's time is over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpu_stages.bench import Bench

_MARGIN_S = 10.0
"""For what is left to do after the last measurement: closing, summing up and writing."""
_SLACK = 1.5
"""A measurement may take so many times what the longest took before it."""

Rounds = dict[str, list[Any]]


def in_rounds(
    bench: Bench, head: Mapping[str, Any], key: str, names: Sequence[str], measure: Callable[[str], Any]
) -> tuple[Rounds, bool]:
    """Every name measured once a round, in random order: what disturbs the machine for a while disturbs all of them.

    Goes on behind what an unfinished run left under `key`, where other names' measurements stay; keeps `head` with the
    measurements after each one, and says whether all rounds are there: False where another measurement would not end in time.
    One is made in any case.
    """
    others = {name: values for name, values in bench.before.get(key, {}).items() if name not in names}
    found: Rounds = {name: list(bench.before.get(key, {}).get(name, ())) for name in names}
    order, longest_s = random.Random(0), 0.0
    for round_ in range(bench.rounds):
        shuffled = list(names)
        order.shuffle(shuffled)
        for name in shuffled:
            if len(found[name]) > round_:
                continue
            if longest_s and bench.left_s < _MARGIN_S + _SLACK * longest_s:
                return found, False
            began = time.monotonic()
            found[name].append(measure(name))
            longest_s = max(longest_s, time.monotonic() - began)
            bench.keep({**head, key: {**others, **found}})
    return found, True
