"""The seam between an engine and CUDA: streams, events, pinned memory, a capped device pool, copies and graphs.

An engine is written against these protocols and never sees which library is behind them. Pointers are plain addresses, sizes
are bytes. Everything is on the one selected GPU, in its primary context, and may be used from any thread; one stream or buffer
belongs to one thread at a time. Copies run beside other work only from pinned memory, which is why there is no other kind.
Whatever a call cannot do raises: OutOfMemory where the pool's cap or the device is exceeded, Unstable where an execution failed
(the context may then be unusable: sticky errors stay), EnvironmentProblem where the library or the driver is missing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Thing = TypeVar("Thing")


class Stream(Protocol):
    """A queue of work on the device. `handle` is the cudaStream_t, as TensorRT's `execute_async_v3` takes it."""

    handle: int

    def synchronize(self) -> None:
        """All work enqueued so far is done; the GIL is free meanwhile. Raises Unstable when some of it failed."""
        ...

    def wait_for(self, event: Event) -> None:
        """Work enqueued after this runs only when `event` has passed."""
        ...

    def close(self) -> None:
        """The stream is released. Safe to call twice."""
        ...


class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """The event passes when the work enqueued on `stream` so far is done."""
        ...

    def synchronize(self) -> None:
        """The event has passed; the GIL is free meanwhile."""
        ...

    def elapsed_ms(self, earlier: Event) -> float:
        """Milliseconds on the device since `earlier` passed; both must be timing events that have passed."""
        ...

    def close(self) -> None:
        """The event is released. Safe to call twice."""
        ...


class PinnedBuffer(Protocol):
    """Page-locked host memory. `array` is a writable view, uint8, shape (n_bytes,)."""

    pointer: int
    n_bytes: int
    array: NDArray[np.uint8]

    def close(self) -> None:
        """The memory is released; `array` must not be touched afterwards. Safe to call twice."""
        ...


class DeviceBuffer(Protocol):
    """Memory on the device, from a pool."""

    pointer: int
    n_bytes: int

    def close(self) -> None:
        """The memory goes back to its pool, in the order of the stream that it was allocated on. Safe to call twice."""
        ...


class MemoryPool(Protocol):
    """Stream-ordered device memory under a cap. What is freed stays with the pool up to its release threshold."""

    def allocate(self, n_bytes: int, stream: Stream) -> DeviceBuffer:
        """Memory usable on `stream` at once and elsewhere after synchronizing, with nothing certain in it.

        Raises OutOfMemory at the cap and at the device's end, ValueError for less than 1 byte.
        """
        ...

    def used_bytes(self) -> int:
        """Bytes handed out at present: what was asked for, and perhaps what the library rounded it up to."""
        ...

    def peak_bytes(self) -> int:
        """The most bytes that were handed out at once since the pool was made."""
        ...

    def close(self) -> None:
        """The pool and what it kept are released; its buffers must be closed before. Safe to call twice."""
        ...


class Graph(Protocol):
    """Captured work, launched as one."""

    def launch(self, stream: Stream) -> None:
        """The captured work is enqueued on `stream`."""
        ...

    def close(self) -> None:
        """The graph is released. Safe to call twice."""
        ...


class Capture(Protocol):
    """What `DeviceRuntime.capture` gives inside its block."""

    @property
    def graph(self) -> Graph:
        """What was recorded. Raises RuntimeError until the block has ended without an exception."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryGap:
    """Why a runtime cannot be used on this machine, and the command that helps."""

    missing: str
    remedy: str


class DeviceRuntime(Protocol):
    """One way to drive the selected GPU. Making one initialises CUDA; a forked child of such a process must not use it."""

    name: str
    distributions: ClassVar[tuple[str, ...]]
    """The packages whose versions say what a measurement was made with."""

    @staticmethod
    def gap() -> LibraryGap | None:
        """What the library lacks on this machine, told without initialising CUDA; None where it can be tried."""
        ...

    def stream(self) -> Stream:
        """A new stream that does not synchronize with the default one."""
        ...

    def event(self, *, timing: bool = False) -> Event:
        """A new event; `timing` makes `elapsed_ms` possible and costs a little."""
        ...

    def pinned(self, n_bytes: int) -> PinnedBuffer:
        """Page-locked host memory, zeroed. Raises OutOfMemory, ValueError for less than 1 byte."""
        ...

    def pool(self, *, cap_bytes: int | None = None) -> MemoryPool:
        """A pool that never hands out more than `cap_bytes` at once; None: whatever the device has.

        Its release threshold is the cap (without one: everything), so that memory is not given back at every synchronization.
        """
        ...

    def copy_in(self, target: DeviceBuffer, source: PinnedBuffer, n_bytes: int, stream: Stream) -> None:
        """Host to device, enqueued on `stream`: the first `n_bytes` of both. Raises ValueError where one of them has fewer."""
        ...

    def copy_out(self, target: PinnedBuffer, source: DeviceBuffer, n_bytes: int, stream: Stream) -> None:
        """Device to host, enqueued on `stream`: the first `n_bytes` of both. Raises ValueError where one of them has fewer."""
        ...

    def capture(self, stream: Stream) -> AbstractContextManager[Capture]:
        """Work enqueued on `stream` by this thread in the block is recorded instead of run, whichever library enqueues it.

        Other streams and other threads go on as usual; the block must neither allocate nor synchronize. Everything that the
        recorded work reads and writes must stay where it is until the graph is closed. Raises Unsupported where there are no
        graphs, Unstable where the work cannot be captured.
        """
        ...

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        ...

    def close(self) -> None:
        """What the runtime itself holds is released. Safe to call twice."""
        ...


def check_size(n_bytes: int) -> None:
    """Raises ValueError for a buffer of less than 1 byte, which each library treats in its own way."""
    if n_bytes < 1:
        raise ValueError(f"a buffer has at least 1 byte; asked for {n_bytes}")


def check_copy(target: DeviceBuffer | PinnedBuffer, source: DeviceBuffer | PinnedBuffer, n_bytes: int) -> None:
    """Raises ValueError where one of the buffers has fewer bytes than are to be copied; CUDA would not notice."""
    if not 0 <= n_bytes <= min(target.n_bytes, source.n_bytes):
        raise ValueError(f"cannot copy {n_bytes} bytes from a buffer of {source.n_bytes} to one of {target.n_bytes}")


def own(thing: object, kind: type[Thing]) -> Thing:
    """`thing`, which a runtime made itself. Raises TypeError for what another runtime made: they cannot be mixed."""
    if not isinstance(thing, kind):
        raise TypeError(f"{type(thing).__name__} comes from another runtime; here a {kind.__name__} is needed")
    return thing
