"""Every library that drives CUDA from Python keeps the contract, on the GPU of this machine."""

from __future__ import annotations

import pytest

from autotune.cuda.runtime import DeviceRuntime
from autotune.registry import RUNTIMES
from autotune.testing import DeviceRuntimeContract

pytestmark = pytest.mark.gpu


class OfThisName(DeviceRuntimeContract):
    """The runtime that studies name `runtime_name`."""

    runtime_name = ""

    def kind(self) -> type[DeviceRuntime]:
        found: type[DeviceRuntime] = RUNTIMES.load(self.runtime_name)
        return found


class TestCudaCore(OfThisName):
    """NVIDIA's cuda-core and cuda-bindings."""

    runtime_name = "cuda-core"


class TestTorch(OfThisName):
    """torch.cuda."""

    runtime_name = "torch"


class TestPycuda(OfThisName):
    """PyCUDA, which has no graphs."""

    runtime_name = "pycuda"
    has_graphs = False
