"""Lanes: what each client of a load wrote down, and the items per second that windows of it hold."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NS = 1_000_000_000
Times = NDArray[np.int64]


def _times() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Lane:
    """One client's own record, in nanoseconds: a request's start is appended before it is submitted, its end when it is done.

    Only the client appends, so others may read: as many requests are done as there are ends. Arrays of machine integers,
    because copying one takes microseconds, in which no other thread of Python runs; of a list of objects it takes milliseconds.
    """

    started_ns: array[int] = field(default_factory=_times)
    done_ns: array[int] = field(default_factory=_times)


def overlapping(lanes: Sequence[Lane], begin_ns: int, end_ns: int) -> tuple[Times, Times]:
    """Start and end of all finished requests that overlap the span, ordered by their end."""
    spans = []
    for lane in lanes:
        done = np.array(lane.done_ns, dtype=np.int64)
        spans.append(np.stack([np.array(lane.started_ns[: len(done)], dtype=np.int64), done]))
    both = np.concatenate(spans, axis=1) if spans else np.empty((2, 0), dtype=np.int64)
    both = both[:, (both[1] > begin_ns) & (both[0] < end_ns)]
    both = both[:, np.argsort(both[1], kind="stable")]
    return both[0], both[1]


def produced_rates(lanes: Sequence[Lane], edges_ns: Sequence[int], batch: int) -> NDArray[np.float64]:
    """Items per second in each window between consecutive edges, as `window_rates` gives them, while the lanes still grow.

    A request that is not done yet counts as if it took as long as its lane's last one. Costs a few microseconds per lane and
    edge, however long the lanes are.
    """
    produced = np.zeros(len(edges_ns))
    for lane in lanes:
        for i, edge in enumerate(edges_ns):
            n_done = bisect_right(lane.done_ns, edge)
            produced[i] += batch * (n_done + _share_in_flight(lane, n_done, edge))
    return np.diff(produced) / (np.diff(np.asarray(edges_ns, dtype=np.float64)) / NS)


def _share_in_flight(lane: Lane, index: int, edge_ns: int) -> float:
    """How much of request `index` was done at the edge, if it had begun."""
    started, done = lane.started_ns, lane.done_ns
    if index >= len(started) or started[index] >= edge_ns:
        return 0.0
    n_done = len(done)
    if index < n_done:
        duration = done[index] - started[index]
    elif n_done > 0:
        duration = done[n_done - 1] - started[n_done - 1]
    else:
        return 0.0
    return min(1.0, (edge_ns - started[index]) / max(duration, 1))


def window_rates(started_ns: Times, done_ns: Times, edges_ns: Times, items: int | Times) -> NDArray[np.float64]:
    """Items per second in each window between consecutive `edges_ns`, shape (n_windows,).

    `items` of each request, or of all; those of one count evenly over its own duration, so that a window of few large batches
    is not off by a whole one.
    """
    each = np.broadcast_to(np.asarray(items, dtype=np.float64), started_ns.shape)
    begun, ended = np.argsort(started_ns), np.argsort(done_ns)
    starts, finished = started_ns[begun], np.concatenate(([0.0], np.cumsum(each[ended])))
    per_ns = each / np.maximum(done_ns - started_ns, 1)
    produced = finished[np.searchsorted(done_ns[ended], edges_ns, side="right")]
    # Items of requests in flight at an edge: Σ (edge − start)/duration over those with start < edge < end.
    for i, edge in enumerate(edges_ns):
        first = begun[: np.searchsorted(starts, edge, side="left")]
        flying = first[done_ns[first] > edge]
        produced[i] += float(np.sum((edge - started_ns[flying]) * per_ns[flying]))
    return np.diff(produced) / (np.diff(edges_ns) / NS)
