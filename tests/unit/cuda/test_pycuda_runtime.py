"""The adapter to PyCUDA, on a double that keeps PyCUDA's rules about contexts."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from assets import fake_pycuda as fake

from autotune.cuda.host import HostRuntime, device_view, enqueue
from autotune.cuda.pycuda_runtime import PycudaRuntime
from autotune.cuda.runtime import DeviceRuntime, LibraryGap
from autotune.errors import EnvironmentProblem, Unstable
from autotune.fingerprint import library_version
from autotune.testing import DeviceRuntimeContract


class OnTheDouble(PycudaRuntime):
    """The adapter, on a machine that may not have PyCUDA."""

    @staticmethod
    def gap() -> LibraryGap | None:
        return None


class TestPycudaOnADouble(DeviceRuntimeContract):
    """What the adapter does with PyCUDA; the GPU itself is in tests/gpu."""

    has_graphs = False

    @pytest.fixture(autouse=True)
    def host(self, monkeypatch: pytest.MonkeyPatch) -> HostRuntime:
        host = HostRuntime()
        fake.install(monkeypatch, host)
        fake.depths.clear()
        return host

    def kind(self) -> type[DeviceRuntime]:
        return OnTheDouble

    def foreign_fill(self, handle: int, pointer: int, value: int, n_bytes: int) -> None:
        enqueue(handle, lambda: device_view(pointer, n_bytes).fill(value))

    def test_the_gap_is_told_without_initialising_cuda(self, runtime: DeviceRuntime) -> None:
        pytest.skip("a double lives in one process; tests/gpu asks the real PyCUDA")

    def test_no_thread_keeps_a_context(self, runtime: DeviceRuntime, things: ExitStack, host: HostRuntime) -> None:
        """PyCUDA aborts the process when a thread ends with a context on its stack; and nothing may stay open."""
        self.test_each_thread_may_have_a_stream(runtime, things)
        things.close()
        assert set(fake.depths.values()) == {0} and len(fake.depths) == 5
        assert host.leaks() == {}

    def test_a_failure_pops_the_context_too(self, runtime: DeviceRuntime, host: HostRuntime) -> None:
        """Whatever PyCUDA raises arrives translated, and the stack is as it was."""
        stream = runtime.stream()
        host.fail_at("work")
        enqueue(stream.handle, lambda: None)
        with pytest.raises(Unstable, match="cuStreamSynchronize failed"):
            stream.synchronize()
        assert set(fake.depths.values()) == {0}

    def test_kept_blocks_are_released_where_they_would_exceed_the_cap(self, runtime: DeviceRuntime) -> None:
        """PyCUDA keeps freed blocks by size: two sizes in turn must not hold twice the cap."""
        pool, stream = runtime.pool(cap_bytes=1000), runtime.stream()
        pool.allocate(900, stream).close()
        kept = pool.allocate(800, stream)
        assert pool._native.managed_bytes == 800  # type: ignore[attr-defined]  # the library's figure, not ours
        for thing in (kept, pool, stream):
            thing.close()


def test_a_missing_pycuda_comes_with_the_line_that_helps() -> None:
    """It is compiled on the spot, so the line says where the compiler must be."""
    if library_version("pycuda") is not None:
        pytest.skip("PyCUDA is installed")
    gap = PycudaRuntime.gap()
    assert gap is not None and "autotune[pycuda]" in gap.remedy and "PATH" in gap.remedy


def test_a_pycuda_that_does_not_load_is_the_environments_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It links to libcuda.so.1, so its import fails without a driver."""
    import builtins

    real = builtins.__import__

    def without_driver(name: str, *rest: object) -> object:
        if name.startswith("pycuda"):
            raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")
        return real(name, *rest)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(builtins, "__import__", without_driver)
    with pytest.raises(EnvironmentProblem, match=r"libcuda\.so\.1"):
        PycudaRuntime()
