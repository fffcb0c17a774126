"""The grid of a study's space: the values that a sweep tries of every knob, and all candidates they make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from autotune.candidate import KNOBS, Candidate, Choices, Domain, Scalar
from autotune.errors import SpecError
from autotune.space.capability import SHARED_KNOBS, SearchSpace

_MOST_STEPS = 8
"""A range of more whole numbers than this is swept in a few of them."""
_FEW = 5


def grid_values(space: SearchSpace, asked: Mapping[str, tuple[Scalar, ...]]) -> dict[str, tuple[Scalar, ...]]:
    """By knob, the values to try: those asked for, else the choices, the doublings of a logarithmic range or the steps.

    Raises SpecError where a knob or value that was asked for lies outside the space or occurs twice.
    """
    for knob, values in asked.items():
        if knob not in space.domains:
            raise SpecError(f"--grid {knob}=…: allowed: one of {', '.join(space.domains)}")
        outside = [v for v in values if v not in space.domains[knob]]
        if outside or not values:
            raise SpecError(f"--grid {knob}: found {outside or 'no value'}; allowed: values in {space.domains[knob]}")
        if len(set(values)) < len(values):
            raise SpecError(f"--grid {knob}: found {', '.join(map(str, values))}; allowed: each value once")
    return {knob: asked.get(knob) or values_of(knob, domain) for knob, domain in space.domains.items()}


def values_of(knob: str, domain: Domain) -> tuple[Scalar, ...]:
    """A few values that span the domain, its ends among them, ascending."""
    if isinstance(domain, Choices):
        return tuple(domain.values)
    low, high, whole = domain.low, domain.high, KNOBS[knob].kind == "int"
    if domain.log:
        n = int(math.log2(high / low) + 1e-9)
        found = [low * 2**k for k in range(n + 1)]
        found += [high] if found[-1] < high else []
    elif domain.step or (whole and high - low < _MOST_STEPS):
        step = domain.step or 1
        found = [low + k * step for k in range(int((high - low) / step + 1e-9) + 1)]
    else:
        found = [low + k * (high - low) / (_FEW - 1) for k in range(_FEW)]
    return tuple(dict.fromkeys(round(v) if whole else round(float(v), 9) for v in found))


def candidates_of(space: SearchSpace, values: Mapping[str, tuple[Scalar, ...]]) -> list[Candidate]:
    """Every candidate of the grid, pair by pair; a knob that an engine lacks reads None."""
    found: list[Candidate] = []
    for engine, precision in space.pairs:
        lists: list[tuple[Any, ...]] = [values[k] if space.has(engine, k) else (None,) for k in SHARED_KNOBS]
        for chosen in itertools.product(*lists):
            knobs = dict(zip(SHARED_KNOBS, chosen, strict=True))
            found.append(Candidate.from_json({"engine": engine, "precision": precision, **knobs}))
    return found
