"""The runtimes' contract is worth something only if it fails for those that break it: one fault each, planted in the double."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
import pytest
from _pytest.outcomes import Failed

from autotune.cuda.host import HostRuntime, device_view, enqueue
from autotune.cuda.host_streams import HostCapture, stream_of
from autotune.cuda.runtime import DeviceRuntime
from autotune.errors import Unstable
from autotune.testing import DeviceRuntimeContract


class Faulty(HostRuntime):
    """The double, with what `fault` names done wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def memory_info(self) -> tuple[int, int]:
        free, total = super().memory_info()
        return (total, free - 1) if self.fault == "total before free" else (free, total)

    def pinned(self, n_bytes: int) -> Any:
        buffer = super().pinned(n_bytes)
        if self.fault == "pinned memory as it was":
            buffer.array[:] = 1
        if self.fault == "an array elsewhere":
            buffer.array = np.zeros(n_bytes, np.uint8)
        return buffer

    def pool(self, *, cap_bytes: int | None = None) -> Any:
        pool = super().pool(cap_bytes=None if self.fault == "no cap" else cap_bytes)
        if self.fault == "the peak is what is used":
            pool.peak_bytes = pool.used_bytes  # type: ignore[method-assign]  # the fault
        if self.fault == "freed at once":
            allocate = pool.allocate

            def allocate_unordered(n_bytes: int, stream: Any) -> Any:
                buffer = allocate(n_bytes, stream)
                close = buffer.close
                buffer.close = lambda: (buffer._free(), close())[1]  # type: ignore[method-assign]  # the fault
                return buffer

            pool.allocate = allocate_unordered  # type: ignore[method-assign]  # the fault
        return pool

    def event(self, *, timing: bool = False) -> Any:
        return super().event(timing=timing or self.fault == "all events have time")

    def stream(self) -> Any:
        stream = super().stream()
        if self.fault == "waits for no event":
            stream.wait_for = lambda event: None  # type: ignore[method-assign]  # the fault
        return stream

    def copy_out(self, target: Any, source: Any, n_bytes: int, stream: Any) -> None:
        if self.fault == "copies at once":
            target.array[:n_bytes] = device_view(source.pointer, n_bytes)
        elif self.fault == "copies all there is":
            super().copy_out(target, source, min(target.n_bytes, source.n_bytes), stream)
        else:
            super().copy_out(target, source, n_bytes, stream)

    @contextmanager
    def capture(self, stream: Any) -> Iterator[Any]:
        if self.fault == "a capture without an end":
            stream_of(stream.handle).recording = []
            yield HostCapture()
        with super().capture(stream) as capture:
            yield capture
        if self.fault == "captured work runs too":
            capture.graph.launch(stream)

    def close(self) -> None:
        if self.fault == "closes once" and self._closed:
            raise RuntimeError("closed twice")
        self._closed = True

    _closed = False


class HostContract(DeviceRuntimeContract):
    """The contract over the double."""

    def kind(self) -> type[DeviceRuntime]:
        return HostRuntime

    def foreign_fill(self, handle: int, pointer: int, value: int, n_bytes: int) -> None:
        enqueue(handle, lambda: device_view(pointer, n_bytes).fill(value))


CLAUSES = {
    "total before free": "test_memory_of_the_device_is_told",
    "pinned memory as it was": "test_pinned_memory_is_an_array_at_its_address",
    "an array elsewhere": "test_pinned_memory_is_an_array_at_its_address",
    "no cap": "test_the_cap_of_a_pool_holds",
    "the peak is what is used": "test_a_pool_counts_what_it_hands_out",
    "freed at once": "test_memory_is_freed_in_the_order_of_its_stream",
    "all events have time": "test_timing_events_tell_the_time_between_them",
    "waits for no event": "test_an_event_orders_two_streams",
    "copies at once": "test_another_librarys_work_runs_in_the_streams_order",
    "copies all there is": "test_what_is_copied_in_comes_out",
    "a capture without an end": "test_a_capture_that_fails_leaves_the_stream_usable",
    "captured work runs too": "test_captured_work_runs_when_it_is_launched",
    "closes once": "test_closing_twice_is_safe",
}


def run(fault: str, name: str) -> None:
    """A test of the contract has run against a runtime with this fault."""
    with ExitStack() as things:
        runtime = things.enter_context(closing(Faulty(fault)))
        test = getattr(HostContract(), name)
        test(runtime, things) if "things" in test.__code__.co_varnames else test(runtime)


@pytest.mark.parametrize("name", sorted(set(CLAUSES.values())))
def test_the_runtime_without_a_fault_passes(name: str) -> None:
    """So that what follows fails for its fault and nothing else."""
    run("", name)


@pytest.mark.parametrize(("fault", "name"), CLAUSES.items())
def test_the_contract_finds(fault: str, name: str) -> None:
    """Each broken promise fails the test that states it."""
    with pytest.raises((AssertionError, Failed, RuntimeError, Unstable)):
        run(fault, name)
