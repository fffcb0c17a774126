"""NVIDIA's precisions keep the accuracy of trained models on real data, computed on the CPU.

ONNX Runtime computes them without its own optimizations, as `tiny_models.outputs` explains; only rounding is tested here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models as tiny
from real_models import RealModel, real_model

from autotune.cache import Cache
from autotune.fingerprint import library_version
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.make import VariantRequest, make_variant
from autotune.variants.variant import ModelVariant, tensorrt_scheme

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLES = {"resnet20": 500, "ds_cnn": 800, "mobilenet_v2": 100}
QUANTIZED = ("int8", "fp8", "int4", "weak-fp16-int8")
CASES = [
    *((name, precision) for name in ("resnet20", "ds_cnn") for precision in QUANTIZED),
    *(("mobilenet_v2", precision) for precision in ("int8", "fp8")),
]


def variant_of(model: RealModel, precision: str, folder: Path, *, epochs: int = 0) -> ModelVariant:
    request = VariantRequest(
        model=ModelSpec(path=model.path),
        precision=precision,
        pruning_ratio=0.0,
        scheme=tensorrt_scheme(precision),
        recovery=RecoverySpec(epochs=epochs, steps=1, max_s=600),
        seed=0,
    )
    return make_variant(request, model.calibration, None, Cache(folder / "cache"))[0]


def hits(model: RealModel, path: Path) -> int:
    return int((tiny.outputs(path, model.validation, plainly=True).argmax(1) == model.labels).sum())


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_quantized_models_keep_their_accuracy(tmp_path: Path, name: str, precision: str) -> None:
    """At most two points of top-1 under the fp32 model on the same samples, in fp8 three: E4M3 rounds to 4 significant bits.

    On the whole validation splits, calibrated on all calibration samples: MobileNetV2 78.1 % in fp32, 78.8 % in int8, 76.8 %
    in fp8; ResNet-20 87.8, 87.7 and 87.4 %; DS-CNN 90.4, 90.5 and 90.9 %.
    """
    model = real_model(name, SAMPLES[name])
    lost = hits(model, model.path) - hits(model, variant_of(model, precision, tmp_path).path)
    assert lost <= (0.03 if precision == "fp8" else 0.02) * SAMPLES[name]


def test_sparsity_costs_accuracy_that_recovery_brings_back(tmp_path: Path) -> None:
    """DS-CNN with 77 % of its work sparse: two of four weights gone cost most of 90 % top-1, and training brings back half."""
    model = real_model("ds_cnn", 400)
    dense = hits(model, model.path)
    variant = variant_of(model, "fp16-sparse", tmp_path)
    assert variant.info.notes[0] == "2:4 zeros in 4 of 10 layers with 77.1% of the multiply-accumulates"
    cut = hits(model, variant.path)
    trained = hits(model, variant_of(model, "fp16-sparse", tmp_path, epochs=16).path)
    assert cut < dense / 2
    assert trained > (cut + dense) / 2


@pytest.mark.skipif(library_version("torch-pruning") is None, reason="pruning needs pip install 'autotune[prune]'")
def test_a_pruned_model_is_quantized_too(tmp_path: Path) -> None:
    """Pruning comes first, in widths that the format's kernels take: the same layers in fp8, with fewer parameters."""
    request = VariantRequest(
        model=ModelSpec(path=tiny.saved(tiny.tensor_core_classifier(), tmp_path / "m.onnx")),
        precision="fp8",
        pruning_ratio=0.5,
        scheme=tensorrt_scheme("fp8"),
        recovery=RecoverySpec(epochs=0, steps=1),
        seed=0,
        channel_block=32,
    )
    variant, _ = make_variant(request, tiny.colour_images(), None, Cache(tmp_path / "cache"))
    assert variant.info.achieved_pruning > 0.3 and variant.info.notes[-2].startswith("fp8 in 7 layers")
