"""The open loop: requests arrive whether or not the last ones are answered, and wait in one queue for a free stream."""

from __future__ import annotations

import itertools
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotune.bench.arrivals import Schedule
from autotune.bench.assembly import Assembler
from autotune.bench.disturbance import CONTENDED, MOST_REPEATS, CpuMeter, Windows
from autotune.bench.feeds import ScheduleFeed
from autotune.bench.lanes import NS
from autotune.bench.served import ServedTrace
from autotune.bench.workers import Workers
from autotune.engines.protocol import Session
from autotune.spec.model import LoadSpec

OVERLOADED = "overloaded"
"""Flag of a load whose queue grew without end."""
_RISES = 3
"""Windows in a row in which the queue grew, before it counts as growing: a burst grows it in one or two."""
_HOPELESS_S = 5.0
"""A queue whose first request has waited so long ends the load at once, whatever the SLO."""

Enough = Callable[[ServedTrace, int], bool]
"""Whether the load may end: asked after each window, with what was served and how many windows count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """A session with all that an open loop on it needs."""

    session: Session
    assembler: Assembler
    batch_size: int
    plan: LoadSpec
    clock: Callable[[], int]
    meter: CpuMeter | None = None

    def run(
        self, schedule: Schedule, enough: Enough, max_s: float, most_repeats: int = MOST_REPEATS
    ) -> tuple[ServedTrace, tuple[str, ...], Windows]:
        """The schedule, served until `enough`, its end, `max_s` or an overload; but for the last, what was due is answered.

        Flags: `overloaded`, `contended`. Raises what the session raises. No thread is left.
        """
        serving = _Serving(self, schedule, most_repeats)
        try:
            end, overloaded = serving.until(enough, max_s)
        except BaseException:
            serving.workers.stop()
            raise
        finally:
            serving.wake()
            serving.workers.join()
        if serving.workers.errors:
            raise serving.workers.errors[0]
        disturbed = any(serving.windows.disturbed)
        flags = (OVERLOADED,) * overloaded + (CONTENDED,) * (disturbed and not serving.skips())
        return serving.trace(end, overloaded), flags, serving.windows


class _Serving:
    """One run of an open loop."""

    def __init__(self, loop: OpenLoop, schedule: Schedule, most_repeats: int) -> None:
        self._loop, self._schedule = loop, schedule
        self._awake = threading.Event()
        due = array("q", schedule.sample_due_ns().tobytes())
        # The first request must not be due before the threads are there; the schedule, which may be long, stands by then.
        self.begin_ns = loop.clock() + NS // 100
        np.frombuffer(due, dtype=np.int64)[:] += self.begin_ns
        wait_ns = int((loop.plan.arrivals.batch_wait_ms if loop.plan.arrivals else 0.0) * 1e6)
        self.feed = ScheduleFeed(due, loop.batch_size, wait_ns, loop.clock, self._sleep_until)
        self.windows = Windows(loop.meter, most_repeats)
        self.workers = Workers(loop.session, loop.assembler, self.feed, loop.clock)

    def _sleep_until(self, instant_ns: int) -> None:
        self._awake.wait(max(0.0, (instant_ns - self._loop.clock()) / NS))

    def wake(self) -> None:
        """Whoever waits for an arrival looks again whether there will be one."""
        self._awake.set()

    def until(self, enough: Enough, max_s: float) -> tuple[int, bool]:
        """The end of the last window, from the begin, after which nothing is given out, and whether the queue had grown."""
        plan, clock = self._loop.plan, self._loop.clock
        window_ns = int(plan.window_s * NS)
        last_ns = int(self._schedule.due_ns[-1]) if len(self._schedule.due_ns) else 0
        waits = [0]
        while True:
            end = (len(self.windows.shares) + 1) * window_ns
            self.workers.sleep(max(0.0, (self.begin_ns + end - clock()) / NS))
            self.windows.lap()
            now = clock()
            waits.append(self.feed.oldest_wait_ns(now) if self.feed.n_waiting(now) > 2 * self._in_hand() else 0)
            n_windows = self.windows.n_towards_the_end
            at_the_cap = n_windows * plan.window_s >= max_s or end >= last_ns
            if _grows(waits, rises=_RISES - 1 if at_the_cap else _RISES):
                self.feed.stop()
                return end, True
            # A queue that has just grown may be the first sign of one that grows without end.
            rests = waits[-1] <= waits[-2]
            if at_the_cap or (rests and enough(self.trace(end, overloaded=False, so_far=True), n_windows)):
                self.feed.end_at(self.begin_ns + end)
                return end, False

    def _in_hand(self) -> int:
        return self._loop.batch_size * self._loop.session.slots

    def skips(self) -> bool:
        """True when the disturbed windows do not count: enough others were left."""
        counted = self.windows.counted(min(self._loop.plan.min_windows, max(1, len(self.windows.shares) // 2)))
        return not all(counted)

    def trace(self, end_ns: int, overloaded: bool, *, so_far: bool = False) -> ServedTrace:
        """What was served up to a window's end; `so_far`: while the workers go on."""
        window_ns = int(self._loop.plan.window_s * NS)
        skipped = [i for i, d in enumerate(self.windows.disturbed) if d] if self.skips() else []
        feed, n = self.feed, len(self.feed.lag_ns)
        logs = [np.array(v[:n], dtype=np.int64) for v in (feed.first, feed.number, feed.ready_ns, feed.took_ns, feed.lag_ns)]
        done = self.workers.done_ns(len(feed.due_ns))
        return ServedTrace(
            schedule=self._schedule,
            end_ns=end_ns,
            done_ns=np.where(done > 0, done - self.begin_ns, 0),
            first=logs[0],
            number=logs[1],
            ready_ns=logs[2] - self.begin_ns,
            took_ns=logs[3] - self.begin_ns,
            lag_ns=logs[4],
            skipped=np.array([[i * window_ns, (i + 1) * window_ns] for i in skipped], dtype=np.int64).reshape(-1, 2),
            overloaded=overloaded,
        )


def _grows(waits: list[int], rises: int) -> bool:
    """True when the first in the queue has waited longer from window to window so often, or hopelessly long."""
    last = waits[-rises - 1 :]
    rising = len(last) > rises and all(b > a for a, b in itertools.pairwise(last))
    return rising or waits[-1] > _HOPELESS_S * NS
