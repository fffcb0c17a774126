"""CUDA through NVIDIA's own packages: cuda-core for the device, streams, events and pools, cuda-bindings for the rest.

Copies, pinned memory and graphs go through the bindings: cuda-core copies whole buffers only, calls its pinned memory "legacy"
and has renamed its graphs between versions, while the driver's own calls are the same from CUDA 12 to 13.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autotune.cuda.failures import failure, translating
from autotune.cuda.pool_count import PoolCount
from autotune.cuda.runtime import DeviceBuffer, Event, LibraryGap, PinnedBuffer, Stream, check_copy, check_size, own
from autotune.devices.gpu import selected_gpu
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import library_version

_EVERYTHING = 2**64 - 1
_RESERVE_STEP_BYTES = 32 << 20
"""A driver reserves a pool's memory in steps larger than what is asked for, so a `max_size` below one step might give nothing.
The driver's bound is rounded up, and one step more covers its rounding of each allocation; PoolCount keeps the exact cap."""


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any, doing: str, stage: str = "open") -> Any:
    """The value that a function of the driver returns beside its status, None where it returns none. Raises as `failure`."""
    with translating(doing, stage):
        status, *values = function(*arguments)
    if status:
        raise failure(f"{status.name} ({int(status)})", doing, stage)
    return values[0] if values else None


class CoreStream:
    """A non-blocking stream."""

    def __init__(self, runtime: CudaCoreRuntime) -> None:
        self._runtime = runtime
        with translating("making a stream"):
            self.native = runtime.device().create_stream()
            self.handle = int(self.native.handle)
        self.is_open = True  # cuda-core's own is_closed came with 1.2

    def synchronize(self) -> None:
        """Raises Unstable when some work failed."""
        with translating("running the stream's work", "load"):
            self._runtime.device()
            self.native.sync()

    def wait_for(self, event: Event) -> None:
        """Enqueued: what follows waits."""
        with translating("waiting for an event", "load"):
            self._runtime.device()
            self.native.wait(own(event, CoreEvent).native)

    def close(self) -> None:
        """The stream is destroyed once its work is done."""
        self.is_open = False
        self.native.close()


class CoreEvent:
    """An event whose waiter spins, as the default is: it measures without the time of a wake-up."""

    def __init__(self, runtime: CudaCoreRuntime, *, timing: bool) -> None:
        from cuda.core import EventOptions

        self._runtime = runtime
        with translating("making an event"):
            self.native = runtime.device().create_event(EventOptions(timing_enabled=timing))

    def record(self, stream: Stream) -> None:
        """Enqueued on the stream."""
        with translating("recording an event", "load"):
            self._runtime.device()
            own(stream, CoreStream).native.record(self.native)

    def synchronize(self) -> None:
        """Raises Unstable when work before it failed."""
        with translating("running the work before an event", "load"):
            self.native.sync()

    def elapsed_ms(self, earlier: Event) -> float:
        """Raises Unstable where one has no timing or has not passed."""
        with translating("reading the time between events", "load"):
            return float(self.native - own(earlier, CoreEvent).native)

    def close(self) -> None:
        """The event is destroyed."""
        self.native.close()


class CorePinnedBuffer:
    """Page-locked by cuMemHostAlloc."""

    def __init__(self, runtime: CudaCoreRuntime, n_bytes: int) -> None:
        check_size(n_bytes)
        self._runtime, self.n_bytes = runtime, n_bytes
        runtime.device()
        self.pointer: int = int(call(_driver().cuMemHostAlloc, n_bytes, 0, doing=f"page-locking {n_bytes} bytes"))
        view = (ctypes.c_uint8 * n_bytes).from_address(self.pointer)
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(view)
        self.array[:] = 0

    def close(self) -> None:
        """The memory is unlocked and freed."""
        pointer, self.pointer = self.pointer, 0
        if pointer:
            self._runtime.device()
            self.array = np.zeros(0, dtype=np.uint8)
            call(_driver().cuMemFreeHost, pointer, doing="freeing page-locked memory", stage="close")


class CoreDeviceBuffer:
    """Memory of a pool, given back in the order of its stream."""

    def __init__(self, pool: CoreMemoryPool, native: Any, n_bytes: int, stream: CoreStream) -> None:
        self.pointer, self.n_bytes = int(native.handle), n_bytes
        self._pool, self._native, self._stream = pool, native, stream

    def close(self) -> None:
        """The pool may hand the memory out to what is enqueued later."""
        native, self._native = self._native, None
        if native is not None:
            self._pool.give_back(native, self.n_bytes, self._stream)


