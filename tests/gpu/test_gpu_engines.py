"""Every engine for NVIDIA GPUs keeps the contract, on the GPU of this machine."""

from __future__ import annotations

from typing import ClassVar

import pytest

from autotune.engines.build import load_backend
from autotune.engines.protocol import Backend
from autotune.testing import EngineContract

pytestmark = pytest.mark.gpu


class OfThisName(EngineContract):
    """The engine that studies name `engine_name`."""

    engine_name: ClassVar[str] = ""

    def backend(self) -> Backend:
        return load_backend(self.engine_name)


class TestTensorRt(OfThisName):
    """NVIDIA's TensorRT."""

    engine_name = "tensorrt"


class TestTensorRtRtx(OfThisName):
    """TensorRT for RTX."""

    engine_name = "tensorrt-rtx"


class OfTorch(OfThisName):
    """torch keeps a cuBLAS workspace of 32 MiB for each stream that ever was (sm_90), inside the cap of the whole process."""

    pool_mib = 4096


class TestTorchCuda(OfTorch):
    """PyTorch, eager."""

    engine_name = "torch-cuda"


class TestTorchCudaGraph(OfTorch):
    """PyTorch, captured."""

    engine_name = "torch-cuda-graph"


@pytest.mark.slow
class TestTorchCudaCompile(OfTorch):
    """PyTorch, compiled and captured."""

    engine_name = "torch-cuda-compile"


class TestOnnxRuntimeCuda(OfThisName):
    """ONNX Runtime's CUDA provider."""

    engine_name = "onnxruntime-cuda"


class TestOnnxRuntimeTensorRt(OfThisName):
    """ONNX Runtime's TensorRT provider."""

    engine_name = "onnxruntime-tensorrt"
