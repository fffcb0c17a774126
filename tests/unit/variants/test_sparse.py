"""2:4 sparsity: which weights become zero, in which layers, and that recovery leaves them so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models as tiny
from onnx import TensorProto, numpy_helper

from autotune.cache import Cache
from autotune.errors import Unsupported
from autotune.fingerprint import library_version
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.make import VariantRequest, make_variant
from autotune.variants.placement import products_of
from autotune.variants.sparse import keep_two_of_four, sparse_obstacle, sparsify_model
from autotune.variants.variant import QuantScheme

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_thread")


def sparsified(tmp_path: Path, epochs: int = 0) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    source = tiny.saved(tiny.tensor_core_classifier(), tmp_path / "source.onnx")
    notes = sparsify_model(
        source,
        tmp_path / "sparse.onnx",
        recovery=RecoverySpec(epochs=epochs, steps=1),
        data=tiny.colour_images(),
        seed=0,
        report=lambda line: None,
    )
    return onnx.load(str(tmp_path / "sparse.onnx")), notes


def fours(model: onnx.ModelProto, *, eligible: bool) -> dict[str, np.ndarray]:
    """Layer → how many weights of every four consecutive input channels are not zero."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = {}
    for product in products_of(model):
        if (sparse_obstacle(product) == "") is eligible:
            weights = np.moveaxis(stored[product.weight], 1 - product.axis, -1)
            found[product.node] = np.count_nonzero(weights.reshape(-1, 4), axis=-1) if weights.size % 4 == 0 else weights
    return found


def test_the_two_largest_of_four_stay() -> None:
    """By magnitude, along the input channels; of equal ones the first."""
    weights = np.array([[1.0, -3.0, 2.0, 0.5, 1.0, 1.0, -1.0, 1.0]])
    assert keep_two_of_four(weights, 1).astype(int).tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]
    assert keep_two_of_four(weights.T, 0).T.astype(int).tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]


def test_every_pixel_of_a_kernel_is_thinned_along_its_input_channels() -> None:
    """TensorRT's rule: for each output channel and each spatial pixel, two zeros among every four input channels."""
    weights = np.random.default_rng(0).standard_normal((8, 16, 3, 3)).astype(np.float32)
    kept = keep_two_of_four(weights, 1)
    assert (kept.reshape(8, 4, 4, 3, 3).sum(axis=2) == 2).all()


def test_only_layers_with_sparse_kernels_are_thinned(tmp_path: Path) -> None:
    """Not the 3-channel stem and not the depthwise convolution; the notes say what share of the work became sparse."""
    model, notes = sparsified(tmp_path)
    assert all((counts == 2).all() for counts in fours(model, eligible=True).values())
    assert len(fours(model, eligible=True)) == 7 and len(fours(model, eligible=False)) == 2
    dense = {t.name: numpy_helper.to_array(t) for t in tiny.tensor_core_classifier().graph.initializer}
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for product in products_of(model):
        same = np.array_equal(stored[product.weight], dense[product.weight])
        assert same is bool(sparse_obstacle(product))
    # as in test_qdq: of 64 · 85408 + 2048 multiply-accumulates the stem has 64 · 864 and the depthwise layer 64 · 576
    share = (64 * (85408 - 864 - 576) + 2048) / (64 * 85408 + 2048)
    assert notes == (
        f"2:4 zeros in 7 of 9 layers with {share:.1%} of the multiply-accumulates",
        "not recovered: recovery.epochs is 0",
    )


@pytest.mark.skipif(library_version("onnx2torch") is None, reason="recovery needs pip install 'autotune[recovery]'")
def test_recovery_leaves_the_zeros_and_comes_nearer(tmp_path: Path) -> None:
    """The other weights and the biases learn from the dense model; two of four stay zero."""
    data = tiny.colour_images()
    sparsified(tmp_path)
    expected = tiny.outputs(tmp_path / "source.onnx", data)
    before = np.square(tiny.outputs(tmp_path / "sparse.onnx", data) - expected).mean()
    model, notes = sparsified(tmp_path, epochs=4)
    after = np.square(tiny.outputs(tmp_path / "sparse.onnx", data) - expected).mean()
    assert all((counts <= 2).all() for counts in fours(model, eligible=True).values())
    assert notes[1] == "recovered for 4 epochs on 64 samples, the dense model as teacher"
    assert after < before / 2


def test_a_model_without_such_layers_is_refused_with_the_reason(tmp_path: Path) -> None:
    """8 input channels do not fill a sparse tensor core's block of 16."""
    w = tiny.GraphWriter()
    source = tiny.saved(
        w.model({"input": (tiny.FLOAT, ["batch", 8, 8, 8])}, w.conv("input", 8, 8), ["batch", 8, 8, 8]), tmp_path / "m.onnx"
    )
    with pytest.raises(Unsupported, match="2:4 sparsity: no layer qualifies; Conv0: 8 input and 8 output channels"):
        sparsify_model(source, tmp_path / "s", recovery=RecoverySpec(epochs=0), data=None, seed=0, report=lambda line: None)


def test_the_variant_is_sparse_in_fp16_and_each_stage_is_kept(tmp_path: Path) -> None:
    """fp16-sparse is the fp16 form of the sparse graph, at the same parameters; a second request makes nothing."""
    path = tiny.saved(tiny.tensor_core_classifier(), tmp_path / "m.onnx")
    request = VariantRequest(
        model=ModelSpec(path=path),
        precision="fp16-sparse",
        pruning_ratio=0.0,
        scheme=QuantScheme(),
        recovery=RecoverySpec(epochs=0),
        seed=0,
    )
    variant, hits = make_variant(request, tiny.colour_images(), None, Cache(tmp_path / "cache"))
    again, all_hits = make_variant(request, tiny.colour_images(), None, Cache(tmp_path / "cache"))
    assert hits == () and all_hits == ("base", "sparse", "variant") and again.key == variant.key
    model = onnx.load(str(variant.path))
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}
    assert all((counts <= 2).all() for counts in fours(model, eligible=True).values())
    assert variant.info.notes[0].startswith("2:4 zeros in 7 of 9 layers") and variant.info.scheme == ""
