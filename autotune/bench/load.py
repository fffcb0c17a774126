"""The closed loop: every slot of a session is kept busy while windows of throughput are counted.

A thread drives one slot, or several of a session that lets fewer threads drive it: it then submits on all of its slots before
it waits for the one that was submitted first, and a request's latency ends when its thread came to see that it was done.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotune.bench.statistics import mean_estimate, percentile_estimate
from autotune.engines.protocol import Inputs, Session, driving_threads
from autotune.records import GIVEN_UP, Estimate, LatencySummary
from autotune.spec.model import LoadSpec

_NS = 1_000_000_000
_MIN_WARMUP_CALLS = 20
MAX_WARMUP_S = 10.0
_LEAST_WINDOWS = 3
"""Before a load is given up: the interval of two windows is wider than most differences between candidates."""
_SETTLED = 0.03
"""Warm-up ends when two consecutive quarters of it agree within 3 %: the run-to-run spread of one setting on shared cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTrace:
    """What the loop saw after the warm-up. Times are monotonic nanoseconds, int64, shape (n_requests,), in completion order."""

    started_ns: NDArray[np.int64]
    done_ns: NDArray[np.int64]
    batch_size: int
    begin_ns: int
    end_ns: int
    warmup_s: float
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """Throughput and latency of one closed loop, with intervals; `flags` say what a reader should know about them."""

    throughput_items_per_s: Estimate
    latency_ms: LatencySummary
    n_requests: int
    window_rates: tuple[float, ...]
    measured_s: float
    warmup_s: float
    flags: tuple[str, ...]


@dataclass(slots=True)
class _Lane:
    """One slot's own record; only its thread appends, so reading a prefix from another thread is safe."""

    started_ns: list[int] = field(default_factory=list)
    done_ns: list[int] = field(default_factory=list)


