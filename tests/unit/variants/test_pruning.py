from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models as tiny
from onnx import numpy_helper

from autotune.cache import Cache
from autotune.data.dataset import Dataset
from autotune.errors import Unsupported
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.channels import kept_width
from autotune.variants.make import VariantRequest, make_variant
from autotune.variants.variant import ModelVariant, QuantScheme

pytest.importorskip("torch_pruning")
pytest.importorskip("onnxruntime")
NO_RECOVERY = RecoverySpec(epochs=0, steps=1)
SHORT = RecoverySpec(epochs=2, steps=2, batch_size=16)


def made(
    path: Path,
    cache: Path,
    ratio: float,
    recovery: RecoverySpec = NO_RECOVERY,
    data: Dataset | None = None,
    precision: str = "fp32",
    seed: int = 0,
) -> tuple[ModelVariant, tuple[str, ...]]:
    request = VariantRequest(
        model=ModelSpec(path=path), precision=precision, pruning_ratio=ratio, scheme=QuantScheme(), recovery=recovery, seed=seed
    )
    return make_variant(request, data, None, Cache(cache))


def weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


@pytest.mark.parametrize(
    ("width", "ratio", "kept"),
    [
        (64, 0.25, 48),
        (64, 0.3, 48),
        (16, 0.5, 8),
        (16, 0.1, 14),
        (64, 0.05, 60),
        (10, 0.01, 10),
        (3, 0.5, 2),
        (1, 0.9, 1),
        (32, 0.95, 2),
    ],
)
def test_widths_are_rounded_only_where_that_is_fair(width: int, ratio: float, kept: int) -> None:
    """Multiples of 8, 4 or 2 within 1/16 of the width, never back to the full width, never none."""
    assert kept_width(width, ratio) == kept


@pytest.mark.parametrize(("width", "ratio", "kept"), [(512, 0.3, 352), (64, 0.3, 48), (64, 0.5, 32), (16, 0.5, 8), (6, 0.5, 3)])
def test_a_gpu_gets_its_own_blocks(width: int, ratio: float, kept: int) -> None:
    """512·0.7 = 358.4 → 11 blocks of 32; 44.8 is 12.8 from 32 (allowed 4), so a block of 16; and down to single channels."""
    assert kept_width(width, ratio, 32) == kept


def test_blocks_depthwise_and_norm_layers_shrink_and_streams_do_not(tmp_path: Path) -> None:
    """Half of the block's inside goes, and half behind the stream with BatchNorm and the classifier's input; the stream stays.

    16 channels in the stream (with its depthwise convolution), 32 inside the block, 32 behind.
    """
    path = tiny.saved(tiny.classifier(), tmp_path / "m.onnx")
    variant, _ = made(path, tmp_path / "c", 0.5)
    shapes = {name: w.shape for name, w in weights(variant.path).items()}
    assert shapes["fc.w"] == (4, 16)
    assert shapes["bn.mean"] == (16,)
    assert sorted(s for s in shapes.values() if len(s) == 4) == [
        (16, 1, 3, 3), (16, 1, 3, 3), (16, 16, 1, 1), (16, 16, 3, 3), (16, 16, 3, 3),
    ]  # fmt: skip
    assert tiny.outputs(variant.path, tiny.images(3)).shape == (3, 4)
    whole = made(path, tmp_path / "c", 0.0)[0].info.params
    assert variant.info.achieved_pruning == pytest.approx(1 - variant.info.params / whole)


def test_depthwise_convolutions_shrink_with_their_producer(tmp_path: Path) -> None:
    """An inverted bottleneck loses half of its expanded channels, and the depthwise convolution half of its groups."""
    w = tiny.GraphWriter()
    x = w.relu_conv(w.relu_conv("input", 1, 16), 16, 32, kernel=1)
    x = w.node("GlobalAveragePool", w.conv(w.relu_conv(x, 32, 32, group=32), 32, 8, kernel=1))
    x = w.node("Gemm", w.node("Flatten", x), w.weight("fc.w", 8, 4), w.weight("fc.b", 4))
    path = tiny.saved(w.model({"input": (tiny.FLOAT, ["batch", 1, 8, 8])}, x, ["batch", 4]), tmp_path / "m.onnx")
    variant, _ = made(path, tmp_path / "c", 0.5, data=tiny.images())
    groups = [a.i for n in onnx.load(str(variant.path)).graph.node for a in n.attribute if a.name == "group" and a.i > 1]
    assert groups == [16]
    assert tiny.outputs(variant.path, tiny.images(3)).shape == (3, 4)