class CoreMemoryPool:
    """A pool of the driver's (cuMemPool)."""

    def __init__(self, runtime: CudaCoreRuntime, cap_bytes: int | None) -> None:
        self._count = PoolCount(cap_bytes)
        self._runtime = runtime
        runtime.device()
        self._native = _pool_of_driver(cap_bytes)
        keep = _driver().cuuint64_t(_EVERYTHING if cap_bytes is None else cap_bytes)
        attribute = _driver().CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        call(_driver().cuMemPoolSetAttribute, self._native.handle, attribute, keep, doing="setting a pool's release threshold")

    def allocate(self, n_bytes: int, stream: Stream) -> CoreDeviceBuffer:
        """In the order of the stream. Raises OutOfMemory at the cap and at the device's end."""
        check_size(n_bytes)
        there = own(stream, CoreStream)
        self._count.take(n_bytes)
        try:
            with translating(f"allocating {n_bytes} bytes"):
                self._runtime.device()
                native = self._native.allocate(n_bytes, stream=there.native)
        except BaseException:
            self._count.give_back(n_bytes)
            raise
        return CoreDeviceBuffer(self, native, n_bytes, there)

    def give_back(self, native: Any, n_bytes: int, stream: CoreStream) -> None:
        """The buffer's memory is the pool's again, after what its stream holds."""
        with translating("freeing device memory", "close"):
            self._runtime.device()
            if stream.is_open:
                native.close(stream.native)
            else:
                native.close()  # cuda-core keeps the stream that it was allocated on alive for this
        self._count.give_back(n_bytes)

    def used_bytes(self) -> int:
        """As asked for."""
        return self._count.used_bytes

    def peak_bytes(self) -> int:
        """As the driver measured it (CU_MEMPOOL_ATTR_USED_MEM_HIGH), its rounding included."""
        with translating("reading a pool's use", "close"):
            return max(int(self._native.attributes.used_mem_high), self._count.peak_bytes)

    def close(self) -> None:
        """The driver takes the memory back once all work on it is done."""
        self._native.close()


