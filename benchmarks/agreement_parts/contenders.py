"""Who serves the arrivals of a Server load, each by a turn on one session: LoadGen, our open loop, and a thread of our own."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.bench.arrivals import Schedule
from autotune.bench.lanes import NS
from autotune.bench.loadgen import LoadGenFeed
from autotune.bench.loadgen_log import read_log
from autotune.bench.open_loop import OpenLoop
from autotune.bench.scenario import Loadable, measured_peak, run_scenario
from autotune.bench.workers import Workers, prompt, wake_on_time
from autotune.engines.protocol import Inputs, Outputs, Session
from autotune.spec.model import LoadSpec

SHORT_WARMUP = {"window_s": 0.1, "min_windows": 5, "warmup_s": 0.5, "precision": 0.05}

Times = NDArray[np.int64]
Latencies = NDArray[np.float64]


def load_of(seconds: float, **scenario: Any) -> LoadSpec:
    """A load of so many seconds, whose interval does not end it."""
    windows = {"window_s": seconds / 10, "min_windows": 10, "max_s": seconds, "warmup_s": min(1.0, seconds), "precision": 1e-6}
    return LoadSpec.model_validate(windows | scenario)


@contextmanager
def awake() -> Iterator[None]:
    """No processor halts: on each one turns a loop that gives way to everything else (SCHED_IDLE, sched(7)).

    As with the kernel's idle=poll: a thread that is woken on a halted processor of a virtual machine begins later.
    """
    loop = (
        "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\n"
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
        "parent = os.getppid()\n"
        "while os.getppid() == parent: pass"
    )
    cpus = sorted(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", loop, str(cpu)]) for cpu in cpus]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.wait()


class EngineTimes:
    """A session that writes down how long each batch is with it, from `submit` to the end of `wait`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._begun: dict[int, int] = {}
        self._batches: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def submit(self, inputs: Inputs, slot: int) -> None:
        """As the session's."""
        self._begun[slot] = time.monotonic_ns()
        self._session.submit(inputs, slot)

    def wait(self, slot: int) -> Outputs:
        """As the session's."""
        found = self._session.wait(slot)
        self._batches.append((self._begun[slot], time.monotonic_ns()))
        return found

    def taken(self, due_ns: Times) -> Latencies:
        """Milliseconds of each batch of a load with these arrivals that has just ended, shape (n_batches,)."""
        began, ended = np.array(self._batches, dtype=np.int64).T
        self._batches.clear()
        of_the_load = began >= ended.max() - (due_ns[-1] - due_ns[0])
        found: Latencies = (ended - began)[of_the_load] / 1e6
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One load of a contender: arrivals in ns from the first and latencies, both shape (n,)."""

    due_ns: Times
    latency_ms: Latencies
    late_ms: float | None = None
    """How late LoadGen's thread was at the 99th percentile."""
    engine_ms: Latencies = field(default_factory=lambda: np.empty(0))


def by_loadgen(on: Loadable, server: dict[str, float], due_ns: Times | None, seconds: float) -> Turn:
    """LoadGen's Server, which draws the same arrivals from the same seed."""
    plan = load_of(seconds, driver="loadgen", server=server, **SHORT_WARMUP)
    run_scenario(on, plan)
    run = read_log((on.logs or Path()) / "run")
    order = np.argsort(run.scheduled_ns, kind="stable")
    drawn = run.scheduled_ns[order] - run.scheduled_ns[order[0]]
    if due_ns is not None and (len(drawn) != len(due_ns) or np.max(np.abs(drawn - due_ns)) > 10_000):
        raise RuntimeError("LoadGen drew other arrivals from the same seed")
    late_ms = float(np.percentile(run.issue_delay_ns, 99)) / 1e6
    return Turn(due_ns=drawn if due_ns is None else due_ns, latency_ms=run.latency_ns[order] / 1e6, late_ms=late_ms)


def by_our_open_loop(on: Loadable, server: dict[str, float], due_ns: Times | None, seconds: float) -> Turn:
    """Our open loop on these arrivals, all of them, after the same warm-up."""
    due_ns, plan = _warmed(on, server, due_ns, seconds)
    plan = plan.model_copy(update={"window_s": 1.0})  # a queue that grows in some short windows is a burst
    loop = OpenLoop(session=on.session, assembler=on.assembler(), batch_size=on.batch_size, plan=plan, clock=time.monotonic_ns)
    schedule = Schedule(due_ns=due_ns, samples=np.ones_like(due_ns), items_per_s=len(due_ns) / (due_ns[-1] / NS))
    served, _, _ = loop.run(schedule, lambda *_: False, math.inf)  # up to the last arrival
    found = served.latencies_ns() / 1e6
    if len(found) != len(due_ns):
        raise RuntimeError(f"{len(found)} of {len(due_ns)} arrivals were counted")
    return Turn(due_ns=due_ns, latency_ms=found)


def by_hand(on: Loadable, server: dict[str, float], due_ns: Times | None, seconds: float) -> Turn:
    """Nothing of LoadGen's and not our open loop: a thread waits for each arrival and hands it to a worker, as LoadGen's does.

    What this adds to our open loop, whose worker waits for the arrival itself, is what handing over takes. LoadGen hears of a
    batch a little later than this, once its answers have been made for it.
    """
    due_ns, _ = _warmed(on, server, due_ns, seconds)
    clock, done_ns = time.monotonic_ns, [0] * len(due_ns)

    def complete(ids: list[int]) -> None:
        at = clock()
        for i in ids:
            done_ns[i] = at

    feed = LoadGenFeed(on.batch_size, int(server["batch_wait_ms"] * 1e6), clock, complete)
    workers = Workers(on.session, on.assembler(), feed, clock)
    begin = clock() + NS // 100
    try:
        wake_on_time()
        with prompt():
            for i, due in enumerate((due_ns + begin).tolist()):
                time.sleep(max(0.0, (due - clock()) / NS))
                feed.issue([i], [0])
                if workers.errors:
                    break
        while not all(done_ns) and not workers.errors:
            time.sleep(0.01)
    finally:
        workers.stop()
        workers.join()
    if workers.errors:
        raise workers.errors[0]
    return Turn(due_ns=due_ns, latency_ms=(np.array(done_ns, dtype=np.int64) - begin - due_ns) / 1e6)


def _warmed(on: Loadable, server: dict[str, float], due_ns: Times | None, seconds: float) -> tuple[Times, LoadSpec]:
    """The arrivals, and the plan of a load whose warm-up, as LoadGen's, has just been."""
    if due_ns is None:
        raise RuntimeError("LoadGen draws the arrivals: it has the first turn")
    plan = load_of(seconds, server=server, **SHORT_WARMUP)
    measured_peak(on, plan, time.monotonic_ns)
    return due_ns, plan
