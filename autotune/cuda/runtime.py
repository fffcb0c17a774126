"""The seam between an engine and CUDA: streams, events, pinned memory, a capped device pool, copies and graphs.

An engine is written against these protocols and never sees which library is behind them. Pointers are plain addresses, sizes
are bytes. Everything is on the one selected GPU, in its primary context. Whatever a call cannot do raises: OutOfMemory where
the pool's cap or the device is exceeded, Unstable where an execution failed (the context may then be unusable: sticky errors
stay), EnvironmentProblem where the library or the driver is missing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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
        """At least 1 byte, usable on `stream` at once and elsewhere after synchronizing. Raises OutOfMemory at the cap."""
        ...

    def used_bytes(self) -> int:
        """Bytes handed out at present."""
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
    """What `DeviceRuntime.capture` gives inside its block; `graph` exists once the block ended without an exception."""

    graph: Graph


class DeviceRuntime(Protocol):
    """One way to drive the selected GPU. Making one initialises CUDA; a forked child of such a process must not use it."""

    name: str

    def stream(self) -> Stream:
        """A new stream that does not synchronize with the default one."""
        ...

    def event(self, *, timing: bool = False) -> Event:
        """A new event; `timing` makes `elapsed_ms` possible and costs a little."""
        ...

    def pinned(self, n_bytes: int) -> PinnedBuffer:
        """Page-locked host memory, zeroed. Raises OutOfMemory."""
        ...

    def pool(self, *, cap_bytes: int | None = None) -> MemoryPool:
        """A pool that never hands out more than `cap_bytes` at once; None: whatever the device has.

        Its release threshold is the cap (without one: everything), so that memory is not given back at every synchronization.
        """
        ...

    def copy_in(self, target: DeviceBuffer, source: PinnedBuffer, n_bytes: int, stream: Stream) -> None:
        """Host to device, enqueued on `stream`."""
        ...

    def copy_out(self, target: PinnedBuffer, source: DeviceBuffer, n_bytes: int, stream: Stream) -> None:
        """Device to host, enqueued on `stream`."""
        ...

    def capture(self, stream: Stream) -> AbstractContextManager[Capture]:
        """Work enqueued on `stream` in the block is recorded instead of run. Raises Unsupported where there are no graphs."""
        ...

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        ...

    def close(self) -> None:
        """What the runtime itself holds is released. Safe to call twice."""
        ...
