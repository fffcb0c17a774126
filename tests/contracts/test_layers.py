"""Every engine of the package that tells its layers keeps the contract; one that this machine lacks skips with the reason."""

from __future__ import annotations

import pytest
import test_engines as engines

from autotune.engines.build import load_backend
from autotune.engines.layers import Explains
from autotune.engines.protocol import Backend
from autotune.registry import ENGINES
from autotune.testing import EngineContract, LayersContract


class TestOnnxRuntimeLayers(LayersContract):
    """ONNX Runtime on the CPU."""

    def engine(self) -> EngineContract:
        return engines.TestOnnxRuntime()


class TestOpenVinoLayers(LayersContract):
    """OpenVINO on the CPU."""

    def engine(self) -> EngineContract:
        return engines.TestOpenVino()


class TestTorchLayers(LayersContract):
    """PyTorch on the CPU, eager."""

    def engine(self) -> EngineContract:
        return engines.TestTorch()


class TestTorchCudaLayers(LayersContract):
    """PyTorch on a GPU, eager."""

    def engine(self) -> EngineContract:
        return engines.TestTorchCuda()


class TestTorchCudaGraphLayers(LayersContract):
    """PyTorch on a GPU, captured."""

    def engine(self) -> EngineContract:
        return engines.TestTorchCudaGraph()


class TestOnnxRuntimeCudaLayers(LayersContract):
    """ONNX Runtime's CUDA provider."""

    def engine(self) -> EngineContract:
        return engines.TestOnnxRuntimeCuda()


class TestOnnxRuntimeTensorRtLayers(LayersContract):
    """ONNX Runtime's TensorRT provider."""

    def engine(self) -> EngineContract:
        return engines.TestOnnxRuntimeTensorRt()


class _TensorRt(EngineContract):
    def backend(self) -> Backend:
        return load_backend("tensorrt")


class _TensorRtRtx(EngineContract):
    def backend(self) -> Backend:
        return load_backend("tensorrt-rtx")


class TestTensorRtLayers(LayersContract):
    """TensorRT itself, where there is a GPU; on doubles it is tested in unit/engines/test_tensorrt_layers.py."""

    def engine(self) -> EngineContract:
        return _TensorRt()


class TestTensorRtRtxLayers(LayersContract):
    """TensorRT for RTX, where there is a GPU."""

    def engine(self) -> EngineContract:
        return _TensorRtRtx()


class TestFakeLayers(LayersContract):
    """The engine for tests."""

    def engine(self) -> EngineContract:
        return engines.TestFake()


COMPILED = {"torch-compile", "torch-cuda-compile"}
"""Engines that refuse to tell, with the reason."""


@pytest.mark.parametrize("name", ENGINES.names())
def test_every_engine_that_explains_has_a_contract(name: str) -> None:
    """A new engine with `layers` cannot stay without the tests above."""
    tested = {c().engine().backend().name for c in LayersContract.__subclasses__()}
    if isinstance(ENGINES.load(name)(), Explains):
        assert name in tested | COMPILED
