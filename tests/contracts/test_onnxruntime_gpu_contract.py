"""ONNX Runtime's GPU engines keep the contract on a double of its GPU providers, with and without a captured graph."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")

from assets import fake_nvml, fake_onnxruntime_gpu

from autotune.engines.build import load_backend
from autotune.engines.protocol import Backend
from autotune.fingerprint import digest_of, library_version
from autotune.testing import EngineContract

_VERSION = "1.31.1"
_SHIM = """from pathlib import Path
from assets.fake_onnxruntime_gpu import take_over
take_over(__name__, str(Path(__file__).parents[1]))
"""


class OnDouble(EngineContract):
    """The contract of one provider. `candidate`s of the contract ask for a captured graph in every stream."""

    __test__ = False
    engine_name = ""
    provider = ""

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """onnxruntime-gpu on a GPU, in this process and in those that it starts."""
        site = Path(tmp_path_factory.mktemp("site"))
        (site / "onnxruntime").mkdir()
        (site / "onnxruntime" / "__init__.py").write_text(_SHIM)
        (site / "sitecustomize.py").write_text("from assets.trt_installed import give_gpu\n\ngive_gpu()\n")
        facts = site / f"onnxruntime_gpu-{_VERSION}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: {_VERSION}\n")
        (facts / "top_level.txt").write_text("onnxruntime\n")
        # Not syspath_prepend, which would take back the folder that onnxruntime.transformers adds for modules of its own.
        sys.path.insert(0, str(site))
        importlib.invalidate_caches()
        fake_nvml.install(monkeypatch, fake_nvml.FakeGpu(name="A GPU", capability=(9, 0)))
        monkeypatch.setenv("AUTOTUNE_TEST_GPU", "9.0")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa")
        about = (self.provider, _VERSION, os.environ["CUDA_VISIBLE_DEVICES"])
        monkeypatch.setenv(f"AUTOTUNE_PROBED_{digest_of(about)}", "")  # the probe has answered: the provider works
        fake_onnxruntime_gpu.install(monkeypatch)
        library_version.cache_clear()
        yield
        sys.path.remove(str(site))
        library_version.cache_clear()

    def backend(self) -> Backend:
        return load_backend(self.engine_name)


class TestCuda(OnDouble):
    """The CUDA provider: its slots are sessions of their own, each with a graph."""

    __test__ = True
    engine_name = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"


class TestTensorRt(OnDouble):
    """The TensorRT provider, which has one slot."""

    __test__ = True
    engine_name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"
