"""The real parser and builder of TensorRT for RTX, which need no GPU, on real models in every precision, pruned and not.

What is built here is what a GPU of that compute capability would load; that it loads and computes rightly, only a GPU can show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: pip install 'autotune[tensorrt-rtx]'")
pytest.importorskip("torch_pruning", reason="torch-pruning is not installed: pip install 'autotune[prune]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'autotune[onnxruntime]'")

from autotune.cache import Cache
from autotune.candidate import Candidate
from autotune.data.dataset import Dataset
from autotune.devices.build_target import parse_target, set_build_target
from autotune.engines.build import build_engine
from autotune.engines.protocol import Engine
from autotune.engines.tensorrt_backend import TensorRtRtx
from autotune.errors import BuildFailed, EnvironmentProblem, Unsupported
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.make import VariantRequest, base_model, make_variant, model_inputs
from autotune.variants.variant import ModelVariant

SHARED = Path(__file__).parents[3] / "shared" / "data"
MODELS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {"path": SHARED / "imagenet" / "mobilenet_v2_1.0_224.onnx"},
    "resnet20": {"path": SHARED / "cifar10" / "resnet20_cifar10.onnx"},
    "resnet50": {"torch": "assets.resnet50:resnet50", "input_shape": (3, 64, 64)},
}
"""64² instead of 224²: pruning and calibration run the model many times, and kernels are chosen from the same families."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
RATIOS = (0.0, 0.3)
BATCH = 4


@dataclass(kw_only=True)
class Workshop:
    """A cache for all tests of this file: a model is exported, pruned and calibrated once."""

    cache: Cache
    backend: TensorRtRtx = field(default_factory=TensorRtRtx)

    def variant(self, model: str, precision: str, ratio: float) -> ModelVariant:
        spec = ModelSpec(**MODELS[model])
        if spec.path is not None and not spec.path.exists():
            pytest.skip(f"no shared data: {spec.path}")
        (wanted,) = model_inputs(base_model(spec, self.cache).folder / "model.onnx")
        shape = (4, *(n or 1 for n in wanted.sample_shape))
        samples = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        request = VariantRequest(
            model=spec, precision=precision, pruning_ratio=ratio, scheme=self.backend.scheme(precision),
            recovery=RecoverySpec(epochs=0, steps=1), seed=0, channel_block=32,
        )  # fmt: skip
        data = Dataset(arrays={wanted.name: samples}, labels=None, preprocess=None, digest=f"noise-{shape}")
        return make_variant(request, data, None, self.cache)[0]

    def candidate(self, precision: str, **knobs: Any) -> Candidate:
        known: dict[str, Any] = {"pruning_ratio": 0.0, "batch_size": BATCH, "streams": 1, "worker_threads": None}
        return Candidate(engine=self.backend.name, precision=precision, **{**known, "memory_pool_mib": None, **knobs})

    def built(self, variant: ModelVariant, precision: str, **knobs: Any) -> Engine:
        return build_engine(self.backend, variant, self.candidate(precision, **knobs), self.cache)[0]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(cache=Cache(Path(tmp_path_factory.mktemp("rtx"))))


@pytest.fixture(autouse=True)
def _no_target(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AUTOTUNE_BUILD_TARGET", "")
    yield


@pytest.mark.slow
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_real_models_are_built_for_two_gpus(workshop: Workshop, precision: str, model: str, ratio: float) -> None:
    """Every precision for sm_89, and for sm_86 all but fp8, which is refused with the reason and built for sm_120 instead.

    Convolutions compute in it.
    """
    variant = workshop.variant(model, precision, ratio)
    built_for = []
    for target in ("8.6", "8.9", "12.0") if precision == "fp8" else ("8.6", "8.9"):
        set_build_target(parse_target([target]))
        refused = workshop.backend.capabilities().refused
        if target == "8.6" and precision == "fp8":
            assert "sm_86" in refused[precision]
            with pytest.raises(Unsupported, match="fp8_e4m3"):
                workshop.built(variant, precision)
            continue
        assert precision not in refused
        engine = workshop.built(variant, precision)
        assert (engine.folder / "engine.plan").stat().st_size > variant.info.params, "at least a byte per weight"
        report = workshop.backend.layers(engine, workshop.candidate(precision), [])
        computed = [layer.precision for layer in report.layers if layer.kind == "correlation"]
        assert computed and (precision in computed or (precision, set(computed)) == ("fp32", {"fp32"})), computed
        assert report.total_us is None and len({n for layer in report.layers for n in layer.nodes}) > 10
        built_for.append(engine.key)
    assert len(set(built_for)) == 2, "an engine for each of two GPUs"


def test_what_a_gpu_cannot_compute_is_unsupported_in_the_builders_words(workshop: Workshop) -> None:
    """Turing: neither bf16 nor fp32 matrix products."""
    set_build_target(parse_target(["7.5"]))
    for precision, told in (("bf16", "b16"), ("fp32", "FP32 GEMM is not supported")):
        with pytest.raises(Unsupported, match=told):
            workshop.built(workshop.variant("resnet20", precision, 0.0), precision)


def test_too_small_a_workspace_is_a_failed_build_that_names_the_knob(workshop: Workshop) -> None:
    """The builder's limit is real: 1 MiB holds no tactic of ResNet-20 at this batch, 256 MiB do."""
    set_build_target(parse_target(["8.9"]))
    variant = workshop.variant("resnet20", "fp16", 0.0)
    with pytest.raises(BuildFailed, match=r"memory_pool_mib=1 is too small.*workspace"):
        workshop.built(variant, "fp16", memory_pool_mib=1)
    assert workshop.built(variant, "fp16", memory_pool_mib=256).folder.exists()


def test_one_engine_may_serve_several_gpus(workshop: Workshop) -> None:
    """A list of targets gives one plan; another list is another engine."""
    keys = set()
    for targets in (["8.6"], ["8.9"], ["8.6", "8.9"], []):
        set_build_target(parse_target(targets))
        keys.add(workshop.built(workshop.variant("resnet20", "fp16", 0.0), "fp16").key)
    assert len(keys) == 4


def test_the_gpu_that_is_here_is_asked_about_in_the_librarys_own_words(tmp_path: Path) -> None:
    """Without one: an engine for the GPUs with names is built and not valid here, and none is built for CURRENT."""
    import tensorrt_rtx_bindings

    from autotune.devices.gpu import visible_gpus
    from autotune.engines.tensorrt_current import steps

    try:
        if visible_gpus():
            pytest.skip("this machine has a GPU")
    except EnvironmentProblem:
        pass
    found = {step.name: step for step in steps(tensorrt_rtx_bindings, tmp_path)}
    assert {name: step.works for name, step in found.items()} == {"build": True, "validity": False, "current_build": False}
    assert found["validity"].answer.startswith("INVALID") and "cudaError" in found["current_build"].answer


def test_onnxruntimes_own_form_of_int8_is_refused_with_the_parsers_words(workshop: Workshop) -> None:
    """Biases as int32 Q/DQ: why the backend states a scheme of its own."""
    set_build_target(parse_target(["8.9"]))

    class OtherScheme(TensorRtRtx):
        def scheme(self, precision: str) -> Any:
            from autotune.variants.variant import QuantScheme

            return QuantScheme()

    other = Workshop(cache=workshop.cache, backend=OtherScheme())
    with pytest.raises(Unsupported, match="NVIDIA's parser refuses the graph"):
        other.built(other.variant("resnet20", "int8", 0.0), "int8")
