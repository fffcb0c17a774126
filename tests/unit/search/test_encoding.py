"""From Optuna's parameters to the models' inputs and to the candidates there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autotune.search.encoding import Encoding, Groups, levels_of

SPACE: dict[str, BaseDistribution] = {
    "pair": CategoricalDistribution(["a/x", "a/y", "b/x"]),
    "batch": CategoricalDistribution([1, 4, 16]),
    "streams": IntDistribution(1, 3),
    "pool": IntDistribution(64, 4096, log=True),
    "ratio": FloatDistribution(0.0, 0.5, step=0.25),
}


def row(**changes: Any) -> dict[str, Any]:
    return {"pair": "a/x", "batch": 4, "streams": 2, "pool": 512, "ratio": 0.25} | changes


def test_numbers_are_scaled_to_one() -> None:
    """Batch 4 of 1…16 lies in the middle of a logarithmic scale, as do streams 2 of 3, pool 512 of 64…4096 and a quarter."""
    found = Encoding(SPACE).inputs([row(), row(batch=16, streams=3, pool=4096, ratio=0.5)])
    assert found.numbers == pytest.approx(np.array([[0.5] * 4, [1.0] * 4]))


def test_a_choice_may_be_several_factors() -> None:
    """Engine and precision are seen apart: the first two rows share the engine, the first and last the precision."""
    encoding = Encoding(SPACE, {"pair": lambda choice: tuple(choice.split("/"))})
    codes = encoding.inputs([row(), row(pair="a/y"), row(pair="b/x")]).codes
    assert codes.shape == (3, 2)
    assert (codes[0, 0] == codes[1, 0]) and codes[0, 0] != codes[2, 0] and codes[0, 1] == codes[2, 1] != codes[1, 1]


def test_only_some_parameters_and_absent_ones() -> None:
    """A stage's model sees the stage's parameters; a parameter that a candidate lacks lies in the middle."""
    encoding = Encoding(SPACE)
    assert encoding.inputs([row()], ("streams", "pair")).numbers.shape == (1, 1)
    without = {k: v for k, v in row().items() if k != "pool"}
    assert encoding.inputs([without]).numbers[0, 2] == 0.5


def test_small_spaces_are_enumerated_once() -> None:
    """3 pairs × 3 batches × 3 streams × 3 ratios, where b has no streams: 54 + 9 candidates, the same list each time."""
    small = {k: d for k, d in SPACE.items() if k != "pool"}
    encoding = Encoding(small, absent=lambda p: frozenset({"streams"}) if p["pair"].startswith("b") else frozenset())
    rng = np.random.default_rng(0)
    found = encoding.candidates(10, rng, [])
    assert len(found) == 2 * 27 + 9 and found is encoding.candidates(10, rng, [])


def test_large_spaces_are_drawn_with_neighbours() -> None:
    """The pool has thousands of values: a draw, which holds neighbours of the given candidate and stays inside the space."""
    encoding = Encoding(SPACE)
    found = encoding.candidates(400, np.random.default_rng(0), [row()])
    assert 200 < len(found) <= 400
    near = [r for r in found if sum(r[k] != v for k, v in row().items()) == 1]
    assert {k for r in near for k, v in row().items() if r[k] != v} == set(SPACE)
    for r in found:
        for name, d in SPACE.items():
            assert d._contains(d.to_internal_repr(r[name])), (name, r[name])


@pytest.mark.parametrize(
    ("d", "expected"),
    [
        (IntDistribution(1, 9, step=4), [1, 5, 9]),
        (IntDistribution(1, 4, log=True), [1, 2, 3, 4]),
        (IntDistribution(1, 4096, log=True), None),
        (FloatDistribution(0, 1), None),
        (FloatDistribution(0, 1, step=0.5), [0.0, 0.5, 1.0]),
        (CategoricalDistribution(["x"]), ["x"]),
    ],
)
def test_levels(d: BaseDistribution, expected: list[Any] | None) -> None:
    """Every value where they can be listed, None where they cannot."""
    assert levels_of(d) == expected


def test_groups() -> None:
    """Each key once, in order of appearance, with the first row that has it."""
    found = Groups.of(["b", None, "b", "a"])
    assert (found.keys, found.of_row.tolist(), found.first) == (["b", None, "a"], [0, 1, 0, 2], [0, 1, 3])
