"""CUDA through torch, for machines where it is there anyway. Memory is of torch's caching allocator, in a pool of its own.

torch hands out its streams round robin from 32 per process, so more than 32 open streams share queues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from autotune.cuda.failures import translating
from autotune.cuda.pool_count import PoolCount
from autotune.cuda.runtime import DeviceBuffer, Event, LibraryGap, PinnedBuffer, Stream, check_copy, check_size, own
from autotune.fingerprint import library_version

_DEVICE = "cuda:0"


class TorchStream:
    """A stream of torch's, which are non-blocking."""

    def __init__(self) -> None:
        import torch

        with translating("making a stream"):
            self.native = torch.cuda.Stream(device=_DEVICE)
            self.handle = int(self.native.cuda_stream)

    def synchronize(self) -> None:
        """Raises Unstable when some work failed."""
        with translating("running the stream's work", "load"):
            self.native.synchronize()

    def wait_for(self, event: Event) -> None:
        """Enqueued: what follows waits."""
        with translating("waiting for an event", "load"):
            self.native.wait_event(own(event, TorchEvent).native)

    def close(self) -> None:
        """Nothing: torch keeps its streams for the next who asks."""


class TorchEvent:
    """An event of torch's."""

    def __init__(self, *, timing: bool) -> None:
        import torch

        with translating("making an event"):
            self.native = torch.cuda.Event(enable_timing=timing)

    def record(self, stream: Stream) -> None:
        """Enqueued on the stream."""
        with translating("recording an event", "load"):
            self.native.record(own(stream, TorchStream).native)

    def synchronize(self) -> None:
        """Raises Unstable when work before it failed."""
        with translating("running the work before an event", "load"):
            self.native.synchronize()

    def elapsed_ms(self, earlier: Event) -> float:
        """Raises Unstable where one has no timing or has not passed."""
        with translating("reading the time between events", "load"):
            try:
                return float(own(earlier, TorchEvent).native.elapsed_time(self.native))
            except ValueError as exc:  # how torch says that one has no timing, or was not recorded
                raise RuntimeError(str(exc)) from exc

    def close(self) -> None:
        """Nothing: the event goes with its last reference."""


class TorchPinnedBuffer:
    """A tensor in page-locked memory."""

    def __init__(self, n_bytes: int) -> None:
        import torch

        check_size(n_bytes)
        with translating(f"page-locking {n_bytes} bytes"):
            self.tensor: Any = torch.zeros(n_bytes, dtype=torch.uint8, pin_memory=True)
            self.pointer = int(self.tensor.data_ptr())
        self.n_bytes = n_bytes
        self.array: NDArray[np.uint8] = self.tensor.numpy()

    def close(self) -> None:
        """torch's allocator of page-locked memory has it back."""
        self.tensor, self.array = None, np.zeros(0, dtype=np.uint8)


class TorchDeviceBuffer:
    """A tensor on the device, out of the pool."""

    def __init__(self, pool: TorchMemoryPool, tensor: Any) -> None:
        self.tensor = tensor
        self.pointer, self.n_bytes = int(tensor.data_ptr()), int(tensor.numel())
        self._pool = pool

    def close(self) -> None:
        """The pool may hand the memory out to what is enqueued later on the same stream: so torch's allocator works."""
        tensor, self.tensor = self.tensor, None
        if tensor is not None:
            self._pool.give_back(self.n_bytes)


class TorchMemoryPool:
    """A torch.cuda.MemPool. It has no bound of its own: the cap is kept by the count of what is handed out."""

    def __init__(self, cap_bytes: int | None) -> None:
        import torch

        self._count = PoolCount(cap_bytes)
        with translating("making a memory pool"):
            torch.cuda.init()
            self._native: Any = torch.cuda.MemPool()

    def allocate(self, n_bytes: int, stream: Stream) -> TorchDeviceBuffer:
        """Tied to the stream. Raises OutOfMemory at the cap and at the device's end."""
        import torch

        check_size(n_bytes)
        there = own(stream, TorchStream).native
        self._count.take(n_bytes)
        try:
            with (
                translating(f"allocating {n_bytes} bytes"),
                torch.cuda.stream(there),
                torch.cuda.use_mem_pool(self._native, device=_DEVICE),
            ):
                tensor = torch.empty(n_bytes, dtype=torch.uint8, device=_DEVICE)
        except BaseException:
            self._count.give_back(n_bytes)
            raise
        return TorchDeviceBuffer(self, tensor)

    def give_back(self, n_bytes: int) -> None:
        """A buffer's bytes can be handed out again."""
        self._count.give_back(n_bytes)

    def used_bytes(self) -> int:
        """As asked for; torch rounds each up to 512 bytes."""
        return self._count.used_bytes

    def peak_bytes(self) -> int:
        """As asked for: torch's own peak is of all pools of the process together."""
        return self._count.peak_bytes

    def close(self) -> None:
        """The pool is torch's to release once its last tensor is gone."""
        self._native = None


