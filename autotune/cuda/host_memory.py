"""The memory of the double: a table of the buffers that exist, the buffers, and a pool that counts them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotune.cuda.host_device import HostDevice
from autotune.cuda.host_streams import HostStream, stream_of
from autotune.cuda.pool_count import PoolCount
from autotune.cuda.runtime import Stream, check_size
from autotune.errors import OutOfMemory, Unstable

UNWRITTEN = 0xCD
"""What every byte of device memory holds until it is written."""
FREED = 0xDD
"""What every byte of device memory holds once its stream came to the end of its life."""

_ALIGNMENT_BYTES = 256  # cudaMalloc's (CUDA C++ programming guide, "Device memory accesses")
_existing: dict[int, NDArray[np.uint8]] = {}


def device_view(pointer: int, n_bytes: int) -> NDArray[np.uint8]:
    """The bytes at an address of a host or device buffer, shape (n_bytes,); for doubles that read inputs and write outputs.

    Raises Unstable, as a kernel does at an illegal address, where they are not all within one buffer that is still there.
    """
    for start, memory in list(_existing.items()):
        if start <= pointer and pointer + n_bytes <= start + len(memory):
            return memory[pointer - start : pointer - start + n_bytes]
    raise Unstable(f"an illegal memory access: {n_bytes} bytes at {pointer:#x} are in no buffer", stage="load")


def _new_memory(n_bytes: int, filled_with: int) -> NDArray[np.uint8]:
    whole = np.full(n_bytes + _ALIGNMENT_BYTES, filled_with, dtype=np.uint8)
    memory = whole[-whole.ctypes.data % _ALIGNMENT_BYTES :][:n_bytes]
    _existing[memory.ctypes.data] = memory
    return memory


class HostPinnedBuffer:
    """Memory of this process."""

    def __init__(self, device: HostDevice, n_bytes: int) -> None:
        self.array = _new_memory(n_bytes, 0)
        self.pointer: int = self.array.ctypes.data
        self.n_bytes = n_bytes
        self._device = device
        device.open["pinned"] += 1

    def close(self) -> None:
        """The memory is no buffer any more: work that still uses it fails."""
        if _existing.get(self.pointer) is self.array:
            del _existing[self.pointer]
            self._device.open["pinned"] -= 1


class HostDeviceBuffer:
    """Memory of this process that stands for a device's."""

    def __init__(self, pool: HostMemoryPool, n_bytes: int, stream: HostStream) -> None:
        self._memory = _new_memory(n_bytes, UNWRITTEN)
        self.pointer: int = self._memory.ctypes.data
        self.n_bytes = n_bytes
        self._pool, self._stream, self._closed = pool, stream, False

    def close(self) -> None:
        """The pool may hand its bytes out again; work that was enqueued before still finds them."""
        if self._closed:
            return
        self._closed = True
        self._pool.give_back(self.n_bytes)
        if self._stream.is_open:
            self._stream.enqueue(self._free)
        else:
            self._free()

    def _free(self) -> None:
        self._memory[:] = FREED
        _existing.pop(self.pointer, None)


class HostMemoryPool:
    """Counts what it hands out, against its cap and against the pretended device."""

    def __init__(self, device: HostDevice, cap_bytes: int | None) -> None:
        self._device = device
        self._count = PoolCount(cap_bytes)
        self._closed = False
        device.open["pool"] += 1

    def allocate(self, n_bytes: int, stream: Stream) -> HostDeviceBuffer:
        """Memory that holds 0xCD. Raises OutOfMemory at the cap or the device's end, ValueError for less than 1 byte."""
        check_size(n_bytes)
        self._device.check("allocate")
        queue = stream_of(stream.handle)
        queue.refuse_while_capturing("allocate")
        with self._device.lock:
            free = self._device.total_bytes - self._device.used_bytes
            if n_bytes > free:
                raise OutOfMemory(f"{n_bytes} bytes do not fit: {free} bytes of the device are free", stage="open")
            self._count.take(n_bytes)
            self._device.used_bytes += n_bytes
            self._device.open["device"] += 1
        return HostDeviceBuffer(self, n_bytes, queue)

    def give_back(self, n_bytes: int) -> None:
        """They are the pool's again."""
        with self._device.lock:
            self._count.give_back(n_bytes)
            self._device.used_bytes -= n_bytes
            self._device.open["device"] -= 1

    def used_bytes(self) -> int:
        """Bytes handed out."""
        return self._count.used_bytes

    def peak_bytes(self) -> int:
        """The most that were handed out at once."""
        return self._count.peak_bytes

    def close(self) -> None:
        """The pool is gone. Raises Unstable while buffers of it are open."""
        if self._closed:
            return
        if self.used_bytes():
            raise Unstable(f"a pool is closed while {self.used_bytes()} of its bytes are handed out", stage="close")
        self._closed = True
        self._device.open["pool"] -= 1
