"""What a table that is read from a file must keep to: its numbers, its grid, and how its parts fit together.

Each check raises ValueError; `table_file` adds the file's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from autotune.candidate import KNOBS
from autotune.records import Estimate
from autotune.simulator.table import Load, Point, SweepTable
from autotune.space.capability import SHARED_KNOBS, SearchSpace
from autotune.spec.knobs import checked_value
from autotune.spec.positions import Faults, Positions, shown

_UNMEASURED = ("p99_ms", "memory_mib", "energy_j")
"""Columns of the loads in which None stands for what was not measured."""


def number(value: Any, where: str, *, least: float = -math.inf) -> float:
    """The finite number of at least `least` that stands at `where`."""
    try:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        good = False
    if not good:
        raise ValueError(f"it has {value!r} where a number belongs: {where}")
    if value < least:
        raise ValueError(f"it has {value!r} where a number of at least {least:g} belongs: {where}")
    return float(value)


def index(value: Any, n: int) -> int:
    """The row, one of `n`."""
    if not _is_whole(value) or not 0 <= value < n:
        raise ValueError(f"it points to row {value!r} of {n}")
    return int(value)


def count(value: Any, where: str) -> int:
    """The whole number from 0 that stands at `where`."""
    if not _is_whole(value) or value < 0:
        raise ValueError(f"it has {value!r} where a whole number of at least 0 belongs: {where}")
    return int(value)


def check_estimate(found: Estimate | None, where: str) -> None:
    """Value and interval are finite; an accuracy has no bounds, because not every metric is a share."""
    if found is not None:
        for name in ("value", "low", "high"):
            number(getattr(found, name), f"{where}.{name}")


def check_load(load: Load, row: int) -> None:
    """A rate above 0, from at least two windows; nothing negative."""
    known = [name for name in _UNMEASURED if getattr(load, name) is not None]
    numbers = [number(getattr(load, name), f"loads.{name}[{row}]") for name in ("half_width", "seconds", *known)]
    rate = number(load.items_per_s, f"loads.items_per_s[{row}]")
    if rate <= 0 or min(numbers) < 0 or not _is_whole(load.windows) or load.windows < 2:
        raise ValueError(f"it has an impossible load: {load}")


def check_table(table: SweepTable) -> None:
    """Its parts fit together, and its points are those of its grid that it does not count as missing."""
    if not table.points:
        raise ValueError("it has no points")
    _check_values(table)
    if len(table.by_candidate) != len(table.points):
        raise ValueError("a point occurs twice")
    space = table.space()
    for point in table.points:
        _check_point(table, space, point)
    n_grid = sum(_n_settings(table, space, engine) for engine, _ in table.pairs)
    if n_grid - len(table.points) != table.missing:
        raise ValueError(
            f"its grid has {n_grid} points, of which {len(table.points)} are there and {table.missing} counted as missing"
        )
    check_estimate(table.reference.accuracy, "reference.accuracy")
    check_estimate(table.reference.accuracy_drop, "reference.accuracy_drop")
    number(table.reference.duration_s, "reference", least=0)
    table.spec()


def _check_values(table: SweepTable) -> None:
    """Each knob is one, with values of its kind, each once; each pair once, of an engine that is described."""
    for knob, values in table.values.items():
        if knob not in SHARED_KNOBS:
            raise ValueError(f"values has {knob!r} where one of {', '.join(SHARED_KNOBS)} belongs")
        faults = Faults(positions=Positions(file=""))
        for i, value in enumerate(values):
            checked_value(KNOBS[knob], value, f"values.{knob}[{i}]", faults)
        if faults.problems:
            wrong = faults.problems[0]
            raise ValueError(f"it has {wrong.found} where {wrong.allowed} belongs: {wrong.key}")
        if (twice := _twice(values)) is not None:
            raise ValueError(f"values.{knob} has {twice} twice")
    if (pair := _twice(table.pairs)) is not None:
        raise ValueError(f"pairs has {'/'.join(pair)} twice")
    for engine, _ in table.pairs:
        if engine not in table.engines:
            raise ValueError(f"pairs has the engine {engine!r}, of which engines says nothing")


def _check_point(table: SweepTable, space: SearchSpace, point: Point) -> None:
    c = point.candidate
    if (c.engine, c.precision) not in table.pairs:
        raise ValueError(f"the point {c} is of no pair of engine and precision that it names")
    for knob in SHARED_KNOBS:
        value, has = getattr(c, knob), space.has(c.engine, knob)
        allowed: tuple[Any, ...] = table.values[knob] if has else (None,)
        if isinstance(value, bool) or value not in allowed:
            belongs = f"one of {', '.join(map(str, allowed))}" if has else "nothing"
            raise ValueError(f"the point {c} is not on its grid: {knob} is {shown(value)} where {belongs} belongs")
    if (point.state == "complete") != bool(point.loads) or (point.state == "complete") != (point.reject is None):
        raise ValueError(f"the point {c} is {point.state} with {len(point.loads)} loads")
    if any(table.artifacts[row].kind != kind for kind, row in point.artifacts.items()):
        raise ValueError(f"the point {c} names an artifact of another kind")
    if point.state == "complete" and not {"variant", "engine", "accuracy"} <= point.artifacts.keys():
        raise ValueError(f"the point {c} is complete without a variant, an engine or an accuracy")


def _n_settings(table: SweepTable, space: SearchSpace, engine: str) -> int:
    """How many points `candidates_of` makes of each of the engine's pairs; counted, for a damaged grid may be endless."""
    return math.prod(len(table.values[knob]) for knob in SHARED_KNOBS if space.has(engine, knob))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _twice(values: Iterable[Any]) -> Any:
    """The first value that came before; None where there is none."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
