"""Dominance, fronts and hypervolume: pure functions on arrays of shape (n, m), every objective to be maximized."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
_MOST_AT_ONCE = 256
"""All pairs are compared in one step up to here; of 10,000 points that would take 200 MB."""


def dominates(a: Points, b: Points) -> bool:
    """True when `a`, shape (m,), is at least as good as `b` everywhere and better somewhere."""
    return bool(np.all(a >= b) and np.any(a > b))


def front_mask(points: Points) -> NDArray[np.bool_]:
    """Which of `points`, shape (n, m), no other point dominates. Of equal points all stay. O(n·k·m) for a front of k points."""
    points = np.asarray(points, dtype=float)
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    if len(points) > _MOST_AT_ONCE:
        return _culled(points)
    at_least = np.all(points[:, None, :] >= points[None, :, :], axis=2)
    better = np.any(points[:, None, :] > points[None, :, :], axis=2)
    dominated: NDArray[np.bool_] = np.any(at_least & better, axis=0)
    return ~dominated


def _culled(points: Points) -> NDArray[np.bool_]:
    """As `front_mask`, point by point: whatever dominates a point has a larger sum, and so was looked at before."""
    mask = np.zeros(len(points), dtype=bool)
    front = np.empty((0, points.shape[1]))
    for i in np.argsort(-points.sum(axis=1), kind="stable"):
        at_least = np.all(front >= points[i], axis=1)
        if not np.any(at_least & np.any(front > points[i], axis=1)):
            mask[i] = True
            front = np.vstack([front, points[i]])
    return mask


def hypervolume(points: Points, reference: Points) -> float:
    """Volume between `points`, shape (n, m), and the `reference` corner, shape (m,), that they dominate; any m ≥ 1.

    Slices along the last objective, each as large as the hypervolume of the points above it in the others: O(n^(m−1)).
    """
    inside = np.asarray(points, dtype=float)
    inside = inside[np.all(inside > reference, axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(np.max(inside) - reference[0])
    if inside.shape[1] == 2:
        return hypervolume_2d(inside, reference)
    inside = inside[front_mask(inside)]
    inside = inside[np.argsort(-inside[:, -1], kind="stable")]
    floors = np.append(inside[1:, -1], reference[-1])
    slices = (
        (float(top - floor), hypervolume(inside[: i + 1, :-1], reference[:-1]))
        for i, (top, floor) in enumerate(zip(inside[:, -1], floors, strict=True))
        if top > floor
    )
    return sum(depth * area for depth, area in slices)


def hypervolume_2d(points: Points, reference: Points) -> float:
    """Area between `points`, shape (n, 2), and the `reference` corner, shape (2,), that they dominate."""
    inside = np.asarray(points, dtype=float)
    inside = inside[np.all(inside > reference, axis=1)]
    if len(inside) == 0:
        return 0.0
    inside = inside[np.argsort(-inside[:, 0])]
    area, floor = 0.0, float(reference[1])
    for x, y in inside:
        if y > floor:
            area += float((x - reference[0]) * (y - floor))
            floor = float(y)
    return area
