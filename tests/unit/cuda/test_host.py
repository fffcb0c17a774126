"""The host double finds the mistakes that a GPU would hide, or answer with a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from autotune.cuda.host import FREED, UNWRITTEN, HostRuntime, device_view, enqueue
from autotune.errors import OutOfMemory, Unstable


@pytest.fixture
def runtime() -> Iterator[HostRuntime]:
    yield HostRuntime(total_bytes=1000)


def test_nothing_arrives_without_a_synchronization(runtime: HostRuntime) -> None:
    """On a small model a GPU is often done before the host looks, and the bug waits for a larger one."""
    stream, source, result = runtime.stream(), runtime.pinned(4), runtime.pinned(4)
    there = runtime.pool().allocate(4, stream)
    source.array[:] = 1
    runtime.copy_in(there, source, 4, stream)
    runtime.copy_out(result, there, 4, stream)
    assert not result.array.any()
    source.array[:] = 2  # overwritten before the copy ran: the copy takes what is there then
    stream.synchronize()
    assert (result.array == 2).all()


def test_memory_that_nobody_wrote_is_recognized(runtime: HostRuntime) -> None:
    """A GPU's fresh memory is often zero, which looks like an answer."""
    stream, result = runtime.stream(), runtime.pinned(4)
    there = runtime.pool().allocate(4, stream)
    runtime.copy_out(result, there, 4, stream)
    stream.synchronize()
    assert (result.array == UNWRITTEN).all()
    view = device_view(there.pointer, 4)
    there.close()
    stream.synchronize()
    assert (view == FREED).all()


def test_an_address_of_no_buffer_breaks_the_context(runtime: HostRuntime) -> None:
    """As a kernel's illegal access does: the synchronization fails, and everything after it."""
    stream, other = runtime.stream(), runtime.stream()
    there = runtime.pool().allocate(4, stream)
    enqueue(stream.handle, lambda: device_view(there.pointer, 5).fill(0))
    with pytest.raises(Unstable, match="illegal"):
        stream.synchronize()
    for call in (other.synchronize, runtime.stream, runtime.memory_info):
        with pytest.raises(Unstable, match="unusable"):
            call()


def test_a_pinned_buffer_closed_too_early_is_found(runtime: HostRuntime) -> None:
    """A queued copy holds no reference to what it reads."""
    stream, source = runtime.stream(), runtime.pinned(4)
    there = runtime.pool().allocate(4, stream)
    runtime.copy_in(there, source, 4, stream)
    source.close()
    with pytest.raises(Unstable, match="illegal"):
        stream.synchronize()


def test_a_capture_forbids_what_cuda_forbids(runtime: HostRuntime) -> None:
    """Synchronizing and allocating on a captured stream invalidate the capture on a GPU."""
    stream, pool = runtime.stream(), runtime.pool()
    with runtime.capture(stream) as capture:
        for call in (stream.synchronize, lambda: pool.allocate(1, stream)):
            with pytest.raises(Unstable, match="capturing"):
                call()
        with pytest.raises(RuntimeError, match="once the block"):
            _ = capture.graph
    capture.graph.close()
    with pytest.raises(Unstable, match="closed"):
        capture.graph.launch(stream)


def test_a_planted_fault_comes_at_its_turn(runtime: HostRuntime) -> None:
    """The nth call fails and no other; memory is out, everything else is unstable."""
    runtime.fail_at("allocate", nth=2)
    stream, pool = runtime.stream(), runtime.pool()
    pool.allocate(1, stream)
    with pytest.raises(OutOfMemory):
        pool.allocate(1, stream)
    pool.allocate(1, stream)
    runtime.fail_at("event", failure=Unstable("mine", stage="open"))
    with pytest.raises(Unstable, match="mine"):
        runtime.event()
    runtime.event()


def test_leaks_are_told_by_kind(runtime: HostRuntime) -> None:
    """A session that forgets a buffer for each trial eats the GPU in a night."""
    stream, event, pinned, pool = runtime.stream(), runtime.event(), runtime.pinned(1), runtime.pool()
    there = pool.allocate(1, stream)
    with runtime.capture(stream) as capture:
        pass
    assert runtime.leaks() == {"stream": 1, "event": 1, "pinned": 1, "pool": 1, "device": 1, "graph": 1}
    with pytest.raises(Unstable, match="handed out"):
        pool.close()
    for thing in (capture.graph, there, pool, pinned, event, stream):
        thing.close()
    assert runtime.leaks() == {}


def test_two_pools_share_the_device(runtime: HostRuntime) -> None:
    """A pool without a cap still ends where the device does, and free memory is what the pools leave."""
    stream, first, second = runtime.stream(), runtime.pool(), runtime.pool(cap_bytes=900)
    first.allocate(600, stream)
    assert runtime.memory_info() == (400, 1000)
    with pytest.raises(OutOfMemory, match="400"):
        second.allocate(401, stream)
    assert (first.used_bytes(), second.used_bytes()) == (600, 0)


def test_a_fork_cannot_use_it(runtime: HostRuntime) -> None:
    """CUDA does not survive a fork; a runtime made in the warm parent is a bug that the double must not hide."""
    if (child := os.fork()) == 0:
        try:
            runtime.stream()
            os._exit(1)
        except Unstable:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
