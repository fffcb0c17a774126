"""An open loop on a clock of its own: one server whose service times are given, and no time that passes."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from autotune.bench.arrivals import Schedule
from autotune.bench.assembly import Assembler
from autotune.bench.feeds import ScheduleFeed
from autotune.bench.served import ServedTrace
from autotune.bench.workers import Workers
from autotune.engines.protocol import Inputs, Outputs

MS = 1_000_000


class VirtualServer:
    """A session with one slot; each submission moves the clock on by `service_ns(number of the submission, samples in it)`."""

    slots = 1

    def __init__(self, service_ns: Callable[[int, int], int]) -> None:
        self.now = 0
        self.sizes: list[int] = []
        self._service_ns = service_ns

    def clock(self) -> int:
        return self.now

    def sleep_until(self, instant_ns: int) -> None:
        self.now = max(self.now, instant_ns)

    def submit(self, inputs: Inputs, slot: int) -> None:
        self.sizes.append(len(inputs["x"]))

    def wait(self, slot: int) -> Outputs:
        self.now += self._service_ns(len(self.sizes) - 1, self.sizes[-1])
        return {}


def at_ms(*due: float, samples: tuple[int, ...] = ()) -> Schedule:
    """Requests due at these milliseconds, of one sample each or of as many as given."""
    n = np.array(samples or (1,) * len(due), dtype=np.int64)
    due_ns = np.array([round(d * MS) for d in due], dtype=np.int64)
    return Schedule(due_ns=due_ns, samples=n, items_per_s=1000 * float(n.sum()) / max(due[-1], 1e-9))


def serve(
    schedule: Schedule,
    service_ms: float | Callable[[int, int], float],
    batch_size: int = 1,
    wait_ms: float = 0.0,
    end_ns: int | None = None,
    partial: bool = True,
) -> tuple[ServedTrace, VirtualServer]:
    """The schedule served to its end, or to `end_ns`, by one server; the service of each submission in milliseconds."""
    given = service_ms if callable(service_ms) else lambda i, n: float(service_ms)
    server = VirtualServer(lambda i, n: round(given(i, n) * MS))
    due: array[int] = array("q", schedule.sample_due_ns().tobytes())
    feed = ScheduleFeed(due, batch_size, round(wait_ms * MS), server.clock, server.sleep_until)
    if end_ns is not None:
        feed.end_at(end_ns)
    pool: list[Any] = [{"x": np.zeros((batch_size, 2), dtype=np.float32)} for _ in range(3)]
    session: Any = server
    workers = Workers(session, Assembler(pool, batch_size, 1, partial=partial), feed, server.clock, begin=False)
    workers.drive([0])
    first, number, ready, took, lag = (
        np.array(v, dtype=np.int64) for v in (feed.first, feed.number, feed.ready_ns, feed.took_ns, feed.lag_ns)
    )
    trace = ServedTrace(
        schedule=schedule,
        end_ns=int(schedule.due_ns[-1]) if end_ns is None else end_ns,
        done_ns=workers.done_ns(len(due)),
        first=first,
        number=number,
        ready_ns=ready,
        took_ns=took,
        lag_ns=lag,
        skipped=np.empty((0, 2), dtype=np.int64),
    )
    return trace, server
