"""run_scenario: a session under the load that the study asks for, whichever that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.bench.assembly import Assembler
from autotune.bench.beside import Build, Turns
from autotune.bench.clients import ClosedLoop
from autotune.bench.disturbance import CpuMeter
from autotune.bench.feeds import QueryFeed
from autotune.bench.load import LoadResult, count_closed, run_closed_loop, summarize, warm_up
from autotune.bench.open_loop import OpenLoop
from autotune.bench.server import Peak, run_server
from autotune.bench.workers import Workers
from autotune.engines.protocol import Inputs, Session
from autotune.spec.model import LoadSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Loadable:
    """A session and what it is loaded with. `pool`: batches of `batch_size` samples. `partial`: it takes fewer samples as well.

    `seed`: arrivals are drawn from it. `logs`: the folder for what a driver writes, if it does. `build`: one on other cores
    that takes turns with being stopped, where the windows of a closed loop tell whether it disturbs; `build_is_harmless`: that
    is known.
    """

    session: Session
    pool: Sequence[Inputs]
    batch_size: int
    partial: bool = False
    seed: int = 0
    logs: Path | None = None
    meter: CpuMeter | None = None
    build: Build | None = None
    build_is_harmless: bool = False

    def turns(self, plan: LoadSpec) -> Turns | None:
        """The turns that the build takes, None where there is none."""
        if self.build is None:
            return None
        return Turns(self.build, plan.window_s, self.seed, harmless=self.build_is_harmless)

    def assembler(self, *, whole: bool = False) -> Assembler:
        """Makes batches of the pool's samples."""
        return Assembler(self.pool, self.batch_size, self.session.slots, partial=self.partial, whole=whole)


def run_scenario(
    on: Loadable, plan: LoadSpec, give_up_below: float = 0.0, clock: Callable[[], int] = time.monotonic_ns
) -> LoadResult:
    """Throughput and latency under the plan's scenario; what both mean in each is in docs/scenarios.md.

    `give_up_below`: items/s that the session must reach, or its load ends early, where throughput is what is searched for.
    Raises what the session raises, and EnvironmentProblem where a driver is not installed.
    """
    if plan.driver == "loadgen":
        from autotune.bench.loadgen import run_loadgen

        return run_loadgen(on, plan, give_up_below, clock)
    if plan.scenario == "offline":
        trace = run_closed_loop(on.session, on.pool, on.batch_size, plan, clock, give_up_below, on.meter, on.turns(plan))
        return summarize(trace, plan)
    if plan.samples_per_query is not None:
        return _queries(on, plan, plan.samples_per_query, give_up_below, clock)
    return _open(on, plan, give_up_below, clock)


def _queries(on: Loadable, plan: LoadSpec, n: int, give_up_below: float, clock: Callable[[], int]) -> LoadResult:
    """One query after the other; with one sample each a single stream is used, and with more as many as there are batches."""
    feed = QueryFeed(n, on.batch_size, clock)
    workers = Workers(on.session, on.assembler(), feed, clock, n_slots=-(-n // on.batch_size), counted=[feed.lane])
    found = summarize(count_closed(workers, n, plan, clock, give_up_below, on.meter, on.turns(plan)), plan)
    return replace(found, figures=None if found.figures is None else replace(found.figures, mean_batch=min(n, on.batch_size)))


def _open(on: Loadable, plan: LoadSpec, give_up_below: float, clock: Callable[[], int]) -> LoadResult:
    began = clock()
    peak = measured_peak(on, plan, clock) if plan.searches_rate else None
    settled = peak is not None or warmed_up(on, plan, clock)
    loop = OpenLoop(
        session=on.session, assembler=on.assembler(), batch_size=on.batch_size, plan=plan, clock=clock, meter=on.meter
    )
    found = run_server(loop, peak, on.seed, began, give_up_below)
    return found if settled else replace(found, flags=tuple(dict.fromkeys(("unsettled", *found.flags))))


def warmed_up(on: Loadable, plan: LoadSpec, clock: Callable[[], int]) -> bool:
    """True when the session, under full load for a while, has settled; nothing runs on it any more."""
    clients = ClosedLoop(on.session, on.pool, clock)
    try:
        return warm_up(clients, plan, clock)
    finally:
        clients.finish()


def measured_peak(on: Loadable, plan: LoadSpec, clock: Callable[[], int]) -> Peak:
    """The closed loop at full load, to a coarser interval than a result's: it is only where a search begins."""
    coarse = plan.model_copy(update={"precision": min(0.5, 3 * plan.precision), "max_s": min(plan.max_s, 5.0)})
    found = summarize(run_closed_loop(on.session, on.pool, on.batch_size, coarse, clock, meter=on.meter), plan)
    return Peak(items_per_s=found.throughput_items_per_s, flags=tuple(f for f in found.flags if f == "unsettled"))
