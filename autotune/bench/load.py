"""Closed loops: clients that send their next request when the last is answered, while windows of throughput are counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.bench.beside import COUNTED_BESIDE, LOG_RATIO, Turns
from autotune.bench.clients import ClosedLoop, SlotThreads
from autotune.bench.disturbance import CONTENDED, CpuMeter, Windows
from autotune.bench.lanes import NS, Times, overlapping, produced_rates
from autotune.bench.lanes import window_rates as window_rates  # re-exported: what a trace is counted with
from autotune.bench.statistics import mean_estimate, percentile_estimate
from autotune.engines.protocol import Inputs, Session
from autotune.records import GIVEN_UP, Estimate, LatencySummary, LoadFigures, Series
from autotune.spec.model import LoadSpec

WIDE_INTERVAL = "wide_interval"
"""Flag of a load whose interval was still wider than asked for at its cap."""
_MIN_WARMUP_CALLS = 20
MAX_WARMUP_S = 10.0
_LEAST_WINDOWS = 3
"""Before a load is given up: the interval of two windows is wider than most differences between candidates."""
_SETTLED = 0.03
"""Warm-up ends when two consecutive quarters of it agree within 3 %: the run-to-run spread of one setting on shared cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTrace:
    """What the loop saw after the warm-up. Times are monotonic nanoseconds, int64, shape (n_requests,), in completion order.

    `counted`: for each window whether it counts, empty where all do. `foreign_share`: of the CPUs that others took in those.
    `left_to_build`: for each window whether a build ran in it, so that it does not count; empty where none did. `beside`: what
    a build did to the windows, as `Turns.log_ratios`; None where none took turns.
    """

    started_ns: Times
    done_ns: Times
    batch_size: int
    begin_ns: int
    end_ns: int
    warmup_s: float
    flags: tuple[str, ...] = ()
    counted: tuple[bool, ...] = ()
    foreign_share: float | None = None
    left_to_build: tuple[bool, ...] = ()
    beside: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """Throughput and latency of one load, with intervals; `flags` say what a reader should know about them.

    `warmup_s`: what lay before the span that the latency is of. `completed_items_per_s`: what the engine did in that span,
    where the throughput is something else. `beside`: what the load tells of a build that took turns with being stopped.
    """

    throughput_items_per_s: Estimate
    latency_ms: LatencySummary
    n_requests: int
    window_rates: tuple[float, ...]
    measured_s: float
    warmup_s: float
    flags: tuple[str, ...]
    figures: LoadFigures | None = None
    completed_items_per_s: Estimate | None = None
    beside: Series | None = None


def run_closed_loop(
    session: Session,
    batches: Sequence[Inputs],
    batch_size: int,
    plan: LoadSpec,
    clock: Callable[[], int] = time.monotonic_ns,
    give_up_below: float = 0.0,
    meter: CpuMeter | None = None,
    turns: Turns | None = None,
) -> LoadTrace:
    """The session under full load: warmed up until it settles, then measured until the plan's stop rule holds or at the cap.

    Ends early, with the flag `given_up`, once the interval of the items per second lies wholly below `give_up_below`.
    Raises what the session raises. The slots' threads have ended when this returns.
    """
    return count_closed(ClosedLoop(session, batches, clock), batch_size, plan, clock, give_up_below, meter, turns)


def count_closed(
    clients: SlotThreads,
    batch_size: int,
    plan: LoadSpec,
    clock: Callable[[], int],
    give_up_below: float = 0.0,
    meter: CpuMeter | None = None,
    turns: Turns | None = None,
) -> LoadTrace:
    """What clients under way do until the stop rule holds, each request of `batch_size` items; then they have ended.

    Windows in which the build of `turns` runs do not count, unless it is harmless.
    """
    with turns or nullcontext():
        try:
            warm_begin = clock()
            settled = warm_up(clients, plan, clock)
            if turns is not None:
                turns.open_windows(_request_s(clients, warm_begin, clock()))
            begin = clock()
            windows = Windows(meter, turns=turns)
            end, flags = _count_windows(clients, plan, clock, begin, batch_size, give_up_below, windows)
        finally:
            clients.finish()
    started, done = overlapping(clients.lanes, begin, end)
    counted = windows.counted(_least(plan, give_up_below))
    if any(c and d for c, d in zip(counted, windows.disturbed, strict=True)):
        flags = (*flags, CONTENDED)
    if turns is not None and turns.harmless and any(turns.beside):
        flags = (*flags, COUNTED_BESIDE)
    return LoadTrace(
        started_ns=started,
        done_ns=done,
        batch_size=batch_size,
        begin_ns=begin,
        end_ns=end,
        warmup_s=(begin - warm_begin) / NS,
        flags=flags if settled else ("unsettled", *flags),
        counted=tuple(counted),
        foreign_share=windows.foreign_share(counted),
        left_to_build=tuple(windows.left_to_build) if turns is not None else (),
        beside=None if turns is None else _compared(turns, clients, begin, batch_size, plan, windows),
    )


def _request_s(clients: SlotThreads, begin_ns: int, end_ns: int) -> float:
    """Mean time that a request took between the two instants, in seconds; 0 where none was done."""
    started, done = overlapping(clients.lanes, begin_ns, end_ns)
    return float(np.mean(done - started)) / NS if len(done) else 0.0


def _compared(
    turns: Turns, clients: SlotThreads, begin: int, batch_size: int, plan: LoadSpec, windows: Windows
) -> tuple[tuple[int, float], ...]:
    edges = [begin + i * int(plan.window_s * NS) for i in range(len(windows.shares) + 1)]
    return turns.log_ratios(produced_rates(clients.lanes, edges, batch_size).tolist(), windows.disturbed)


