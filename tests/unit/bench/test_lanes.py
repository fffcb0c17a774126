"""Windows counted while a load runs are those that its trace gives afterwards."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotune.bench.disturbance import MOST_REPEATS, Windows
from autotune.bench.feeds import QueryFeed, ScheduleFeed
from autotune.bench.lanes import Lane, overlapping, produced_rates, window_rates
from autotune.bench.workers import Workers

MS = 1_000_000


def lane(*spans_ms: tuple[float, float]) -> Lane:
    return Lane(
        started_ns=array("q", [round(a * MS) for a, _ in spans_ms]), done_ns=array("q", [round(b * MS) for _, b in spans_ms])
    )


def test_growing_lanes_give_the_rates_of_the_whole_trace() -> None:
    """Two clients whose requests never pause: the same windows, counted from lanes and from the sorted trace."""
    rng = np.random.default_rng(3)
    lanes = []
    for _ in range(2):
        ends = np.cumsum(rng.uniform(0.5, 30, 80))
        lanes.append(lane(*zip([0.0, *ends[:-1]], ends, strict=True)))
    edges = [i * 100 * MS for i in range(8)]
    started, done = overlapping(lanes, 0, 10_000 * MS)
    expected = window_rates(started, done, np.array(edges), 4)
    assert produced_rates(lanes, edges, 4).tolist() == pytest.approx(expected.tolist())


def test_a_request_under_way_counts_as_its_lanes_last_one() -> None:
    """Ten items in 40 ms, then ten begun at 80 of which nothing is known at 100: half of them, as if they took 40 ms too."""
    growing = lane((40, 80))
    growing.started_ns.append(80 * MS)
    assert produced_rates([growing], [0, 100 * MS], 10).tolist() == pytest.approx([150])


def test_only_finished_requests_of_the_span_are_in_the_trace() -> None:
    """One ended before the span, one is still under way: one is left."""
    growing = lane((0, 10), (10, 30))
    growing.started_ns.append(30 * MS)
    started, done = overlapping([growing], 10 * MS, 50 * MS)
    assert (started // MS).tolist() == [10] and (done // MS).tolist() == [30]


def test_windows_of_workers_count_what_each_batch_held() -> None:
    """Of two slots: four samples in 20 ms, then one in 10; two in 30, and then a batch under way, which counts for nothing.

    By hand, in windows of 15 ms: 3 + 1, and 1 + 1 + 1 samples.
    """
    session: Any = SimpleNamespace(slots=2)
    nothing: Any = None
    workers = Workers(session, nothing, nothing, lambda: 0, begin=False)
    workers.lanes[:] = [lane((0, 20), (20, 30)), lane((0, 30))]
    workers.lanes[1].started_ns.append(30 * MS)
    for log, numbers in zip(workers.logs, [(4, 1), (2, 4)], strict=True):
        log.number.extend(numbers)
    assert workers.window_rates(0, 30 * MS, 15 * MS).tolist() == pytest.approx([4 / 0.015, 3 / 0.015])
    assert workers.window_rates(0, 20 * MS, 15 * MS).tolist() == pytest.approx([(2 + 2 / 3) / 0.01] * 2), (
        "halves of a short span"
    )


def test_workers_that_ran_nothing_have_empty_windows() -> None:
    """An engine that never answered makes no throughput, and no error."""
    session: Any = SimpleNamespace(slots=2)
    nothing: Any = None
    workers = Workers(session, nothing, nothing, lambda: 0, begin=False)
    assert workers.window_rates(0, 30 * MS, 10 * MS).tolist() == [0.0, 0.0, 0.0]


class Shares:
    """A meter that gives these shares."""

    limit = 0.05

    def __init__(self, *shares: float) -> None:
        self._shares = iter((0.9, *shares))  # what was before the first window does not matter

    def lap(self) -> float:
        return next(self._shares)


def windows(*shares: float) -> Windows:
    found = Windows(Shares(*shares))
    for _ in shares:
        found.lap()
    return found


def test_windows_that_others_disturbed() -> None:
    """Two of four above 5 %: two more are wanted, two count, and they had 1.5 % taken from them on average."""
    found = windows(0.01, 0.2, 0.02, 0.06)
    assert found.disturbed == [False, True, False, True] and found.n_towards_the_end == 2
    counted = found.counted(at_least=2)
    assert counted == [True, False, True, False] and found.foreign_share(counted) == pytest.approx(0.015)


def test_too_few_undisturbed_windows_let_all_count() -> None:
    """Three are needed and two are there: all four count. Not more than five are ever repeated."""
    assert windows(0.01, 0.2, 0.02, 0.06).counted(at_least=3) == [True] * 4
    assert windows(*[0.5] * 9).n_repeats == MOST_REPEATS == 5


def test_without_a_meter_nothing_is_disturbed() -> None:
    """And nothing is said about what others took."""
    found = Windows(None)
    found.lap()
    assert found.disturbed == [False] and found.foreign_share([True]) is None


def test_queries_follow_each_other() -> None:
    """Three samples in batches of two: 2 and 1; the next query begins when both are done, and the lane has their times."""
    now = [0]
    feed = QueryFeed(3, 2, lambda: now[0])
    assert (feed.take(), feed.take()) == ((0, 2), (2, 1))
    now[0] = 10
    feed.done((2, 1), 10)
    assert list(feed.lane.done_ns) == []
    now[0] = 25
    feed.done((0, 2), 25)
    assert list(feed.lane.done_ns) == [25] and list(feed.lane.started_ns) == [0, 25]
    assert feed.take() == (3, 2)
    feed.stop()
    assert feed.take() is None


def test_nothing_is_given_out_beyond_the_end() -> None:
    """Due at 10, 20 and 30, ended at 25: two are given, then none; how many wait and how long is known."""
    now = [40]
    feed = ScheduleFeed(array("q", [10, 20, 30]), 1, 0, lambda: now[0], lambda instant: None)
    assert feed.n_waiting(40) == 3 and feed.oldest_wait_ns(40) == 30
    feed.end_at(25)
    assert [feed.take(), feed.take(), feed.take()] == [(0, 1), (1, 1), None]
    assert feed.oldest_wait_ns(40) == 10


def test_who_does_not_wait_gets_nothing_that_is_not_there() -> None:
    """A worker with something in flight takes what is due and goes on; it neither sleeps nor ends the load."""
    now = [15]
    schedule = ScheduleFeed(array("q", [10, 20]), 1, 0, lambda: now[0], lambda instant: now.__setitem__(0, instant))
    assert schedule.take(False) == (0, 1) and schedule.take(False) is None
    assert schedule.take() == (1, 1) and now == [20]
    queries = QueryFeed(1, 1, lambda: 0)
    assert queries.take(False) == (0, 1) and queries.take(False) is None
