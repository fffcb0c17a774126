"""Fronts and hypervolumes by hand and against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotune.pareto import dominates, front_mask, hypervolume_2d

few = st.integers(0, 4).map(float)
points_2d = st.integers(0, 12).flatmap(lambda n: arrays(float, (n, 2), elements=few))
points_3d = st.integers(0, 12).flatmap(lambda n: arrays(float, (n, 3), elements=few))


def test_dominates_needs_one_better_and_none_worse() -> None:
    """(2, 3) beats (2, 2) and (1, 3); it neither beats itself nor (1, 4)."""
    a = np.array([2.0, 3])
    assert dominates(a, np.array([2.0, 2])) and dominates(a, np.array([1.0, 3]))
    assert not dominates(a, a) and not dominates(a, np.array([1.0, 4]))


def test_front_by_hand_keeps_equal_points() -> None:
    """Of (1, 3), (3, 1), (2, 2), (1, 1), (3, 1) only (1, 1) is dominated."""
    points = np.array([[1, 3], [3, 1], [2, 2], [1, 1], [3, 1.0]])
    assert front_mask(points).tolist() == [True, True, True, False, True]


def test_front_of_nothing_is_empty() -> None:
    """No points, no front, no error."""
    assert front_mask(np.empty((0, 2))).shape == (0,)


@given(points_3d)
def test_front_is_what_no_point_dominates(points: np.ndarray) -> None:
    """The vectorized form agrees with the definition, pair by pair."""
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert front_mask(points).tolist() == expected


def test_hypervolume_by_hand() -> None:
    """(3, 1), (2, 2), (1, 3) over (0, 0): columns of 3, 2 and 1 unit squares, 6 in all; (1, 1) adds nothing."""
    points = np.array([[3, 1], [2, 2], [1, 3], [1, 1.0]])
    assert hypervolume_2d(points, np.zeros(2)) == 6


@pytest.mark.parametrize("points", [np.empty((0, 2)), np.array([[1.0, 5]]), np.array([[5.0, 1]])])
def test_points_that_do_not_exceed_the_reference_have_no_area(points: np.ndarray) -> None:
    """On the edge of the reference corner (1, 1) nothing is dominated."""
    assert hypervolume_2d(points, np.ones(2)) == 0


@given(points_2d)
def test_hypervolume_counts_dominated_unit_squares(points: np.ndarray) -> None:
    """With whole coordinates it is the number of unit squares that lie under some point."""
    squares = {(x, y) for px, py in points for x in range(int(px)) for y in range(int(py))}
    assert hypervolume_2d(points, np.zeros(2)) == len(squares)
