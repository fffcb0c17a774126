"""A double of torch.cuda's streams and graphs on the CPU: work is put off until its stream is synchronized or waited for.

Names and arguments are those of the real functions: the doubles are bound to the real signatures, so a call that the installed
torch would refuse is refused here.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

_local = threading.local()


def _current() -> list[Any]:
    """The streams entered on this thread, the current one last."""
    if not hasattr(_local, "streams"):
        _local.streams = []
    found: list[Any] = _local.streams
    return found


class FakeStream:
    """A queue of copies. `synchronize` runs them; one that was never synchronized never arrives."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []
        self.n_synchronized = 0
        self.fault: Exception | None = None

    def wait_stream(self, stream: Any) -> None:
        """The other stream's work comes first."""

    def synchronize(self) -> None:
        self.n_synchronized += 1
        if self.fault is not None:
            raise self.fault
        for work in self.waiting:
            work()
        self.waiting.clear()


class FakeGraph:
    """Replays the forward pass that was recorded, into the tensors that it wrote then."""

    captures = 0
    replays = 0

    def replay(self) -> None:
        FakeGraph.replays += 1


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda's streams and graphs are the doubles."""
    real = inspect.signature(torch.cuda.graph.__init__)
    assert {"wait_stream", "synchronize"} <= set(dir(torch.cuda.Stream)) and "replay" in dir(torch.cuda.CUDAGraph)

    @contextmanager
    def stream(stream: FakeStream) -> Iterator[None]:
        _current().append(stream)
        yield
        _current().pop()

    @contextmanager
    def graph(*arguments: Any, **named: Any) -> Iterator[None]:
        real.bind(None, *arguments, **named)
        FakeGraph.captures += 1
        yield

    FakeGraph.captures = FakeGraph.replays = 0
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    _defer_copies(monkeypatch)


def _defer_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy back to the host, whose buffers torch.zeros makes, happens only when its stream is synchronized."""
    real, zeros = torch.Tensor.copy_, torch.zeros

    def host_zeros(*arguments: Any, **named: Any) -> torch.Tensor:
        made: torch.Tensor = zeros(*arguments, **named)
        made.on_host = True  # type: ignore[attr-defined]  # a tensor carries attributes
        return made

    def copy_(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        if non_blocking and getattr(target, "on_host", False):
            values = source.clone()
            _current()[-1].waiting.append(lambda: real(target, values))
            return target
        return real(target, source)

    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    monkeypatch.setattr(torch, "zeros", host_zeros)
