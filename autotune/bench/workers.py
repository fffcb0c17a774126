"""Workers: the threads that run on a session's slots what a feed gives out."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotune.bench.assembly import Assembler
from autotune.bench.clients import SlotThreads
from autotune.bench.feeds import Feed, Work
from autotune.bench.lanes import Lane, window_rates
from autotune.engines.protocol import Session

_PR_SET_TIMERSLACK = 29  # prctl(2)
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call sched_setattr(2), which the C library does not wrap."""
_SHORTEST_SLICE_NS = 100_000


def _times() -> array[int]:
    return array("q")


@dataclass(slots=True)
class WorkLog:
    """What one worker ran: the first sample of each batch and their number, beside its lane's times."""

    first: array[int] = field(default_factory=_times)
    number: array[int] = field(default_factory=_times)


class Workers(SlotThreads):
    """Each thread takes from the feed, runs it on a slot of its own, and takes again, until the feed has no more.

    `n_slots`: so many slots are used. `counted`: the lanes that throughput is counted on, if not the workers' own.
    Constructing starts them; with `begin` false `drive` may be called by hand instead.
    """

    def __init__(
        self,
        session: Session,
        assembler: Assembler,
        feed: Feed,
        clock: Callable[[], int],
        n_slots: int | None = None,
        *,
        counted: Sequence[Lane] | None = None,
        begin: bool = True,
    ) -> None:
        slots = session.slots if n_slots is None else min(n_slots, session.slots)
        super().__init__(session, slots)
        self._own = [Lane() for _ in range(slots)]
        self.lanes = self._own if counted is None else counted
        self.logs = [WorkLog() for _ in range(slots)]
        self._session, self._assembler, self._feed, self._clock = session, assembler, feed, clock
        if begin:
            self.start()

    def drive(self, slots: Sequence[int]) -> None:
        """One worker's life: with a slot free it takes what there is, without one it waits for what it submitted first."""
        wake_on_time()
        clock, batch, take, done = self._clock, self._assembler.batch, self._feed.take, self._feed.done
        submit, wait = self._session.submit, self._session.wait
        free, flying = deque(slots), deque[tuple[int, Work]]()
        while True:
            # Only who has nothing in flight may sleep until there is something to take.
            while free and (work := take(not flying)) is not None:
                slot = free.popleft()
                log = self.logs[slot]
                self._own[slot].started_ns.append(clock())
                log.first.append(work[0])
                log.number.append(work[1])
                submit(batch(slot, work[0], work[1]), slot)
                flying.append((slot, work))
            if not flying:
                return
            slot, work = flying.popleft()
            wait(slot)
            at = clock()
            self._own[slot].done_ns.append(at)
            done(work, at)
            free.append(slot)

    def stop(self) -> None:
        """The feed gives out nothing more."""
        super().stop()
        self._feed.stop()

    def mean_batch(self) -> float | None:
        """Samples per submission, on average."""
        numbers = [n for log in self.logs for n in log.number]
        return sum(numbers) / len(numbers) if numbers else None

    def window_rates(self, begin_ns: int, end_ns: int, window_ns: int) -> NDArray[np.float64]:
        """Samples per second in each whole window of the span; of a span below two windows in its halves."""
        n_windows = int(max(2, (end_ns - begin_ns) // window_ns))
        edges = np.linspace(begin_ns, begin_ns + min(n_windows * window_ns, end_ns - begin_ns), n_windows + 1).astype(np.int64)
        ended = []
        for lane, log in zip(self._own, self.logs, strict=True):
            n = len(lane.done_ns)
            ended.append(np.array([lane.started_ns[:n], lane.done_ns[:n], log.number[:n]], dtype=np.int64))
        started, done, number = np.concatenate(ended, axis=1)
        return window_rates(started, done, edges, number)

    def done_ns(self, n_samples: int) -> NDArray[np.int64]:
        """When each of the first `n_samples` was done, shape (n_samples,); 0 where it was not."""
        found = np.zeros(n_samples, dtype=np.int64)
        for lane, log in zip(self._own, self.logs, strict=True):
            n = len(lane.done_ns)
            first, number, done = (np.array(v[:n], dtype=np.int64) for v in (log.first, log.number, lane.done_ns))
            index = np.repeat(first - np.concatenate(([0], np.cumsum(number)[:-1])), number) + np.arange(number.sum())
            inside = index < n_samples
            found[index[inside]] = np.repeat(done, number)[inside]
        return found


def wake_on_time() -> None:
    """This thread sleeps as exactly as the kernel can: by default it wakes up to 50 µs late (prctl(2): timer slack)."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    except (OSError, AttributeError):
        return  # not Linux: wake-ups are later, which the feed's lag then shows


@contextmanager
def prompt() -> Iterator[None]:
    """Inside the block this thread, when it wakes up, takes a processor from a thread that computes: its slice is the shortest.

    A slice, 0.1 ms here and 3 ms by default, is what a thread of the same priority may use up before another gets its turn.
    Linux from 6.12 on (sched(7)); elsewhere, and for a thread of another policy (chrt), nothing changes. On two cores of a
    virtual machine LoadGen's thread was late by 3.4 to 6.9 ms at the 99th percentile beside an engine that ran on its caller's
    thread; so by 0.04 to 0.33 ms, once 1.4 (late_ms of MobileNetV2 on ONNX Runtime in
    benchmarks/results/agreement-before-short-slice.json and agreement-small-batches.json).
    """
    before = _set_slice(_SHORTEST_SLICE_NS)
    try:
        yield
    finally:
        if before:
            _set_slice(0)  # the kernel's own


def _set_slice(nanoseconds: int) -> bool:
    """Whether the kernel took it for this thread, which is an ordinary one and stays one of the same nice value."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    # struct sched_attr: size, policy (SCHED_OTHER), flags, nice, priority, runtime (the slice), deadline, period
    nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    attributes = struct.pack("=IIQiIQQQ", 48, 0, 0, nice, 0, nanoseconds, 0, 0)
    try:
        return bool(ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0)
    except (OSError, AttributeError):
        return False
