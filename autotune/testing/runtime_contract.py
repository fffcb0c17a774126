"""DeviceRuntimeContract: what every way to drive a GPU must keep to, as a pytest class that its author inherits.

    class TestMyRuntime(DeviceRuntimeContract):
        def kind(self) -> type[DeviceRuntime]:
            return MyRuntime

It needs pytest only, takes some MiB of the device, and leaves nothing behind. Tests skip, with the reason, where the library,
the driver or the GPU is missing.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, ClassVar

import numpy as np
import pytest

from autotune.cuda.runtime import DeviceRuntime
from autotune.errors import EnvironmentProblem, OutOfMemory, Unstable, Unsupported

_BYTES = 4096
_CAP_BYTES = 4 << 20
_THREADS = 4
_ROUNDS = 50


class DeviceRuntimeContract:
    """Inherit and define `kind`. Override an attribute only where the runtime documents that it differs."""

    has_graphs: ClassVar[bool] = True
    """False for a runtime whose library has no CUDA graphs; then `capture` must raise Unsupported."""

    def kind(self) -> type[DeviceRuntime]:
        """The class under test, which is made without arguments."""
        raise NotImplementedError("a subclass of DeviceRuntimeContract defines kind()")

    def foreign_fill(self, handle: int, pointer: int, value: int, n_bytes: int) -> None:
        """Work of another library than the runtime's is enqueued on the stream with this handle: the memory holds `value`."""
        driver = ctypes.CDLL("libcuda.so.1")
        context = ctypes.c_void_p()
        driver.cuCtxGetCurrent(ctypes.byref(context))
        if not context:  # the runtime API of CUDA, which vendors' engines use, would make the primary context current by itself
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
            driver.cuCtxSetCurrent(context)
        status = driver.cuMemsetD8Async(
            ctypes.c_uint64(pointer), ctypes.c_ubyte(value), ctypes.c_size_t(n_bytes), ctypes.c_void_p(handle)
        )
        assert status == 0, f"cuMemsetD8Async returned {status}"

    @pytest.fixture
    def things(self) -> Iterator[ExitStack]:
        """What is entered here is closed when the test ends, the last first."""
        with ExitStack() as stack:
            yield stack

    @pytest.fixture
    def runtime(self, things: ExitStack) -> DeviceRuntime:
        """A new runtime. Skips where it cannot be had."""
        kind = self.kind()
        if gap := kind.gap():
            pytest.skip(f"{kind.name}: {gap.missing}")
        try:
            return things.enter_context(closing(kind()))
        except EnvironmentProblem as exc:
            pytest.skip(str(exc))

    # What a runtime says of itself

    def test_the_gap_is_told_without_initialising_cuda(self, runtime: DeviceRuntime) -> None:
        """A study asks what there is in the process that its trials are forks of; a fork then makes the runtime."""
        kind = type(runtime)
        given = json.dumps({"module": kind.__module__, "name": kind.__qualname__})
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-c", _ASK_THEN_FORK, given]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
        assert ended.returncode == 0, f"the child failed, or hung for 60 s: {ended.stderr}"

    def test_memory_of_the_device_is_told(self, runtime: DeviceRuntime) -> None:
        """Free and total bytes, in this order."""
        free, total = runtime.memory_info()
        assert 0 < free <= total

    # Memory

    def test_pinned_memory_is_an_array_at_its_address(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Zeroed, writable, bytes, and at the address that copies are given."""
        buffer = things.enter_context(closing(runtime.pinned(_BYTES)))
        assert buffer.n_bytes == _BYTES and buffer.array.shape == (_BYTES,) and buffer.array.dtype == np.uint8
        assert not buffer.array.any()
        buffer.array[:] = 7
        assert buffer.array.ctypes.data == buffer.pointer

    def test_what_is_copied_in_comes_out(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Byte for byte, and no byte beyond what was asked for."""
        lane = _Lane(runtime, things)
        lane.inside.array[:] = np.arange(_BYTES) % 251
        runtime.copy_in(lane.there, lane.inside, _BYTES, lane.stream)
        runtime.copy_out(lane.outside, lane.there, 100, lane.stream)
        lane.stream.synchronize()
        np.testing.assert_array_equal(lane.outside.array[:100], np.arange(100) % 251)
        assert not lane.outside.array[100:].any()

    def test_a_copy_beyond_a_buffer_is_refused(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """CUDA would write over what lies behind."""
        lane = _Lane(runtime, things)
        with pytest.raises(ValueError, match=str(_BYTES + 1)):
            runtime.copy_in(lane.there, lane.inside, _BYTES + 1, lane.stream)
        with pytest.raises(ValueError, match=str(_BYTES + 1)):
            runtime.copy_out(lane.outside, lane.there, _BYTES + 1, lane.stream)

    def test_a_buffer_has_at_least_a_byte(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Libraries differ in what they make of 0, so nobody may ask for it."""
        lane = _Lane(runtime, things)
        for make in (runtime.pinned, lambda n: lane.pool.allocate(n, lane.stream)):
            with pytest.raises(ValueError, match="at least 1 byte"):
                make(0)

    def test_a_pool_counts_what_it_hands_out(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Used falls when a buffer is closed, the peak does not."""
        lane = _Lane(runtime, things)
        with closing(runtime.pool(cap_bytes=_CAP_BYTES)) as pool:
            assert pool.used_bytes() == 0
            first, second = pool.allocate(1 << 20, lane.stream), pool.allocate(2 << 20, lane.stream)
            assert first.pointer != second.pointer and pool.used_bytes() >= 3 << 20
            second.close()
            assert 1 << 20 <= pool.used_bytes() < 3 << 20
            first.close()
            assert pool.used_bytes() == 0 and pool.peak_bytes() >= 3 << 20
            lane.stream.synchronize()

    def test_the_cap_of_a_pool_holds(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Up to the cap and not a byte more; what is closed makes room; the runtime still works afterwards."""
        lane = _Lane(runtime, things)
        with closing(runtime.pool(cap_bytes=_CAP_BYTES)) as pool:
            whole = pool.allocate(_CAP_BYTES, lane.stream)
            with pytest.raises(OutOfMemory, match=str(_CAP_BYTES)):
                pool.allocate(1, lane.stream)
            whole.close()
            pool.allocate(_CAP_BYTES, lane.stream).close()
            with pytest.raises(OutOfMemory):
                pool.allocate(_CAP_BYTES + 1, lane.stream)
            lane.stream.synchronize()
        assert lane.round_trip(3) == 3

    def test_the_device_has_an_end(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """More than the device has is OutOfMemory, counted as nothing, and does no harm to what follows."""
        lane = _Lane(runtime, things)
        with closing(runtime.pool()) as pool:
            with pytest.raises(OutOfMemory):
                pool.allocate(2 * runtime.memory_info()[1], lane.stream)
            assert pool.used_bytes() == 0
        assert lane.round_trip(5) == 5

    def test_memory_is_freed_in_the_order_of_its_stream(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """A buffer may be closed while a copy from it is still queued: the copy comes first."""
        lane = _Lane(runtime, things)
        lane.inside.array[:] = 11
        passing = lane.pool.allocate(_BYTES, lane.stream)
        runtime.copy_in(passing, lane.inside, _BYTES, lane.stream)
        runtime.copy_out(lane.outside, passing, _BYTES, lane.stream)
        passing.close()
        other = things.enter_context(closing(lane.pool.allocate(_BYTES, lane.stream)))
        self.foreign_fill(lane.stream.handle, other.pointer, 99, _BYTES)
        lane.stream.synchronize()
        assert (lane.outside.array == 11).all()

    # Streams and events

    def test_another_librarys_work_runs_in_the_streams_order(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """`handle` is the stream that vendors' engines are given, and `pointer` is an address that they can use."""
        lane = _Lane(runtime, things)
        lane.inside.array[:] = 1
        runtime.copy_in(lane.there, lane.inside, _BYTES, lane.stream)
        self.foreign_fill(lane.stream.handle, lane.there.pointer, 42, _BYTES // 2)
        runtime.copy_out(lane.outside, lane.there, _BYTES, lane.stream)
        lane.stream.synchronize()
        assert (lane.outside.array[: _BYTES // 2] == 42).all() and (lane.outside.array[_BYTES // 2 :] == 1).all()

    def test_an_event_orders_two_streams(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """What follows `wait_for` sees all that was enqueued on the other stream before `record`."""
        lane = _Lane(runtime, things)
        other = things.enter_context(closing(runtime.stream()))
        event = things.enter_context(closing(runtime.event()))
        for value in (1, 2):  # an event may be recorded again
            lane.inside.array[:] = value
            runtime.copy_in(lane.there, lane.inside, _BYTES, lane.stream)
            event.record(lane.stream)
            other.wait_for(event)
            runtime.copy_out(lane.outside, lane.there, _BYTES, other)
            other.synchronize()
            assert (lane.outside.array == value).all()

    def test_waiting_for_an_event_waits_for_what_came_before_it(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """The host may go on once its event has passed, though the stream has more to do."""
        lane = _Lane(runtime, things)
        event = things.enter_context(closing(runtime.event()))
        lane.inside.array[:] = 6
        runtime.copy_in(lane.there, lane.inside, _BYTES, lane.stream)
        runtime.copy_out(lane.outside, lane.there, _BYTES, lane.stream)
        event.record(lane.stream)
        event.synchronize()
        assert (lane.outside.array == 6).all()

    def test_timing_events_tell_the_time_between_them(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Not negative, and not for events without timing."""
        lane = _Lane(runtime, things)
        first, last = (things.enter_context(closing(runtime.event(timing=True))) for _ in range(2))
        plain = things.enter_context(closing(runtime.event()))
        first.record(lane.stream)
        plain.record(lane.stream)
        runtime.copy_in(lane.there, lane.inside, _BYTES, lane.stream)
        last.record(lane.stream)
        lane.stream.synchronize()
        assert 0 <= last.elapsed_ms(first) < 60_000
        with pytest.raises(Unstable):
            last.elapsed_ms(plain)

    def test_each_thread_may_have_a_stream(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Submission is asynchronous and from several threads; each finds CUDA ready and gets its own bytes."""
        lanes = [_Lane(runtime, things) for _ in range(_THREADS)]
        wrong: list[Any] = []

        def work(number: int) -> None:
            try:
                for i in range(_ROUNDS):
                    value = (number * _ROUNDS + i) % 256
                    if (found := lanes[number].round_trip(value)) != value:
                        wrong.append((number, i, found))
            except Exception as exc:
                wrong.append(repr(exc))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == []

    # Graphs

    def test_captured_work_runs_when_it_is_launched(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Not before; each time with what the pinned memory holds then; another library's work is captured with it."""
        self._need_graphs(runtime, things)
        lane = _Lane(runtime, things)
        with runtime.capture(lane.stream) as capture:
            runtime.copy_in(lane.there, lane.inside, _BYTES, lane.stream)
            self.foreign_fill(lane.stream.handle, lane.there.pointer, 77, 10)
            runtime.copy_out(lane.outside, lane.there, _BYTES, lane.stream)
        graph = things.enter_context(closing(capture.graph))
        lane.stream.synchronize()
        assert not lane.outside.array.any(), "the captured work ran before it was launched"
        for value in (8, 9):
            lane.inside.array[:] = value
            graph.launch(lane.stream)
            lane.stream.synchronize()
            assert (lane.outside.array[:10] == 77).all() and (lane.outside.array[10:] == value).all()

    def test_a_capture_that_fails_leaves_the_stream_usable(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """The block's own exception comes through, there is no graph, and nothing of the block runs."""
        self._need_graphs(runtime, things)
        lane = _Lane(runtime, things)
        with pytest.raises(KeyError), runtime.capture(lane.stream) as capture:
            runtime.copy_out(lane.outside, lane.there, _BYTES, lane.stream)
            raise KeyError("planted")
        with pytest.raises(RuntimeError):
            _ = capture.graph
        assert lane.round_trip(4) == 4

    def _need_graphs(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        if not self.has_graphs:
            with pytest.raises(Unsupported), runtime.capture(things.enter_context(closing(runtime.stream()))):
                pass
            pytest.skip(f"{runtime.name} has no graphs, and says so")

    # Ends

    def test_closing_twice_is_safe(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Whoever cleans up need not know what was cleaned up before."""
        stream, event, pinned, pool = runtime.stream(), runtime.event(), runtime.pinned(1), runtime.pool()
        closable: list[Any] = [event, pinned, pool.allocate(1, stream), pool, stream, runtime]
        if self.has_graphs:
            with runtime.capture(stream) as capture:
                pass
            closable.insert(0, capture.graph)
        stream.synchronize()
        for thing in closable:
            thing.close()
            thing.close()

    def test_what_another_runtime_made_is_refused(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        """Mixing two libraries' objects is a bug, to be told and not to be run."""
        lane = _Lane(runtime, things)
        with pytest.raises((TypeError, AttributeError, Unstable)):
            lane.stream.wait_for(object())  # type: ignore[arg-type]  # that is the point


class _Lane:
    """A stream with buffers of its own, as a slot of an engine has."""

    def __init__(self, runtime: DeviceRuntime, things: ExitStack) -> None:
        self.runtime = runtime
        self.stream = things.enter_context(closing(runtime.stream()))
        self.pool = things.enter_context(closing(runtime.pool(cap_bytes=_CAP_BYTES)))
        self.there = things.enter_context(closing(self.pool.allocate(_BYTES, self.stream)))
        self.inside = things.enter_context(closing(runtime.pinned(_BYTES)))
        self.outside = things.enter_context(closing(runtime.pinned(_BYTES)))

    def round_trip(self, value: int) -> int:
        """What came back of a buffer full of `value`; -1 where it is not full of one value."""
        self.inside.array[:] = value
        self.runtime.copy_in(self.there, self.inside, _BYTES, self.stream)
        self.runtime.copy_out(self.outside, self.there, _BYTES, self.stream)
        self.stream.synchronize()
        found = np.unique(self.outside.array)
        return int(found[0]) if len(found) == 1 else -1


_ASK_THEN_FORK = """
import json, os, signal, sys
from autotune.registry import load_object
given = json.loads(sys.argv[1])
kind = load_object(given["module"] + ":" + given["name"])
assert kind.gap() is None
if (child := os.fork()) == 0:
    status = 1
    try:
        signal.alarm(60)
        runtime = kind()
        stream, buffer = runtime.stream(), runtime.pinned(8)
        there = runtime.pool().allocate(8, stream)
        runtime.copy_in(there, buffer, 8, stream)
        stream.synchronize()
        status = 0
    finally:
        if status:
            import traceback
            traceback.print_exc()
        os._exit(status)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
