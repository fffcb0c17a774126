"""An engine of each dumped release on the double: what the tests of TensorRT's backend share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assets.trt_double import World
from assets.trt_installed import installed

from autotune.candidate import Candidate
from autotune.cuda.host import HostRuntime
from autotune.engines import tensorrt_backend
from autotune.engines.build import load_backend
from autotune.engines.protocol import Engine
from autotune.engines.tensorrt_backend import TensorRt
from autotune.engines.tensorrt_session import TensorRtSession
from autotune.records import VariantInfo
from autotune.testing.engine_contract import tiny_cnn
from autotune.variants.variant import ModelVariant

BATCH = 2


@dataclass(kw_only=True)
class Bench:
    """One release with its double, the host double of CUDA that sessions get, and a variant to build."""

    world: World
    runtime: HostRuntime
    backend: TensorRt
    variant: ModelVariant
    folder: Path

    def candidate(self, **knobs: Any) -> Candidate:
        known = {"engine": self.backend.name, "precision": "fp32", "pruning_ratio": 0.0, "batch_size": BATCH, "streams": 1}
        return Candidate(**{**known, "worker_threads": None, "memory_pool_mib": None, **knobs})

    def built(self, **knobs: Any) -> Engine:
        self.folder.mkdir(exist_ok=True)
        self.backend.build(self.variant, self.candidate(**knobs), self.folder)
        return Engine(key="k", backend=self.backend.name, variant=self.variant, folder=self.folder)

    def opened(self, **knobs: Any) -> TensorRtSession:
        return self.backend.open(self.built(**knobs), self.candidate(**knobs))

    def quantized(self) -> Bench:
        """The same with a variant of Q/DQ nodes around the first convolution."""
        return replace(self, variant=replace(self.variant, path=quantized_cnn(self.variant.path.with_name("int8.onnx"))))


def inputs(seed: int = 0, n: int = BATCH) -> dict[str, Any]:
    return {"input": np.random.default_rng(seed).standard_normal((n, 1, 8, 8)).astype(np.float32)}


def expected(bench: Bench, given: dict[str, Any]) -> Any:
    """What ONNX's reference implementation gives."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(bench.variant.path)).run(None, given)[0]


def quantized_cnn(path: Path) -> Path:
    """The small network with a symmetric QuantizeLinear and DequantizeLinear on its input."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(tiny_cnn(path)))
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.05), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    )
    model.graph.node[0].input[0] = "dequantized"
    quantize = helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["quantized"], name="q")
    model.graph.node.insert(0, quantize)
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["dequantized"], name="dq"))
    onnx.save_model(model, str(path))
    return path


def bench_on(release: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The release is installed while the test runs; all sessions are on one host double, whose leaks are sought at the end."""
    with installed(release, folder, monkeypatch) as world:
        runtime = HostRuntime(total_bytes=64 << 20)
        monkeypatch.setattr(tensorrt_backend, "selected_runtime", lambda: runtime)
        path = tiny_cnn(folder / "tiny.onnx")
        info = VariantInfo(key="v", precision="fp32", scheme="", pruning_ratio=0.0, achieved_pruning=0.0, params=1, macs=1,
                           model_bytes=path.stat().st_size)  # fmt: skip
        variant = ModelVariant(key="v", path=path, info=info)
        backend = load_backend("tensorrt-rtx" if "rtx" in release else "tensorrt")
        yield Bench(world=world, runtime=runtime, backend=backend, variant=variant, folder=folder / "engine")  # type: ignore[arg-type]
        usable = not runtime._device._broken
        assert not usable or runtime.leaks() == {}, "what a session opened it closes, also where opening failed"