def _least(plan: LoadSpec, give_up_below: float) -> int:
    return min(_LEAST_WINDOWS, plan.min_windows) if give_up_below > 0 else plan.min_windows


def _count_windows(
    clients: SlotThreads,
    plan: LoadSpec,
    clock: Callable[[], int],
    begin: int,
    batch_size: int,
    give_up_below: float,
    windows: Windows,
) -> tuple[int, tuple[str, ...]]:
    """The end of the last window that was counted, and the flag that says why it was the last, if the interval does not.

    A disturbed window does not count towards the least number and is repeated at the end, up to the bound.
    """
    window_ns = int(plan.window_s * NS)
    edges = [begin]
    while True:
        edges.append(edges[-1] + window_ns)
        clients.sleep(max(0.0, (edges[-1] - clock()) / NS))
        windows.lap()
        n, least = windows.n_towards_the_end, _least(plan, give_up_below)
        if n < least:
            continue
        estimate = mean_estimate(produced_rates(clients.lanes, edges, batch_size)[windows.counted(least)])
        if estimate.high < give_up_below:
            return edges[-1], (GIVEN_UP,)
        if n < plan.min_windows:
            continue
        if estimate.half_width <= plan.precision * estimate.value:
            return edges[-1], ()
        if n * plan.window_s >= plan.max_s:
            return edges[-1], (WIDE_INTERVAL,)


def summarize(trace: LoadTrace, plan: LoadSpec) -> LoadResult:
    """The trace as estimates. Latency counts requests that began and ended inside the windows that count."""
    window_ns = int(plan.window_s * NS)
    n_windows = (trace.end_ns - trace.begin_ns) // window_ns
    edges = trace.begin_ns + window_ns * np.arange(n_windows + 1, dtype=np.int64)
    counted = np.array(trace.counted or [True] * n_windows, dtype=bool)
    rates = window_rates(trace.started_ns, trace.done_ns, edges, trace.batch_size)[counted]
    inside = (trace.started_ns >= trace.begin_ns) & (trace.done_ns <= trace.end_ns)
    left = np.array(trace.left_to_build or [False] * n_windows, dtype=bool)
    inside[inside] = _in_counted(trace, inside, window_ns, counted, left)
    latency_ms = (trace.done_ns - trace.started_ns)[inside] / 1e6
    return LoadResult(
        throughput_items_per_s=mean_estimate(rates),
        latency_ms=latency_summary(latency_ms),
        n_requests=int(inside.sum()),
        window_rates=tuple(float(r) for r in rates),
        measured_s=(trace.end_ns - trace.begin_ns) / NS,
        warmup_s=trace.warmup_s,
        flags=trace.flags,
        figures=LoadFigures(
            scenario=plan.scenario,
            n_requests=int(inside.sum()),
            n_repeated_windows=int((~counted & ~left).sum()),
            foreign_cpu_share=trace.foreign_share,
        ),
        beside=None if trace.beside is None else _beside(trace.beside, trace.warmup_s, plan),
    )


def _beside(pairs: Sequence[tuple[int, float]], warmup_s: float, plan: LoadSpec) -> Series:
    """What the load tells of a build beside it, by the second in which a pair of windows began."""
    return Series(
        metric=LOG_RATIO,
        unit="ln(ratio)",
        t_s=tuple(round(warmup_s + i * plan.window_s, 3) for i, _ in pairs),
        values=tuple(round(value, 6) for _, value in pairs),
        absent=None if pairs else "no two windows compare: the build had ended, waited, or requests take too long for windows",
    )


def _in_counted(
    trace: LoadTrace,
    inside: NDArray[np.bool_],
    window_ns: int,
    counted: NDArray[np.bool_],
    left: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Of the requests `inside` the span: which began in windows that count, with no disturbed one until they ended.

    Those that end in a window that was `left` to a build count, or the long ones would be missing: every second window is.
    """
    before = np.concatenate(([0], np.cumsum(~counted & ~left)))
    first, last = (
        np.clip((times[inside] - trace.begin_ns) // window_ns, 0, len(counted) - 1)
        for times in (trace.started_ns, trace.done_ns)
    )
    return np.asarray((before[last + 1] == before[first]) & counted[first])


def latency_summary(latency_ms: NDArray[np.float64]) -> LatencySummary:
    """The percentiles of latencies in order of time, shape (n,), in milliseconds; empty where there are none."""
    if len(latency_ms) == 0:
        return LatencySummary()
    return LatencySummary(**{f"p{q}": percentile_estimate(latency_ms, q) for q in (50, 90, 95, 99)})


def warm_up(clients: SlotThreads, plan: LoadSpec, clock: Callable[[], int]) -> bool:
    """True when throughput has settled: enough time and calls have passed and the last two quarters agree; False at the cap."""
    begin = clock()
    cap = max(MAX_WARMUP_S, plan.warmup_s)
    quarter = max(plan.warmup_s, 0.2) / 4
    counts = [0]
    while True:
        clients.sleep(quarter)
        counts.append(clients.calls())
        elapsed = (clock() - begin) / NS
        if elapsed >= cap:
            return False
        if elapsed < plan.warmup_s or counts[-1] < _MIN_WARMUP_CALLS:
            continue
        last, before = counts[-1] - counts[-2], counts[-2] - counts[-3] if len(counts) > 2 else 0
        # One request of difference is what counting whole requests in a short span gives anyway.
        if abs(last - before) <= max(1.0 + len(clients.lanes), _SETTLED * last):
            return True