def _pool_of_driver(cap_bytes: int | None) -> Any:
    """A new pool under the driver's own bound where this driver has one: before CUDA 12.2 the field had to be 0."""
    from cuda.core import DeviceMemoryResource, DeviceMemoryResourceOptions

    bounds = [0] if cap_bytes is None else [(-(-cap_bytes // _RESERVE_STEP_BYTES) + 1) * _RESERVE_STEP_BYTES, 0]
    for bound in bounds:
        try:
            return DeviceMemoryResource(0, DeviceMemoryResourceOptions(max_size=bound))
        except Exception as exc:
            refused = failure(exc, f"making a memory pool of {cap_bytes or 'any number of'} bytes", "open")
            if "INVALID_VALUE" not in str(exc) or bound == bounds[-1]:
                raise refused from exc
    raise AssertionError("unreachable: the last bound returns or raises")


class CoreGraph:
    """An instantiated graph."""

    def __init__(self, runtime: CudaCoreRuntime, native: Any) -> None:
        self._runtime, self._native = runtime, native
        self._launch = _driver().cuGraphLaunch

    def launch(self, stream: Stream) -> None:
        """One call for all of it."""
        self._runtime.device()
        call(self._launch, self._native, stream.handle, doing="launching a graph", stage="load")

    def close(self) -> None:
        """The graph is destroyed once its last launch is done."""
        native, self._native = self._native, None
        if native is not None:
            self._runtime.device()
            call(_driver().cuGraphExecDestroy, native, doing="destroying a graph", stage="close")


class CoreCapture:
    """The recording of one block."""

    def __init__(self) -> None:
        self.found: CoreGraph | None = None

    @property
    def graph(self) -> CoreGraph:
        """What was recorded."""
        if self.found is None:
            raise RuntimeError("the graph exists once the block of capture() has ended")
        return self.found


class CudaCoreRuntime:
    """The first in the order of detection: wheels without a toolkit, and everything that the protocol asks for."""

    name = "cuda-core"
    distributions: ClassVar[tuple[str, ...]] = ("cuda-core", "cuda-bindings")

    def __init__(self) -> None:
        with translating("starting CUDA through cuda-core"):
            from cuda.core import Device

            self._device = Device(0)
            self._device.set_current()
        self._here = threading.local()
        self._here.ready = True
        self._copy_in, self._copy_out = _driver().cuMemcpyHtoDAsync, _driver().cuMemcpyDtoHAsync

    @staticmethod
    def gap() -> LibraryGap | None:
        """Both packages, and bindings that this driver can serve."""
        for package in CudaCoreRuntime.distributions:
            if library_version(package) is None:
                return LibraryGap(missing=f"the package {package} is not installed", remedy="pip install 'autotune[cuda-core]'")
        if (version := library_version("cuda-core") or "").startswith("0."):
            missing = f"cuda-core {version} is installed, and autotune needs 1.0 or later"
            return LibraryGap(missing=missing, remedy="pip install 'autotune[cuda-core]'")
        return _driver_gap(library_version("cuda-bindings") or "")

    def device(self) -> Any:
        """cuda-core's device; its context is current on the thread that asks."""
        if not getattr(self._here, "ready", False):
            with translating("making CUDA's context current"):
                self._device.set_current()
            self._here.ready = True
        return self._device

    def stream(self) -> CoreStream:
        """A new non-blocking stream."""
        return CoreStream(self)

    def event(self, *, timing: bool = False) -> CoreEvent:
        """A new event."""
        return CoreEvent(self, timing=timing)

    def pinned(self, n_bytes: int) -> CorePinnedBuffer:
        """Page-locked memory, zeroed."""
        return CorePinnedBuffer(self, n_bytes)

    def pool(self, *, cap_bytes: int | None = None) -> CoreMemoryPool:
        """A pool of its own, not the device's default one."""
        return CoreMemoryPool(self, cap_bytes)

    def copy_in(self, target: DeviceBuffer, source: PinnedBuffer, n_bytes: int, stream: Stream) -> None:
        """cuMemcpyHtoDAsync."""
        check_copy(target, source, n_bytes)
        self.device()
        arguments = (target.pointer, source.pointer, n_bytes, stream.handle)
        call(self._copy_in, *arguments, doing="copying to the device", stage="load")

    def copy_out(self, target: PinnedBuffer, source: DeviceBuffer, n_bytes: int, stream: Stream) -> None:
        """cuMemcpyDtoHAsync."""
        check_copy(target, source, n_bytes)
        self.device()
        arguments = (target.pointer, source.pointer, n_bytes, stream.handle)
        call(self._copy_out, *arguments, doing="copying from the device", stage="load")

    @contextmanager
    def capture(self, stream: Stream) -> Iterator[CoreCapture]:
        """Thread-local mode: what other threads do meanwhile neither joins the graph nor breaks it."""
        self.device()
        driver, capture = _driver(), CoreCapture()
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call(driver.cuStreamBeginCapture, stream.handle, mode, doing="beginning a capture")
        try:
            yield capture
        except BaseException:
            _abandon_capture(stream.handle)
            raise
        recorded = call(driver.cuStreamEndCapture, stream.handle, doing="capturing a graph")
        try:
            capture.found = CoreGraph(self, call(driver.cuGraphInstantiate, recorded, 0, doing="instantiating a graph"))
        finally:
            call(driver.cuGraphDestroy, recorded, doing="releasing the recording")

    def memory_info(self) -> tuple[int, int]:
        """cuMemGetInfo."""
        self.device()
        with translating("asking for the device's memory"):
            status, free, total = _driver().cuMemGetInfo()
        if status:
            raise failure(status.name, "asking for the device's memory", "open")
        return int(free), int(total)

    def close(self) -> None:
        """Nothing: the primary context belongs to the process."""


def _abandon_capture(handle: int) -> None:
    """The stream is out of capture mode. What CUDA says to it does not matter: the block's own failure is under way."""
    driver = _driver()
    status, recorded = driver.cuStreamEndCapture(handle)
    if not status:
        driver.cuGraphDestroy(recorded)


def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def _driver_gap(bindings: str) -> LibraryGap | None:
    """Bindings of a newer major version than the driver's CUDA do not find its calls. Without NVML nobody knows: None."""
    try:
        newest = int(selected_gpu().cuda.partition(".")[0])
    except EnvironmentProblem:
        return None
    major = int(bindings.partition(".")[0])
    if major <= newest:
        return None
    return LibraryGap(
        missing=f"cuda-bindings {bindings} needs a driver for CUDA {major}, and this one is for CUDA {newest}",
        remedy=f"pip install 'cuda-bindings>={newest},<{newest + 1}'",
    )