class TorchGraph:
    """A torch.cuda.CUDAGraph of whatever was enqueued, torch's or not."""

    def __init__(self, native: Any) -> None:
        self._native = native

    def launch(self, stream: Stream) -> None:
        """One call for all of it."""
        import torch

        with translating("launching a graph", "load"), torch.cuda.stream(own(stream, TorchStream).native):
            self._native.replay()

    def close(self) -> None:
        """The graph is destroyed."""
        native, self._native = self._native, None
        if native is not None:
            with translating("destroying a graph", "close"):
                native.reset()


class TorchCapture:
    """The recording of one block."""

    def __init__(self) -> None:
        self.found: TorchGraph | None = None

    @property
    def graph(self) -> TorchGraph:
        """What was recorded."""
        if self.found is None:
            raise RuntimeError("the graph exists once the block of capture() has ended")
        return self.found


class TorchRuntime:
    """The second in the order of detection: everything that the protocol asks for, behind a large library."""

    name = "torch"
    distributions: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(self) -> None:
        with translating("starting CUDA through torch"):
            import torch

            torch.cuda.init()

    @staticmethod
    def gap() -> LibraryGap | None:
        """torch, in a build with CUDA."""
        version = library_version("torch")
        remedy = "pip install torch --index-url https://download.pytorch.org/whl/cu126; or pip install 'autotune[cuda-core]'"
        if version is None:
            return LibraryGap(missing="the package torch is not installed", remedy=remedy)
        if "+cpu" in version:  # told without the seconds that an import takes
            return LibraryGap(missing=f"torch {version} was compiled for CPUs only", remedy=remedy)
        try:
            import torch
        except (ImportError, OSError) as exc:
            return LibraryGap(missing=f"torch {version} does not load: {exc}", remedy=remedy)
        if torch.version.cuda is None:
            return LibraryGap(missing=f"torch {version} was compiled without CUDA", remedy=remedy)
        return None

    def stream(self) -> TorchStream:
        """One of torch's streams."""
        return TorchStream()

    def event(self, *, timing: bool = False) -> TorchEvent:
        """A new event."""
        return TorchEvent(timing=timing)

    def pinned(self, n_bytes: int) -> TorchPinnedBuffer:
        """Page-locked memory, zeroed."""
        return TorchPinnedBuffer(n_bytes)

    def pool(self, *, cap_bytes: int | None = None) -> TorchMemoryPool:
        """A pool apart from torch's default one."""
        return TorchMemoryPool(cap_bytes)

    def copy_in(self, target: DeviceBuffer, source: PinnedBuffer, n_bytes: int, stream: Stream) -> None:
        """Tensor.copy_ without blocking."""
        check_copy(target, source, n_bytes)
        self._copy(own(target, TorchDeviceBuffer).tensor, own(source, TorchPinnedBuffer).tensor, n_bytes, stream)

    def copy_out(self, target: PinnedBuffer, source: DeviceBuffer, n_bytes: int, stream: Stream) -> None:
        """Tensor.copy_ without blocking."""
        check_copy(target, source, n_bytes)
        self._copy(own(target, TorchPinnedBuffer).tensor, own(source, TorchDeviceBuffer).tensor, n_bytes, stream)

    def _copy(self, target: Any, source: Any, n_bytes: int, stream: Stream) -> None:
        import torch

        with translating("copying", "load"), torch.cuda.stream(own(stream, TorchStream).native):
            target[:n_bytes].copy_(source[:n_bytes], non_blocking=True)

    @contextmanager
    def capture(self, stream: Stream) -> Iterator[TorchCapture]:
        """Thread-local mode: what other threads do meanwhile neither joins the graph nor breaks it.

        Not through `torch.cuda.graph`, which first synchronizes the device, collects garbage and empties torch's cache.
        """
        import torch

        capture = TorchCapture()
        with torch.cuda.stream(own(stream, TorchStream).native):
            with translating("beginning a capture"):
                native = torch.cuda.CUDAGraph()
                native.capture_begin(capture_error_mode="thread_local")
            try:
                yield capture
            except BaseException:
                _abandon_capture(native)
                raise
            with translating("capturing a graph"):
                native.capture_end()
        capture.found = TorchGraph(native)

    def memory_info(self) -> tuple[int, int]:
        """torch.cuda.mem_get_info."""
        import torch

        with translating("asking for the device's memory"):
            free, total = torch.cuda.mem_get_info(_DEVICE)
        return int(free), int(total)

    def close(self) -> None:
        """Nothing: torch's CUDA state belongs to the process."""


def _abandon_capture(native: Any) -> None:
    """The stream is out of capture mode. What torch says to it does not matter: the block's own failure is under way."""
    try:
        native.capture_end()
    except RuntimeError:
        pass
    native.reset()
