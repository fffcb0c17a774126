"""CUDA through PyCUDA: streams, events, page-locked memory and its pool. No graphs, for PyCUDA has none.

The primary context is retained, as TensorRT and torch use it; `pycuda.autoinit` would make another. PyCUDA keeps a stack of
contexts for each thread and aborts the process when a thread ends with one on it, so the context is pushed and popped around
every call. It also aborts when a pooled allocation is destroyed outside of its context, so a forgotten buffer is closed as it
should be when it is collected, and what is still open is closed with the runtime, at the latest when the interpreter ends.
"""

from __future__ import annotations

import atexit
import weakref
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autotune.cuda.failures import failure, translating
from autotune.cuda.pool_count import PoolCount
from autotune.cuda.runtime import Capture, DeviceBuffer, Event, LibraryGap, PinnedBuffer, Stream, check_copy, check_size, own
from autotune.errors import Unsupported
from autotune.fingerprint import library_version

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which PyCUDA has no name for


class _Inside:
    """The context is current on this thread while the block runs; what PyCUDA raises leaves it translated."""

    __slots__ = ("_context", "_doing", "_stage")

    def __init__(self, context: Any, doing: str, stage: str) -> None:
        self._context, self._doing, self._stage = context, doing, stage

    def __enter__(self) -> None:
        with translating(self._doing, self._stage):
            self._context.push()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        with translating(self._doing, self._stage):
            self._context.pop()
            if exc is not None:
                raise exc


class PycudaStream:
    """A non-blocking stream."""

    def __init__(self, runtime: PycudaRuntime) -> None:
        self._runtime = runtime
        with runtime.inside("making a stream"):
            self.native: Any = _driver().Stream(_NON_BLOCKING)
            self.handle = int(self.native.handle)

    def synchronize(self) -> None:
        """Raises Unstable when some work failed."""
        with self._runtime.inside("running the stream's work", "load"):
            self.native.synchronize()

    def wait_for(self, event: Event) -> None:
        """Enqueued: what follows waits."""
        with self._runtime.inside("waiting for an event", "load"):
            self.native.wait_for_event(own(event, PycudaEvent).native)

    def close(self) -> None:
        """The stream is destroyed with its last reference, here."""
        with self._runtime.inside("destroying a stream", "close"):
            self.native = None


class PycudaEvent:
    """An event."""

    def __init__(self, runtime: PycudaRuntime, *, timing: bool) -> None:
        self._runtime = runtime
        flags = _driver().event_flags
        with runtime.inside("making an event"):
            self.native: Any = _driver().Event(flags.DEFAULT if timing else flags.DISABLE_TIMING)

    def record(self, stream: Stream) -> None:
        """Enqueued on the stream."""
        with self._runtime.inside("recording an event", "load"):
            self.native.record(own(stream, PycudaStream).native)

    def synchronize(self) -> None:
        """Raises Unstable when work before it failed."""
        with self._runtime.inside("running the work before an event", "load"):
            self.native.synchronize()

    def elapsed_ms(self, earlier: Event) -> float:
        """Raises Unstable where one has no timing or has not passed."""
        with self._runtime.inside("reading the time between events", "load"):
            return float(self.native.time_since(own(earlier, PycudaEvent).native))

    def close(self) -> None:
        """The event is destroyed with its last reference, here."""
        with self._runtime.inside("destroying an event", "close"):
            self.native = None


class PycudaPinnedBuffer:
    """An array in page-locked memory."""

    def __init__(self, runtime: PycudaRuntime, n_bytes: int) -> None:
        check_size(n_bytes)
        self._runtime, self.n_bytes = runtime, n_bytes
        with runtime.inside(f"page-locking {n_bytes} bytes"):
            self.array: NDArray[np.uint8] = _driver().pagelocked_empty(n_bytes, np.uint8)
            self._allocation: Any = self.array.base
        self.array[:] = 0
        self.pointer: int = self.array.ctypes.data

    def close(self) -> None:
        """The memory is unlocked and freed."""
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            self.array = np.zeros(0, dtype=np.uint8)
            with self._runtime.inside("freeing page-locked memory", "close"):
                allocation.free()


class PycudaDeviceBuffer:
    """A pooled allocation."""

    def __init__(self, pool: PycudaMemoryPool, native: Any, n_bytes: int, stream: PycudaStream) -> None:
        self.pointer, self.n_bytes = int(native), n_bytes
        self._pool, self._native, self._stream = pool, native, stream
        pool.runtime.opened(self)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Its stream is synchronized first: PyCUDA's pool knows no streams, and may hand the memory out at once."""
        native, self._native = self._native, None
        if native is not None:
            self._pool.give_back(native, self.n_bytes, self._stream)