def test_a_model_of_torchs_newer_exporter_is_pruned(tmp_path: Path) -> None:
    """It flattens by a Reshape with allowzero=1, which says nothing where the shape has no zero: half of 16 channels go."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    ).eval()  # fmt: skip
    path = tmp_path / "m.onnx"
    torch.onnx.export(
        net, (torch.zeros(2, 3, 8, 8),), str(path), dynamo=True, input_names=["input"], output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},), external_data=False, verbose=False,
    )  # fmt: skip
    assert any(a.name == "allowzero" and a.i for n in onnx.load(str(path)).graph.node for a in n.attribute)
    variant, _ = made(path, tmp_path / "c", 0.5)
    assert (4, 8) in {w.shape for w in weights(variant.path).values()} | {w.shape[::-1] for w in weights(variant.path).values()}
    assert tiny.outputs(variant.path, tiny.colour_images(3)).shape == (3, 4)


def test_names_order_and_batch_of_the_interface_stay(tmp_path: Path) -> None:
    """A pruned model can stand in for the original: same inputs, same outputs, any batch."""
    path = tiny.saved(tiny.classifier(batch=1), tmp_path / "m.onnx")
    model = onnx.load(str(made(path, tmp_path / "c", 0.25)[0].path))
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["input", "logits"]
    assert [v.type.tensor_type.shape.dim[0].dim_param for v in (*model.graph.input, *model.graph.output)] == ["batch", "batch"]


def test_a_widened_shortcut_leaves_the_stream_alone(tmp_path: Path) -> None:
    """Channels that a Pad adds are not touched; the inside of the block is pruned."""
    path = tiny.saved(tiny.padded_residual(), tmp_path / "m.onnx")
    variant, _ = made(path, tmp_path / "c", 0.5)
    shapes = sorted(w.shape for w in weights(variant.path).values() if w.ndim == 4)
    assert shapes == [(8, 1, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3)]


def test_channels_that_only_carry_a_constant_cost_nothing(tmp_path: Path) -> None:
    """Hidden features that never change go first, and what they gave lives on in the bias: the outputs stay equal."""
    w = tiny.GraphWriter()
    up, bias = w.rng.standard_normal((64, 16)).astype(np.float32), np.ones(16, np.float32)
    up[:, 1::2] = 0  # these eight are relu(1) = 1 for every sample
    hidden = w.node("Relu", w.node("Gemm", w.node("Flatten", "input"), w.constant("up", up), w.constant("up.b", bias)))
    out = w.node("Gemm", hidden, w.weight("down", 16, 4), w.weight("down.b", 4))
    path = tiny.saved(w.model({"input": (tiny.FLOAT, ["batch", 1, 8, 8])}, out, ["batch", 4]), tmp_path / "m.onnx")
    variant, _ = made(path, tmp_path / "c", 0.5, data=tiny.images())
    assert weights(variant.path)["up"].shape == (64, 8)
    np.testing.assert_allclose(tiny.outputs(variant.path, tiny.images()), tiny.outputs(path, tiny.images()), atol=1e-5)


def test_feed_forward_layers_of_text_models_shrink(tmp_path: Path) -> None:
    """MatMul and Add pairs are pruned like a linear layer; the embedding width, tied to a table, stays."""
    path = tiny.saved(tiny.token_mlp(), tmp_path / "m.onnx")
    variant, _ = made(path, tmp_path / "c", 0.5, data=tiny.tokens())
    shapes = {name: w.shape for name, w in weights(variant.path).items()}
    assert (shapes["up.w"], shapes["up.b"], shapes["down.w"]) == ((8, 16), (16,), (16, 8))
    assert tiny.outputs(variant.path, tiny.tokens()).shape == (32, 8)


def test_a_model_without_inner_layers_is_rejected_with_the_obstacle(tmp_path: Path) -> None:
    """The final outputs are never pruned, and the rejection says that nothing else was there."""
    path = tiny.saved(tiny.linear_model(), tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match="the model's output"):
        made(path, tmp_path / "c", 0.5)


def test_too_small_an_effect_is_rejected(tmp_path: Path) -> None:
    """When almost all weights lie in layers that cannot be pruned, a ratio is not claimed that was not reached."""
    w = tiny.GraphWriter()
    hidden = w.node("Relu", w.node("Gemm", "input", w.weight("a", 64, 2)))
    wide = w.node("Gemm", "input", w.weight("b", 64, 64))
    out = w.node("Concat", w.node("Gemm", hidden, w.weight("c", 2, 4)), wide, axis=1)
    path = tiny.saved(w.model({"input": (tiny.FLOAT, ["batch", 64])}, out, ["batch", 68]), tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match=r"ratio of 0\.5 removes only"):
        made(path, tmp_path / "c", 0.5)


def test_recovery_without_data_says_what_to_give(tmp_path: Path) -> None:
    """Fine-tuning needs samples; the message names the two places they can come from."""
    path = tiny.saved(tiny.classifier(), tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match=r"data\.train or data\.calibration"):
        made(path, tmp_path / "c", 0.5, SHORT)


def test_recovery_brings_the_outputs_nearer_to_the_original(tmp_path: Path) -> None:
    """On samples it has not seen, the recovered model's squared error is at most half of that without recovery."""
    path, fresh = tiny.saved(tiny.classifier(), tmp_path / "m.onnx"), tiny.images(64, seed=99)
    expected = tiny.outputs(path, fresh)
    errors = []
    for epochs in (0, 20):
        recovery = RecoverySpec(epochs=epochs, steps=1, batch_size=16)
        variant, _ = made(path, tmp_path / "c", 0.5, recovery, tiny.images(128))
        errors.append(float(((tiny.outputs(variant.path, fresh) - expected) ** 2).mean()))
    assert errors[1] <= errors[0] / 2