class _Clients:
    """The threads that drive the slots, each submitting the next batch on a slot when the last is done, until told to stop."""

    def __init__(self, session: Session, batches: Sequence[Inputs], clock: Callable[[], int]) -> None:
        self.lanes = [_Lane() for _ in range(session.slots)]
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._session, self._batches, self._clock = session, batches, clock
        n_threads = driving_threads(session)
        owned = [range(first, session.slots, n_threads) for first in range(n_threads)]
        self._threads = [threading.Thread(target=self._drive, args=(slots,), daemon=True) for slots in owned]
        for thread in self._threads:
            thread.start()

    def _drive(self, slots: Sequence[int]) -> None:
        session, batches, clock, stopped = self._session, self._batches, self._clock, self._stop.is_set
        n = len(batches)
        turns = {slot: slot * n // session.slots for slot in slots}
        flying: deque[tuple[int, int]] = deque()
        try:
            for slot in slots:
                flying.append((slot, clock()))
                session.submit(batches[turns[slot] % n], slot)
            while flying:
                slot, begin = flying.popleft()
                session.wait(slot)
                self.lanes[slot].done_ns.append(clock())
                self.lanes[slot].started_ns.append(begin)
                if not stopped():
                    turns[slot] += 1
                    flying.append((slot, clock()))
                    session.submit(batches[turns[slot] % n], slot)
        except BaseException as exc:
            self.errors.append(exc)
            self._stop.set()

    def sleep(self, seconds: float) -> None:
        """Returns after `seconds`, at once when a client failed; then raises what it raised."""
        self._stop.wait(seconds)
        if self.errors:
            raise self.errors[0]

    def calls(self) -> int:
        return sum(len(lane.started_ns) for lane in self.lanes)

    def trace(self, begin_ns: int, end_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start and completion of all requests that overlap the span, ordered by completion."""
        spans = []
        for lane in self.lanes:
            n = len(lane.started_ns)
            spans.append(np.array([lane.started_ns[:n], lane.done_ns[:n]], dtype=np.int64).reshape(2, n))
        both = np.concatenate(spans, axis=1)
        both = both[:, (both[1] > begin_ns) & (both[0] < end_ns)]
        both = both[:, np.argsort(both[1], kind="stable")]
        return both[0], both[1]

    def finish(self) -> None:
        """Every thread has ended. Raises what a client raised."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


def window_rates(
    started_ns: NDArray[np.int64], done_ns: NDArray[np.int64], edges_ns: NDArray[np.int64], batch: int
) -> NDArray[np.float64]:
    """Items per second in each window between consecutive `edges_ns`, shape (n_windows,).

    A request's items count evenly over its own duration, so that a window of few large batches is not off by a whole one.
    """
    begun = np.sort(started_ns)
    ended = np.sort(done_ns)
    order = np.argsort(started_ns)
    duration = np.maximum(done_ns - started_ns, 1).astype(np.float64)
    per_ns = batch / duration
    finished_items = np.searchsorted(ended, edges_ns, side="right") * float(batch)
    # Items of requests in flight at an edge: Σ (edge − start)/duration over those with start < edge < end.
    partial = np.empty(len(edges_ns))
    for i, edge in enumerate(edges_ns):
        first = order[: np.searchsorted(begun, edge, side="left")]
        flying = first[done_ns[first] > edge]
        partial[i] = float(np.sum((edge - started_ns[flying]) * per_ns[flying]))
    produced = finished_items + partial
    return np.diff(produced) / (np.diff(edges_ns) / _NS)


def run_closed_loop(
    session: Session,
    batches: Sequence[Inputs],
    batch_size: int,
    plan: LoadSpec,
    clock: Callable[[], int] = time.monotonic_ns,
    give_up_below: float = 0.0,
) -> LoadTrace:
    """The session under full load: warmed up until it settles, then measured until the plan's stop rule holds or at the cap.

    Ends early, with the flag `given_up`, once the interval of the items per second lies wholly below `give_up_below`.
    Raises what the session raises. The slots' threads have ended when this returns.
    """
    clients = _Clients(session, batches, clock)
    try:
        warm_begin = clock()
        settled = _warm_up(clients, plan, clock)
        begin = clock()
        end, flags = _count_windows(clients, plan, clock, begin, batch_size, give_up_below)
    finally:
        clients.finish()
    started, done = clients.trace(begin, end)
    return LoadTrace(
        started_ns=started,
        done_ns=done,
        batch_size=batch_size,
        begin_ns=begin,
        end_ns=end,
        warmup_s=(begin - warm_begin) / _NS,
        flags=flags if settled else ("unsettled", *flags),
    )


def _count_windows(
    clients: _Clients, plan: LoadSpec, clock: Callable[[], int], begin: int, batch_size: int, give_up_below: float
) -> tuple[int, tuple[str, ...]]:
    """The end of the last window that was counted, and the flag that says why it was the last, if the interval does not."""
    window_ns = int(plan.window_s * _NS)
    least = min(_LEAST_WINDOWS, plan.min_windows) if give_up_below > 0 else plan.min_windows
    n_windows = 0
    while True:
        n_windows += 1
        end = begin + n_windows * window_ns
        clients.sleep(max(0.0, (end - clock()) / _NS))
        if n_windows < least:
            continue
        estimate = _throughput(*clients.trace(begin, end), begin, n_windows, window_ns, batch_size)
        if estimate.high < give_up_below:
            return end, (GIVEN_UP,)
        if n_windows < plan.min_windows:
            continue
        if estimate.half_width <= plan.precision * estimate.value:
            return end, ()
        if n_windows * plan.window_s >= plan.max_s:
            return end, ("wide_interval",)


def summarize(trace: LoadTrace, plan: LoadSpec) -> LoadResult:
    """The trace as estimates. Latency counts requests that began and ended inside the measured span."""
    window_ns = int(plan.window_s * _NS)
    n_windows = (trace.end_ns - trace.begin_ns) // window_ns
    edges = trace.begin_ns + window_ns * np.arange(n_windows + 1, dtype=np.int64)
    rates = window_rates(trace.started_ns, trace.done_ns, edges, trace.batch_size)
    inside = (trace.started_ns >= trace.begin_ns) & (trace.done_ns <= trace.end_ns)
    latency_ms = (trace.done_ns - trace.started_ns)[inside] / 1e6
    percentiles = {f"p{q}": percentile_estimate(latency_ms, q) if len(latency_ms) else None for q in (50, 90, 95, 99)}
    return LoadResult(
        throughput_items_per_s=mean_estimate(rates),
        latency_ms=LatencySummary(**percentiles),
        n_requests=int(inside.sum()),
        window_rates=tuple(float(r) for r in rates),
        measured_s=(trace.end_ns - trace.begin_ns) / _NS,
        warmup_s=trace.warmup_s,
        flags=trace.flags,
    )


def _throughput(
    started: NDArray[np.int64], done: NDArray[np.int64], begin: int, n: int, window_ns: int, batch: int
) -> Estimate:
    edges = begin + window_ns * np.arange(n + 1, dtype=np.int64)
    return mean_estimate(window_rates(started, done, edges, batch))


def _warm_up(clients: _Clients, plan: LoadSpec, clock: Callable[[], int]) -> bool:
    """True when throughput has settled: enough time and calls have passed and the last two quarters agree; False at the cap."""
    begin = clock()
    cap = max(MAX_WARMUP_S, plan.warmup_s)
    quarter = max(plan.warmup_s, 0.2) / 4
    counts = [0]
    while True:
        clients.sleep(quarter)
        counts.append(clients.calls())
        elapsed = (clock() - begin) / _NS
        if elapsed >= cap:
            return False
        if elapsed < plan.warmup_s or counts[-1] < _MIN_WARMUP_CALLS:
            continue
        last, before = counts[-1] - counts[-2], counts[-2] - counts[-3] if len(counts) > 2 else 0
        # One request of difference is what counting whole requests in a short span gives anyway.
        if abs(last - before) <= max(1.0 + len(clients.lanes), _SETTLED * last):
            return True
