"""Every engine of the package keeps the contract; one that this machine lacks skips with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.candidate import Candidate
from autotune.engines.build import load_backend
from autotune.engines.fake import error_rate
from autotune.engines.protocol import Backend, Inputs, Outputs
from autotune.testing import EngineContract
from autotune.variants.variant import ModelVariant


class TestOnnxRuntime(EngineContract):
    """ONNX Runtime on the CPU."""

    def backend(self) -> Backend:
        return load_backend("onnxruntime")


class TestOpenVino(EngineContract):
    """OpenVINO on the CPU."""

    def backend(self) -> Backend:
        return load_backend("openvino")


class TestTorch(EngineContract):
    """PyTorch on the CPU, eager."""

    def backend(self) -> Backend:
        return load_backend("torch")


@pytest.mark.slow
class TestTorchCompile(EngineContract):
    """PyTorch on the CPU, compiled by Inductor."""

    def backend(self) -> Backend:
        return load_backend("torch-compile")


class TestTorchCuda(EngineContract):
    """PyTorch on a GPU, eager."""

    def backend(self) -> Backend:
        return load_backend("torch-cuda")


class TestTorchCudaGraph(EngineContract):
    """PyTorch on a GPU, captured."""

    def backend(self) -> Backend:
        return load_backend("torch-cuda-graph")


@pytest.mark.slow
class TestTorchCudaCompile(EngineContract):
    """PyTorch on a GPU, compiled and captured."""

    def backend(self) -> Backend:
        return load_backend("torch-cuda-compile")


class TestOnnxRuntimeCuda(EngineContract):
    """ONNX Runtime's CUDA provider."""

    def backend(self) -> Backend:
        return load_backend("onnxruntime-cuda")


class TestOnnxRuntimeTensorRt(EngineContract):
    """ONNX Runtime's TensorRT provider."""

    def backend(self) -> Backend:
        return load_backend("onnxruntime-tensorrt")


class TestTensorRt(EngineContract):
    """TensorRT itself, where there is a GPU; on doubles of its releases: test_tensorrt.py."""

    def backend(self) -> Backend:
        return load_backend("tensorrt")


class TestTensorRtRtx(EngineContract):
    """TensorRT for RTX, where there is a GPU that it serves."""

    def backend(self) -> Backend:
        return load_backend("tensorrt-rtx")


class TestFake(EngineContract):
    """The engine for tests: it never runs the graph, but answers from features 0 and 1 of each sample."""

    runs_the_model = False
    needs_library = False

    def backend(self) -> Backend:
        return load_backend("fake")

    def expected(self, variant: ModelVariant, inputs: Inputs, candidate: Candidate) -> Outputs:
        flat = inputs["input"].reshape(len(inputs["input"]), -1)
        answer = flat[:, 0].astype(int) + (flat[:, 1] < error_rate(candidate))
        return {"logits": np.eye(10, dtype=np.float32)[answer % 10]}
