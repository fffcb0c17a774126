"""A double of a GPU on host memory: what an engine written against `DeviceRuntime` is tested with. Nothing here is a GPU.

    runtime = HostRuntime(total_bytes=1 << 20)
    runtime.fail_at("allocate", nth=3)          # the third allocation raises OutOfMemory
    …
    assert runtime.leaks() == {}

Work enqueued on a stream runs when the stream, or an event recorded in it, is synchronized, and not before; device memory that
nobody wrote holds 0xCD; a freed buffer is overwritten in its stream's order. So a forgotten synchronization, a copy from memory
already freed and an output that nobody computed all show as wrong values or as Unstable. The double of a vendor's engine puts
its own work on a stream by the handle that it is given, `enqueue(handle, work)`, and reads and writes through
`device_view(pointer, n_bytes)`.

It is chosen by name only (`AUTOTUNE_CUDA_RUNTIME=host`), and times measured on it are times of nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from autotune.cuda.host_device import Call, HostDevice
from autotune.cuda.host_memory import FREED, UNWRITTEN, HostMemoryPool, HostPinnedBuffer, device_view
from autotune.cuda.host_streams import HostCapture, HostEvent, HostGraph, HostStream, enqueue, stream_of
from autotune.cuda.runtime import DeviceBuffer, LibraryGap, PinnedBuffer, Stream, check_copy, check_size

__all__ = ["FREED", "UNWRITTEN", "HostRuntime", "device_view", "enqueue"]


class HostRuntime:
    """A pretended device of `total_bytes`. It keeps the protocol, and says more than a device does: faults and leaks."""

    name = "host"
    distributions: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, total_bytes: int = 1 << 30) -> None:
        self._device = HostDevice(total_bytes)

    @staticmethod
    def gap() -> LibraryGap | None:
        """It needs nothing."""
        return None

    def fail_at(self, call: Call, *, nth: int = 1, failure: Exception | None = None) -> None:
        """The nth such call from now on raises: `failure`, or OutOfMemory where memory is asked for and Unstable elsewhere.

        "work" is a piece of queued work; its failure is sticky, as CUDA's are: from then on everything raises Unstable.
        """
        self._device.fail_at(call, nth, failure)

    def leaks(self) -> dict[str, int]:
        """What was made and not closed, by kind: stream, event, pinned, device, pool, graph."""
        return {kind: n for kind, n in self._device.open.items() if n}

    def stream(self) -> HostStream:
        """A new queue."""
        self._device.check("stream")
        return HostStream(self._device)

    def event(self, *, timing: bool = False) -> HostEvent:
        """A new event."""
        self._device.check("event")
        return HostEvent(self._device, timing=timing)

    def pinned(self, n_bytes: int) -> HostPinnedBuffer:
        """Host memory, zeroed."""
        check_size(n_bytes)
        self._device.check("pinned")
        return HostPinnedBuffer(self._device, n_bytes)

    def pool(self, *, cap_bytes: int | None = None) -> HostMemoryPool:
        """A pool of the pretended device."""
        self._device.check("pool")
        return HostMemoryPool(self._device, cap_bytes)

    def copy_in(self, target: DeviceBuffer, source: PinnedBuffer, n_bytes: int, stream: Stream) -> None:
        """Host to pretended device, when the stream comes to it."""
        self._copy(target, source, n_bytes, stream)

    def copy_out(self, target: PinnedBuffer, source: DeviceBuffer, n_bytes: int, stream: Stream) -> None:
        """Pretended device to host, when the stream comes to it."""
        self._copy(target, source, n_bytes, stream)

    def _copy(
        self, target: DeviceBuffer | PinnedBuffer, source: DeviceBuffer | PinnedBuffer, n_bytes: int, stream: Stream
    ) -> None:
        check_copy(target, source, n_bytes)
        self._device.check("copy")
        into, out_of = target.pointer, source.pointer

        def copy() -> None:
            device_view(into, n_bytes)[:] = device_view(out_of, n_bytes)

        enqueue(stream.handle, copy)

    @contextmanager
    def capture(self, stream: Stream) -> Iterator[HostCapture]:
        """Work enqueued in the block is recorded; none of it runs. Nothing is kept of a block that raises."""
        self._device.check("capture")
        queue = stream_of(stream.handle)
        queue.refuse_while_capturing("begin a capture")
        capture, queue.recording = HostCapture(), []
        try:
            yield capture
            capture.found = HostGraph(self._device, queue.recording)
        finally:
            queue.recording = None

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of the pretended device."""
        self._device.check("memory_info")
        return self._device.total_bytes - self._device.used_bytes, self._device.total_bytes

    def close(self) -> None:
        """Nothing of its own to release; `leaks` still tells what others left."""