class PycudaMemoryPool:
    """pycuda.tools.DeviceMemoryPool: blocks of cuMemAlloc kept on the host's side. The cap is kept by our own count."""

    def __init__(self, runtime: PycudaRuntime, cap_bytes: int | None) -> None:
        self._count = PoolCount(cap_bytes)
        self.runtime = runtime
        with runtime.inside("making a memory pool"):
            from pycuda.tools import DeviceMemoryPool

            self._native: Any = DeviceMemoryPool()

    def allocate(self, n_bytes: int, stream: Stream) -> PycudaDeviceBuffer:
        """Usable at once everywhere. Raises OutOfMemory at the cap and at the device's end."""
        check_size(n_bytes)
        there = own(stream, PycudaStream)
        self._count.take(n_bytes)
        try:
            with self.runtime.inside(f"allocating {n_bytes} bytes"):
                self._release_beyond_cap()
                native = self._native.allocate(n_bytes)
        except BaseException:
            self._count.give_back(n_bytes)
            raise
        return PycudaDeviceBuffer(self, native, n_bytes, there)

    def _release_beyond_cap(self) -> None:
        """Blocks of unfit sizes are not kept beside those in use where both together would exceed the cap."""
        cap = self._count.cap_bytes
        if cap is not None and self._native.managed_bytes - self._native.active_bytes + self._count.used_bytes > cap:
            self._native.free_held()

    def give_back(self, native: Any, n_bytes: int, stream: PycudaStream) -> None:
        """The block is kept for the next who asks for its size."""
        with self.runtime.inside("freeing device memory", "close"):
            if stream.native is not None:
                stream.native.synchronize()
            native.free()
        self._count.give_back(n_bytes)

    def used_bytes(self) -> int:
        """As asked for; the pool rounds up to its bins."""
        return self._count.used_bytes

    def peak_bytes(self) -> int:
        """As asked for."""
        return self._count.peak_bytes

    def close(self) -> None:
        """Kept blocks are freed."""
        native, self._native = self._native, None
        if native is not None:
            with self.runtime.inside("releasing a memory pool", "close"):
                native.stop_holding()


class PycudaRuntime:
    """The third in the order of detection. It must be compiled, has no graphs, and its pool is not stream-ordered."""

    name = "pycuda"
    distributions: ClassVar[tuple[str, ...]] = ("pycuda",)

    def __init__(self) -> None:
        with translating("starting CUDA through PyCUDA"):
            driver = _driver()
            driver.init()
            self._context: Any = driver.Device(0).retain_primary_context()
        self._buffers: weakref.WeakSet[PycudaDeviceBuffer] = weakref.WeakSet()
        atexit.register(_close_alive, weakref.ref(self))

    @staticmethod
    def gap() -> LibraryGap | None:
        """PyCUDA, which is built where it is installed. Whether it loads is seen when it starts: it links to the driver."""
        if library_version("pycuda") is None:
            remedy = "pip install 'autotune[pycuda]', with the CUDA toolkit's own bin folder first in PATH"
            return LibraryGap(missing="the package pycuda is not installed", remedy=remedy)
        return None

    def opened(self, buffer: PycudaDeviceBuffer) -> None:
        """The buffer is closed with the runtime, if not before."""
        self._buffers.add(buffer)

    def inside(self, doing: str, stage: str = "open") -> AbstractContextManager[None]:
        """The primary context is current on this thread while the block runs."""
        if self._context is None:
            raise failure("the runtime is closed", doing, stage)
        return _Inside(self._context, doing, stage)

    def stream(self) -> PycudaStream:
        """A new non-blocking stream."""
        return PycudaStream(self)

    def event(self, *, timing: bool = False) -> PycudaEvent:
        """A new event."""
        return PycudaEvent(self, timing=timing)

    def pinned(self, n_bytes: int) -> PycudaPinnedBuffer:
        """Page-locked memory, zeroed."""
        return PycudaPinnedBuffer(self, n_bytes)

    def pool(self, *, cap_bytes: int | None = None) -> PycudaMemoryPool:
        """A pool of PyCUDA's."""
        return PycudaMemoryPool(self, cap_bytes)

    def copy_in(self, target: DeviceBuffer, source: PinnedBuffer, n_bytes: int, stream: Stream) -> None:
        """memcpy_htod_async."""
        check_copy(target, source, n_bytes)
        with self.inside("copying to the device", "load"):
            _driver().memcpy_htod_async(target.pointer, source.array[:n_bytes], own(stream, PycudaStream).native)

    def copy_out(self, target: PinnedBuffer, source: DeviceBuffer, n_bytes: int, stream: Stream) -> None:
        """memcpy_dtoh_async."""
        check_copy(target, source, n_bytes)
        with self.inside("copying from the device", "load"):
            _driver().memcpy_dtoh_async(target.array[:n_bytes], source.pointer, own(stream, PycudaStream).native)

    def capture(self, stream: Stream) -> AbstractContextManager[Capture]:
        """Raises Unsupported."""
        raise Unsupported(
            "PyCUDA has no CUDA graphs; cuda-core has: pip install 'autotune[cuda-core]', or run without graphs", stage="open"
        )

    def memory_info(self) -> tuple[int, int]:
        """mem_get_info."""
        with self.inside("asking for the device's memory"):
            free, total = _driver().mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        """The hold on the primary context is given up, after device memory that is still out was given back."""
        for buffer in list(self._buffers):
            buffer.close()
        context, self._context = self._context, None
        if context is not None:
            with translating("releasing the context", "close"):
                context.detach()


def _close_alive(found: weakref.ref[PycudaRuntime]) -> None:
    runtime = found()
    if runtime is not None:
        runtime.close()


def _driver() -> Any:
    import pycuda.driver

    return pycuda.driver
