"""The adapter to torch, on a double of torch.cuda that is bound to the installed torch's signatures."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'autotune[torch]'")
from assets import fake_torch_runtime as fake  # noqa: E402  # needs torch

from autotune.cuda.runtime import DeviceRuntime, LibraryGap  # noqa: E402
from autotune.cuda.torch_runtime import TorchRuntime  # noqa: E402
from autotune.errors import EnvironmentProblem  # noqa: E402
from autotune.testing import DeviceRuntimeContract  # noqa: E402


class OnTheDouble(TorchRuntime):
    """The adapter, on a machine whose torch it would refuse."""

    @staticmethod
    def gap() -> LibraryGap | None:
        return None


class TestTorchOnADouble(DeviceRuntimeContract):
    """What the adapter does with torch.cuda; the GPU itself is in tests/gpu."""

    @pytest.fixture(autouse=True)
    def double(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake.install(monkeypatch)

    def kind(self) -> type[DeviceRuntime]:
        return OnTheDouble

    def foreign_fill(self, handle: int, pointer: int, value: int, n_bytes: int) -> None:
        import ctypes

        fake.enqueue(handle, lambda: ctypes.memset(pointer, value, n_bytes))

    def test_the_gap_is_told_without_initialising_cuda(self, runtime: DeviceRuntime) -> None:
        pytest.skip("a double lives in one process; tests/gpu asks the real torch")


def test_a_build_for_cpus_is_no_way_to_drive_a_gpu() -> None:
    """Told from the version where it says so, for an import takes seconds."""
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    gap = TorchRuntime.gap()
    assert gap is not None and "CPU" in gap.missing.upper() and "pip install" in gap.remedy


def test_without_cuda_the_environment_is_to_blame() -> None:
    """Whoever names torch on a machine without a GPU reads what is missing."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentProblem, match="through torch"):
        TorchRuntime()


def test_a_gpus_failure_is_unstable(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises RuntimeError, or AcceleratorError from 2.8 on; either rejects the candidate."""
    from autotune.errors import Unstable

    fake.install(monkeypatch)
    stream = OnTheDouble().stream()

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    fake.enqueue(stream.handle, fail)
    with pytest.raises(Unstable, match="illegal memory access"):
        stream.synchronize()
