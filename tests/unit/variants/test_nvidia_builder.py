"""What NVIDIA's real parser and builder say to every graph that we make for it. TensorRT for RTX builds without a GPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import tiny_models as tiny
from assets.tensorrt_rtx import build, builder_module
from real_models import real_model

from autotune.cache import Cache
from autotune.data.dataset import Dataset
from autotune.fingerprint import library_version
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.make import VariantRequest, make_variant
from autotune.variants.variant import tensorrt_scheme

pytest.importorskip("onnxruntime")
MODELS = ("tiny", "tiny pruned", "resnet20", "resnet20 pruned", "mobilenet_v2", "mobilenet_v2 pruned")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-tensor", "fp8", "int4", "fp16-sparse", "weak-fp16-int8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Models and one cache for all tests: a model is pruned once."""
    builder_module()
    return tmp_path_factory.mktemp("rtx")


@cache
def model_and_data(name: str, folder: Path) -> tuple[Path, Dataset]:
    if name == "tiny":
        return tiny.saved(tiny.tensor_core_classifier(), folder / "tiny.onnx"), tiny.colour_images()
    model = real_model(name, 10)
    return model.path, model.calibration.first(16)


def graph(folder: Path, model: str, precision: str) -> Path:
    """The variant as TensorRT is given it: pruned by half where the model's name says so, in one step, without recovery."""
    name, _, pruned = model.partition(" ")
    if pruned and library_version("torch-pruning") is None:
        pytest.skip("pruning needs pip install 'autotune[prune]'")
    path, data = model_and_data(name, folder)
    request = VariantRequest(
        model=ModelSpec(path=path),
        precision=precision,
        pruning_ratio=0.5 if pruned else 0.0,
        scheme=tensorrt_scheme(precision),
        recovery=RecoverySpec(epochs=0, steps=1),
        seed=0,
        channel_block=32,
    )
    return make_variant(request, data, None, Cache(folder / "cache"))[0].path


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_every_recipe_builds_for_the_gpus_that_have_its_format(folder: Path, model: str, precision: str) -> None:
    """Residual additions, depthwise convolutions, a final product, pruned widths: an engine for sm_80 and for sm_89."""
    path = graph(folder, model, precision)
    for sm in (80, 89):
        if precision != "fp8" or sm >= 89:
            found = build(path, sm, sparse=precision == "fp16-sparse")
            assert found.size > 0, f"{precision} for sm_{sm}: {found.log}"


@pytest.mark.parametrize(
    ("precision", "sm", "words"),
    [
        ("fp8", 80, "HW-specific datatypes: fp8_e4m3"),
        ("fp8", 75, "HW-specific datatypes: fp8_e4m3"),
        ("bf16", 75, "HW-specific datatypes: b16"),
        ("int4", 75, "HW-specific datatypes: int4"),
        ("fp32", 75, "FP32 GEMM is not supported"),
        ("weak-fp16-int8", 75, "FP32 GEMM is not supported"),
    ],
)
def test_a_gpu_without_the_format_is_refused_in_nvidias_words(folder: Path, precision: str, sm: int, words: str) -> None:
    """The capability table says the same beforehand. int8 on an fp32 graph fails on sm_75 for its floating-point products."""
    found = build(graph(folder, "tiny", precision), sm)
    assert found.size == 0 and words in found.log


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp16-sparse"])
def test_what_turing_has_builds_for_it(folder: Path, precision: str) -> None:
    """int8 on an fp16 graph is the form that sm_75 takes; zeros that it cannot skip do no harm."""
    found = build(graph(folder, "tiny", precision), 75)
    assert found.size > 0, found.log


def test_a_matmul_and_a_transposed_convolution_are_taken_in_every_form(folder: Path) -> None:
    """The axes of their weights' scales are not the first ones."""
    w = tiny.GraphWriter()
    y = w.node("Relu", w.node("ConvTranspose", "input", w.weight("up.w", 32, 16, 2, 2), strides=[2, 2]))
    y = w.conv(y, 16, 32)
    up = tiny.saved(w.model({"input": (tiny.FLOAT, ["batch", 32, 8, 8])}, y, ["batch", 32, 16, 16]), folder / "up.onnx")
    w = tiny.GraphWriter()
    y = w.node("MatMul", w.node("Relu", w.node("MatMul", "input", w.weight("a.w", 128, 192))), w.weight("b.w", 192, 64))
    products = tiny.saved(w.model({"input": (tiny.FLOAT, ["batch", 8, 128])}, y, ["batch", 8, 64]), folder / "products.onnx")
    for path, shape, precisions in (
        (up, (4, 32, 8, 8), ("int8",)),
        (products, (4, 8, 128), ("int8", "fp8", "int4", "fp16-sparse")),
    ):
        samples = tiny.np.random.default_rng(0).standard_normal(shape).astype(tiny.np.float32)
        data = Dataset(arrays={"input": samples}, labels=None, preprocess=None, digest=str(shape))
        for precision in precisions:
            request = VariantRequest(
                model=ModelSpec(path=path),
                precision=precision,
                pruning_ratio=0.0,
                scheme=tensorrt_scheme(precision),
                recovery=RecoverySpec(epochs=0),
                seed=0,
            )
            variant = make_variant(request, data, None, Cache(folder / "cache"))[0]
            found = build(variant.path, 89, sparse=precision == "fp16-sparse")
            assert found.size > 0, f"{path.name} in {precision}: {found.log}"