def test_recovery_that_harms_is_undone(tmp_path: Path) -> None:
    """With an absurd learning rate the pruned model stays as it was before recovery, and the notes say so."""
    path, data = tiny.saved(tiny.classifier(), tmp_path / "m.onnx"), tiny.images(32)
    harmful = RecoverySpec(epochs=1, steps=1, learning_rate=30.0)
    variant, _ = made(path, tmp_path / "c", 0.5, harmful, data)
    plain, _ = made(path, tmp_path / "c", 0.5, RecoverySpec(epochs=0, steps=1), data)
    assert any("undone" in note for note in variant.info.notes)
    np.testing.assert_array_equal(tiny.outputs(variant.path, data), tiny.outputs(plain.path, data))


def test_equal_requests_give_equal_models(tmp_path: Path) -> None:
    """Two empty caches, one request: the same widths and the same weights; another seed, other weights."""
    path = tiny.saved(tiny.classifier(), tmp_path / "m.onnx")
    first, again, other = (
        weights(made(path, tmp_path / name, 0.5, SHORT, tiny.images(), seed=seed)[0].path)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.keys() == again.keys() == other.keys()
    for name, values in first.items():
        np.testing.assert_allclose(values, again[name], rtol=1e-4, atol=1e-6)
    assert any(not np.allclose(v, other[n]) for n, v in first.items())


def test_each_stage_is_made_once(tmp_path: Path) -> None:
    """A repeated request hits every stage; another precision of the same pruned model does not prune again."""
    path, data = tiny.saved(tiny.classifier(), tmp_path / "m.onnx"), tiny.images()
    runs = [made(path, tmp_path / "c", 0.5, SHORT, data, p) for p in ("fp32", "fp32", "int8")]
    assert [hits for _, hits in runs] == [(), ("base", "prune", "variant"), ("base", "prune")]
    assert runs[0][0] == runs[1][0]
    assert runs[2][0].info.achieved_pruning == runs[0][0].info.achieved_pruning > 0


def test_time_runs_out_gracefully(tmp_path: Path) -> None:
    """max_s ends recovery early; the variant exists and its notes say how far it came."""
    path = tiny.saved(tiny.classifier(), tmp_path / "m.onnx")
    recovery = RecoverySpec(epochs=10_000, steps=2, max_s=0.3)
    variant, _ = made(path, tmp_path / "c", 0.5, recovery, tiny.images())
    assert any("stopped by recovery.max_s=0.3" in note for note in variant.info.notes)


def test_importing_the_converter_leaves_no_stand_in_behind(tmp_path: Path) -> None:
    """The stand-in for torchvision lives only while onnx2torch is imported."""
    made(tiny.saved(tiny.classifier(), tmp_path / "m.onnx"), tmp_path / "c", 0.5)
    assert getattr(sys.modules.get("torchvision"), "__file__", "real") is not None
