"""Streams, events and graphs of the double. What is enqueued runs when somebody synchronizes, on the thread that does."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns

from autotune.cuda.host_device import HostDevice, Work
from autotune.cuda.runtime import Event, Stream, own
from autotune.errors import CandidateRejected, Unstable

_handles = itertools.count(0x5700_0010, 0x10)  # never 0, 1 or 2: CUDA's default streams
_streams: dict[int, HostStream] = {}


def enqueue(handle: int, work: Work) -> None:
    """`work` runs when the stream of this handle comes to it, or belongs to the graph while that stream is captured.

    Raises Unstable where no open stream has this handle.
    """
    stream_of(handle).enqueue(work)


def stream_of(handle: int) -> HostStream:
    """The open stream with this handle. Raises Unstable where there is none."""
    found = _streams.get(handle)
    if found is None:
        raise Unstable(f"invalid resource handle: no open stream has the handle {handle:#x}", stage="load")
    return found


class HostStream:
    """A queue that runs in order."""

    def __init__(self, device: HostDevice) -> None:
        self.handle = next(_handles)
        self._device = device
        self._queue: deque[Work] = deque()
        self.recording: list[Work] | None = None
        _streams[self.handle] = self
        device.open["stream"] += 1

    def enqueue(self, work: Work) -> None:
        """`work` runs at the next synchronization, or belongs to the graph while the stream is captured."""
        self._device.check()
        (self._queue if self.recording is None else self.recording).append(work)

    def synchronize(self) -> None:
        """The queue is empty. Raises Unstable where some work failed, and ever after."""
        self._device.check()
        stream_of(self.handle).refuse_while_capturing("synchronize")
        self.run_until(lambda: False)

    def run_until(self, passed: Callable[[], bool]) -> None:
        """Work has run in order until `passed` or the end of the queue."""
        with self._device.lock:
            while self._queue and not passed():
                self._device.run(self._queue.popleft())

    def wait_for(self, event: Event) -> None:
        """What follows in this queue runs after what was recorded last; an event that was never recorded holds up nothing."""
        mark = own(event, HostEvent).mark
        self.enqueue(lambda: mark.run_up_to() if mark else None)

    def refuse_while_capturing(self, what: str) -> None:
        """Raises Unstable for a call that CUDA does not permit on a stream that is captured."""
        if self.recording is not None:
            raise Unstable(f"{what}: operation not permitted when stream is capturing", stage="open")

    @property
    def is_open(self) -> bool:
        """False once it was closed."""
        return _streams.get(self.handle) is self

    def close(self) -> None:
        """The handle means nothing any more. What is still queued runs first, as after cudaStreamDestroy."""
        if _streams.pop(self.handle, None) is None:
            return
        self._device.open["stream"] -= 1
        try:
            self.run_until(lambda: False)
        except CandidateRejected:
            pass  # the device remembers it; cudaStreamDestroy does not report it either


@dataclass(slots=True, eq=False)
class _Mark:
    """One recording of an event: when it passed, on this host's clock."""

    stream: HostStream
    passed_ns: int | None = None

    def run_up_to(self) -> None:
        self.stream.run_until(lambda: self.passed_ns is not None)

    def pass_now(self) -> None:
        self.passed_ns = perf_counter_ns()


class HostEvent:
    """A mark in a queue; its times are of this host's clock and say nothing of any device."""

    def __init__(self, device: HostDevice, *, timing: bool) -> None:
        self._device, self._timing = device, timing
        self.mark: _Mark | None = None
        self._closed = False
        device.open["event"] += 1

    def record(self, stream: Stream) -> None:
        """A new mark at the end of the queue; an earlier one is forgotten."""
        self._check_open()
        mark = _Mark(stream_of(stream.handle))
        enqueue(stream.handle, mark.pass_now)
        self.mark = mark

    def synchronize(self) -> None:
        """The stream has run up to the mark. An event that was never recorded has passed."""
        self._device.check()
        self._check_open()
        if self.mark is not None:
            self.mark.stream.refuse_while_capturing("synchronize an event")
            self.mark.run_up_to()

    def elapsed_ms(self, earlier: Event) -> float:
        """Raises Unstable where one of the two has no timing, or has not passed."""
        self._device.check()
        events = (own(earlier, HostEvent), self)
        passed = [e.mark.passed_ns for e in events if e._timing and e.mark is not None and e.mark.passed_ns is not None]
        if len(passed) != 2:
            raise Unstable("elapsed time needs two timing events that have passed", stage="load")
        return (passed[1] - passed[0]) / 1e6

    def _check_open(self) -> None:
        if self._closed:
            raise Unstable("invalid resource handle: the event is closed", stage="load")

    def close(self) -> None:
        """The event is gone."""
        if not self._closed:
            self._closed = True
            self._device.open["event"] -= 1


class HostGraph:
    """The recorded work, run again at each launch."""

    def __init__(self, device: HostDevice, work: list[Work]) -> None:
        self._device, self._work = device, tuple(work)
        self._closed = False
        device.open["graph"] += 1

    def launch(self, stream: Stream) -> None:
        """All of it is enqueued."""
        self._device.check("launch")
        if self._closed:
            raise Unstable("invalid resource handle: the graph is closed", stage="load")
        for work in self._work:
            enqueue(stream.handle, work)

    def close(self) -> None:
        """The graph is gone; what was launched still runs."""
        if not self._closed:
            self._closed = True
            self._device.open["graph"] -= 1


class HostCapture:
    """The recording of one block."""

    def __init__(self) -> None:
        self.found: HostGraph | None = None

    @property
    def graph(self) -> HostGraph:
        """What was recorded."""
        if self.found is None:
            raise RuntimeError("the graph exists once the block of capture() has ended")
        return self.found
