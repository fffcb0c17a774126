"""A double of the parts of PyCUDA that `PycudaRuntime` uses, over the host double's queues.

PyCUDA is compiled where it is installed, so tests cannot count on it. Names, arguments and rules are read from the source of
PyCUDA 2026.1 (src/wrapper/wrap_cudadrv.cpp, src/wrapper/mempool.cpp, src/cpp/cuda.hpp): a call without a current context is a
LogicError, a pop from an empty stack of contexts too, and a thread that ends with a context on its stack aborts the process.
There is no attribute here that PyCUDA lacks.
"""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from autotune.cuda.host import HostRuntime, device_view
from autotune.errors import CandidateRejected, OutOfMemory

stacks = threading.local()
depths: dict[str, int] = {}
"""How many contexts lie on each thread's stack, by the thread's name: all 0 where the adapter cleans up."""


class Error(Exception):
    """pycuda.driver.Error"""


class LogicError(Error):
    """pycuda.driver.LogicError"""


class MemoryError(Error):
    """pycuda.driver.MemoryError"""


class LaunchError(Error):
    """pycuda.driver.LaunchError"""


def _need_context(call: str) -> None:
    if not getattr(stacks, "contexts", []):
        raise LogicError(f"{call} failed: invalid device context")


def _done(call: str, work: Any, *arguments: Any, **named: Any) -> Any:
    _need_context(call)
    try:
        return work(*arguments, **named)
    except OutOfMemory as exc:
        raise MemoryError(f"{call} failed: out of memory") from exc
    except CandidateRejected as exc:
        raise LogicError(f"{call} failed: {exc}") from exc


class Context:
    """The retained primary context: not current until it is pushed."""

    def push(self) -> None:
        stacks.contexts = [*getattr(stacks, "contexts", []), self]
        depths[threading.current_thread().name] = len(stacks.contexts)

    @staticmethod
    def pop() -> None:
        _need_context("context::pop")
        stacks.contexts.pop()
        depths[threading.current_thread().name] = len(stacks.contexts)

    def detach(self) -> None:
        pass


def install(monkeypatch: pytest.MonkeyPatch, host: HostRuntime) -> None:
    """`import pycuda.driver` and `from pycuda.tools import DeviceMemoryPool` find the double, whose device is `host`."""

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            assert flags == 1
            self._host = _done("cuStreamCreate", host.stream)
            self.handle = self._host.handle

        def synchronize(self) -> None:
            _done("cuStreamSynchronize", self._host.synchronize)

        def wait_for_event(self, event: Event) -> None:
            _done("cuStreamWaitEvent", self._host.wait_for, event._host)

        def __del__(self) -> None:
            _need_context("cuStreamDestroy")
            self._host.close()

    class Event:
        def __init__(self, flags: int = 0) -> None:
            self._host = _done("cuEventCreate", host.event, timing=not flags & event_flags.DISABLE_TIMING)

        def record(self, stream: Stream) -> Event:
            _done("cuEventRecord", self._host.record, stream._host)
            return self

        def synchronize(self) -> Event:
            _done("cuEventSynchronize", self._host.synchronize)
            return self

        def time_since(self, start: Event) -> float:
            return float(_done("cuEventElapsedTime", self._host.elapsed_ms, start._host))

    class event_flags:
        DEFAULT, BLOCKING_SYNC, DISABLE_TIMING, INTERPROCESS = 0, 1, 2, 4

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        def retain_primary_context(self) -> Context:
            return Context()

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        return _Pinned(_done("cuMemHostAlloc", host.pinned, shape)).array

    def memcpy_htod_async(dest: int, src: Any, stream: Stream) -> None:
        _need_context("cuMemcpyHtoDAsync")
        address, n = src.ctypes.data, src.nbytes
        stream._host.enqueue(lambda: device_view(dest, n).__setitem__(slice(None), device_view(address, n)))

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream) -> None:
        _need_context("cuMemcpyDtoHAsync")
        address, n = dest.ctypes.data, dest.nbytes
        stream._host.enqueue(lambda: device_view(address, n).__setitem__(slice(None), device_view(src, n)))

    class DeviceMemoryPool:
        def __init__(self) -> None:
            _need_context("DeviceMemoryPool")
            self._host, self._stream = host.pool(), host.stream()
            self.active_bytes = self.managed_bytes = 0

        def allocate(self, size: int) -> PooledDeviceAllocation:
            found = PooledDeviceAllocation(self, _done("cuMemAlloc", self._host.allocate, size, self._stream))
            self.active_bytes += size
            self.managed_bytes = max(self.managed_bytes, self.active_bytes)
            return found

        def free_held(self) -> None:
            self.managed_bytes = self.active_bytes

        def stop_holding(self) -> None:
            self._stream.synchronize()
            self._stream.close()
            self._host.close()

    class PooledDeviceAllocation:
        def __init__(self, pool: DeviceMemoryPool, found: Any) -> None:
            self._pool, self._found = pool, found

        def __int__(self) -> int:
            return int(self._found.pointer)

        def free(self) -> None:
            """At once: PyCUDA's pool knows no streams."""
            _need_context("cuMemFree")
            self._found.close()
            self._pool._stream.synchronize()
            self._pool.active_bytes -= self._found.n_bytes

    package, driver, tools = (ModuleType(name) for name in ("pycuda", "pycuda.driver", "pycuda.tools"))
    here = {**locals(), "Error": Error, "LogicError": LogicError, "MemoryError": MemoryError, "LaunchError": LaunchError}
    for name in DRIVER_NAMES:
        setattr(driver, name, here[name])
    driver.init = lambda flags=0: None  # type: ignore[attr-defined]  # a module made here
    driver.mem_get_info = lambda: _done("cuMemGetInfo", host.memory_info)  # type: ignore[attr-defined]  # likewise
    tools.DeviceMemoryPool = DeviceMemoryPool  # type: ignore[attr-defined]  # likewise
    package.driver, package.tools = driver, tools  # type: ignore[attr-defined]  # likewise
    for module in (package, driver, tools):
        monkeypatch.setitem(sys.modules, module.__name__, module)


DRIVER_NAMES = (
    "Stream", "Event", "event_flags", "Device", "pagelocked_empty", "memcpy_htod_async", "memcpy_dtoh_async",
    "Error", "LogicError", "MemoryError", "LaunchError",
)  # fmt: skip


class _Pinned:
    """An array whose `base` is the allocation that `free` releases, as PyCUDA's is."""

    def __init__(self, buffer: Any) -> None:
        allocation = PagelockedHostAllocation(buffer)
        self.array = np.asarray(allocation)


class PagelockedHostAllocation:
    """pycuda.driver.PagelockedHostAllocation"""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self.__array_interface__ = buffer.array.__array_interface__

    def free(self) -> None:
        _need_context("cuMemFreeHost")
        self._buffer.close()
