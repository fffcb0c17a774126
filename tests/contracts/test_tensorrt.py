"""TensorRT's engines keep the contract on the double of every dumped release, with the host double of CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")

from assets.trt_installed import installed

from autotune.engines.build import load_backend
from autotune.engines.protocol import Backend
from autotune.testing import EngineContract


class OnRelease(EngineContract):
    """The contract on one release."""

    __test__ = False
    release: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with installed(self.release, Path(tmp_path_factory.mktemp("site")), monkeypatch):
            yield

    def backend(self) -> Backend:
        return load_backend("tensorrt-rtx" if "rtx" in self.release else "tensorrt")


class TestTensorRt100(OnRelease):
    """TensorRT 10.0.1 on a V100, whose contexts take their memory by address only."""

    __test__ = True
    release = "tensorrt-10.0.1"


class TestTensorRt103(OnRelease):
    """TensorRT 10.3.0 on a V100."""

    __test__ = True
    release = "tensorrt-10.3.0"


class TestTensorRt104(OnRelease):
    """TensorRT 10.4.0 on a V100: the last for Volta."""

    __test__ = True
    release = "tensorrt-10.4.0"


class TestTensorRt1016(OnRelease):
    """TensorRT 10.16.1: the last with builder flags for number formats."""

    __test__ = True
    release = "tensorrt-10.16.1"


class TestTensorRt114(OnRelease):
    """TensorRT 11.4.0."""

    __test__ = True
    release = "tensorrt-11.4.0"


class TestTensorRtRtx17(OnRelease):
    """TensorRT for RTX 1.7.1."""

    __test__ = True
    release = "tensorrt-rtx-1.7.1"
