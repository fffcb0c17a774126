"""A double of what `TorchRuntime` uses of torch.cuda: tensors on the CPU whose copies wait until their stream is synchronized.

Every name of a double exists in the installed torch, and every call is bound to the real signature first, so that what torch
would refuse is refused here.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch

TOTAL_BYTES = 64 << 20
_streams: dict[int, FakeStream] = {}
_handles = itertools.count(0x100, 0x10)
_local = threading.local()


def _current() -> list[FakeStream]:
    """The streams entered on this thread, the current one last."""
    if not hasattr(_local, "streams"):
        _local.streams = []
    found: list[FakeStream] = _local.streams
    return found


def enqueue(handle: int, work: Callable[[], Any]) -> None:
    """Work of another library, by the stream's handle."""
    _streams[handle].enqueue(work)


class FakeStream:
    """A queue; a capture takes what is enqueued meanwhile."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        assert device == "cuda:0"
        self.cuda_stream = next(_handles)
        self._queue: list[Callable[[], Any]] = []
        self.recording: list[Callable[[], Any]] | None = None
        _streams[self.cuda_stream] = self

    def enqueue(self, work: Callable[[], Any]) -> None:
        (self._queue if self.recording is None else self.recording).append(work)

    def wait_event(self, event: FakeEvent) -> None:
        recorded_on = event.stream  # AttributeError for what is no event, as torch's is
        self.enqueue(recorded_on.synchronize)

    def synchronize(self) -> None:
        while self._queue:
            self._queue.pop(0)()


class FakeEvent:
    """Passes when its stream is run."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._timing, self._at = enable_timing, 0.0
        self.stream: Any = None

    def record(self, stream: FakeStream) -> None:
        self.stream = stream
        stream.enqueue(lambda: setattr(self, "_at", perf_counter()))

    def synchronize(self) -> None:
        self.stream.synchronize()

    def elapsed_time(self, end_event: FakeEvent) -> float:
        if not (self._timing and end_event._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        return (end_event._at - self._at) * 1e3


class FakeGraph:
    """Records on the current stream."""

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        assert capture_error_mode == "thread_local"
        self._stream, self._work = _current()[-1], []
        self._stream.recording = self._work

    def capture_end(self) -> None:
        self._stream.recording = None

    def replay(self) -> None:
        for work in self._work:
            _current()[-1].enqueue(work)

    def reset(self) -> None:
        self._work = []


class FakeTensor(torch.Tensor):
    """A tensor on the CPU whose copies are put on the current stream."""

    def copy_(self, source: Any, non_blocking: bool = False) -> Any:
        assert non_blocking and _current(), "a copy that blocks the host, or on the default stream"
        target, origin = self.as_subclass(torch.Tensor), source.as_subclass(torch.Tensor)
        _current()[-1].enqueue(lambda: target.copy_(origin))
        return self


class FakeMemPool:
    """Its identity is all that the adapter needs."""


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda is the double, checked against the real one."""
    _check_names()
    binding = {
        n: inspect.signature(getattr(torch.cuda, n)) for n in ("stream", "use_mem_pool", "mem_get_info", "init", "MemPool")
    }
    real_empty, real_zeros = torch.empty, torch.zeros

    @contextmanager
    def stream(*given: Any, **named: Any) -> Iterator[None]:
        _current().append(binding["stream"].bind(*given, **named).arguments["stream"])
        yield
        _current().pop()

    @contextmanager
    def use_mem_pool(*given: Any, **named: Any) -> Iterator[None]:
        assert isinstance(binding["use_mem_pool"].bind(*given, **named).arguments["pool"], FakeMemPool)
        yield

    def empty(n_bytes: int, *, dtype: Any, device: str) -> Any:
        if n_bytes > TOTAL_BYTES:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        assert device == "cuda:0"
        return real_empty(n_bytes, dtype=dtype).fill_(0xCD).as_subclass(FakeTensor)

    def zeros(n_bytes: int, *, dtype: Any, pin_memory: bool) -> Any:
        assert pin_memory
        return real_zeros(n_bytes, dtype=dtype).as_subclass(FakeTensor)

    for name, double in {
        "Stream": FakeStream, "Event": FakeEvent, "CUDAGraph": FakeGraph, "MemPool": FakeMemPool, "stream": stream,
        "use_mem_pool": use_mem_pool, "init": lambda: None, "mem_get_info": lambda device=None: (TOTAL_BYTES, TOTAL_BYTES),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, double)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "zeros", zeros)


def _check_names() -> None:
    """The doubles have no attribute that torch's classes lack, and take no argument that torch's do not."""
    stubs = (Path(torch.__file__).parent / "_C" / "__init__.pyi").read_text()
    assert "cuda_stream: _int" in stubs[stubs.index("class _CudaStreamBase") :][:600]
    for double, real in ((FakeStream, torch.cuda.Stream), (FakeEvent, torch.cuda.Event), (FakeGraph, torch.cuda.CUDAGraph)):
        used = {n for n in vars(double) if not n.startswith("_")} - {"enqueue"}
        assert used <= set(dir(real)), f"{real.__name__} lacks {used - set(dir(real))}"
        for name in used:
            taken = set(inspect.signature(getattr(double, name)).parameters)
            assert taken <= set(inspect.signature(getattr(real, name)).parameters), (
                f"{real.__name__}.{name} takes other arguments"
            )
    assert "enable_timing" in inspect.signature(torch.cuda.Event).parameters
    assert "device" in inspect.signature(torch.cuda.Stream).parameters
