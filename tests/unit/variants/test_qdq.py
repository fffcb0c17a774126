"""The graphs that NVIDIA's parser takes: symmetric Q/DQ in 8 bits on an fp32 or fp16 graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models as tiny
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from autotune.errors import Unsupported
from autotune.variants.calibration import largest_magnitudes
from autotune.variants.graph import name_nodes
from autotune.variants.qdq import FP8, INT8, Form, qdq_from_fp32
from autotune.variants.variant import QuantScheme, tensorrt_scheme

pytest.importorskip("onnxruntime")
FP32 = QuantScheme(activations="int8", quantize_bias=False, placement="products")
FP16 = tensorrt_scheme("int8")
SCHEMES = pytest.mark.parametrize("scheme", [FP32, FP16], ids=lambda s: s.high_precision)
FORMS = pytest.mark.parametrize("form", [INT8, FP8], ids=lambda f: f.name)


def quantized(tmp_path: Path, form: Form, scheme: QuantScheme, model: onnx.ModelProto | None = None) -> onnx.ModelProto:
    source = tiny.saved(model or tiny.tensor_core_classifier(), tmp_path / "source.onnx")
    qdq_from_fp32(source, tmp_path / "q.onnx", form=form, scheme=scheme, calibration=tiny.colour_images())
    found = onnx.load(str(tmp_path / "q.onnx"))
    onnx.checker.check_model(found, full_check=True)
    return found


def tensors(model: onnx.ModelProto) -> dict[str, NDArray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def writer(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if name in n.output)


@FORMS
@SCHEMES
def test_the_quantized_graph_is_the_model_up_to_rounding(tmp_path: Path, form: Form, scheme: QuantScheme) -> None:
    """Some 1 % per layer over 9 layers in int8; E4M3 has 4 significant bits, 3 % per product of many terms."""
    quantized(tmp_path, form, scheme)
    data = tiny.colour_images()
    found, expected = tiny.outputs(tmp_path / "q.onnx", data, plainly=True), tiny.outputs(tmp_path / "source.onnx", data)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= (0.05 if form is INT8 else 0.12) * np.abs(expected).max()


@FORMS
@SCHEMES
def test_q_and_dq_stand_at_the_factors_of_products_and_at_residual_inputs_only(
    tmp_path: Path, form: Form, scheme: QuantScheme
) -> None:
    """Never behind a product or before its activation function: bias, Relu and addition fuse with the product."""
    model = quantized(tmp_path, form, scheme)
    readers = Counter(
        (node.op_type, index)
        for node in model.graph.node
        for index, name in enumerate(node.input)
        if name.endswith("__dequantized")
    )
    products = {INT8: {("Conv", 0): 8, ("Conv", 1): 8}, FP8: {("Conv", 0): 6, ("Conv", 1): 6}}[form]
    assert readers == Counter({**products, ("Gemm", 0): 1, ("Gemm", 1): 1, ("Add", 1): 2})
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    before = {writer(model, q.input[0]).op_type for q in quantizers if q.input[0] != "input"}
    # The projected shortcut is itself a product; behind it stands the Q of the addition's residual input.
    assert before == {"Relu", "Flatten", "Conv", *(["Cast"] if form is INT8 and scheme is FP16 else [])}
    assert len(quantizers) == len({q.input[0] for q in quantizers}), "one Q for all readers of a tensor"


@FORMS
@SCHEMES
def test_it_is_symmetric_per_channel_and_biases_stay(tmp_path: Path, form: Form, scheme: QuantScheme) -> None:
    """Zero points are 0 and of the format; weights have a scale per output channel, activations one; biases are floats."""
    model = quantized(tmp_path, form, scheme)
    stored, kinds = tensors(model), {t.name: t.data_type for t in model.graph.initializer}
    wide = np.float16 if scheme is FP16 else np.float32
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = stored[node.input[1]], node.input[2]
            assert kinds[zero] == getattr(TensorProto, form.kind) and not stored[zero].astype(np.float32).any()
            assert scale.dtype == wide and (scale > 0).all()
            axes = [a.i for a in node.attribute if a.name == "axis"]
            if node.input[0] in stored:
                weights = stored[node.input[0]]
                assert kinds[node.input[0]] == getattr(TensorProto, form.kind)
                assert axes == [0] and scale.shape == (weights.shape[0],)
            else:
                assert axes == [] and scale.shape == ()
        if node.op_type in ("Conv", "Gemm"):
            assert stored[node.input[2]].dtype == wide


def test_weights_of_one_scale_use_it_for_the_whole_tensor(tmp_path: Path) -> None:
    """int8-tensor in the same placement."""
    source = tiny.saved(tiny.tensor_core_classifier(), tmp_path / "source.onnx")
    qdq_from_fp32(source, tmp_path / "q.onnx", form=INT8, scheme=FP32, calibration=tiny.colour_images(), per_channel=False)
    model = onnx.load(str(tmp_path / "q.onnx"))
    stored = tensors(model)
    assert {stored[n.input[1]].shape for n in model.graph.node if n.op_type == "DequantizeLinear"} == {()}


def test_fp8_leaves_layers_without_kernels_in_floating_point(tmp_path: Path) -> None:
    """3 input channels, one channel per group: not quantized, and the notes say why and how much the others compute."""
    source = tiny.saved(tiny.tensor_core_classifier(), tmp_path / "source.onnx")
    notes = qdq_from_fp32(source, tmp_path / "q.onnx", form=FP8, scheme=FP16, calibration=tiny.colour_images())
    # MACs per position of 8×8: 864 + 2·9216 + 18432 + 36864 + 2048 + 576 + 8192 = 85408, and 2048 of the product once.
    share = (64 * (85408 - 864 - 576) + 2048) / (64 * 85408 + 2048)
    assert notes[0].startswith(f"fp8 in 7 layers with {share:.1%} of the multiply-accumulates, fp16 elsewhere; not quantized: ")
    assert "Conv0 (fp8 kernels want 16 channels, it has 3 in and 32 out)" in notes[0] and "it has 1 in and 64 out" in notes[0]
    assert notes[1] == "ranges: max over 64 calibration samples"


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((64, 24, 1, 1), "cannot be padded alike"),  # 64 = 0, 24 = 8 modulo 16
        ((24, 24, 1, 1), ""),
        ((32, 32, 7, 7), "up to 32 taps, it has 49"),
        ((32, 32, 5, 5), ""),
    ],
)
def test_fp8_takes_the_shapes_that_have_kernels(tmp_path: Path, shape: tuple[int, ...], why: str) -> None:
    """Channels that are padded alike to blocks of 16, filters of up to 32 taps; else the graph is refused with the layer."""
    w = tiny.GraphWriter()
    y = w.node("Conv", "input", w.weight("w", *shape), pads=[shape[2] // 2] * 4)
    source = tiny.saved(
        w.model({"input": (tiny.FLOAT, ["batch", shape[1], 8, 8])}, y, ["batch", shape[0], 8, 8]), tmp_path / "m"
    )
    data = tiny.colour_images()
    data = type(data)(arrays={"input": np.ones((4, shape[1], 8, 8), np.float32)}, labels=None, preprocess=None, digest="ones")
    if not why:
        assert "100.0%" in qdq_from_fp32(source, tmp_path / "q", form=FP8, scheme=FP16, calibration=data)[0]
        return
    with pytest.raises(Unsupported, match=f"fp8: no layer can be quantized; not quantized: Conv0 .*{why}"):
        qdq_from_fp32(source, tmp_path / "q", form=FP8, scheme=FP16, calibration=data)


def test_scales_are_the_largest_magnitude_over_the_formats_top(tmp_path: Path) -> None:
    """amax / 127 in int8 and amax / 448 in E4M3; in fp16 rounded up, so that the largest value is never cut."""
    data = tiny.colour_images()
    largest = float(np.abs(data.arrays["input"]).max())
    for scheme, kind in ((FP32, np.float32), (FP16, np.float16)):
        model = quantized(tmp_path, INT8, scheme)
        first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
        scale = tensors(model)[first.input[1]]
        exact = np.float32(largest / 127)
        assert exact <= scale <= exact * (1 + np.finfo(kind).eps)


def test_ranges_are_the_largest_magnitudes_over_all_batches() -> None:
    """Positive or negative, in whichever batch."""
    w = tiny.GraphWriter()
    model = w.model({"input": (tiny.FLOAT, ["batch", 2])}, w.node("Neg", "input"), ["batch", 2])
    name_nodes(model)
    batches = [{"input": np.array([[1.0, -3.0]], np.float32)}, {"input": np.array([[2.0, 0.5], [0.0, 1.0]], np.float32)}]
    assert largest_magnitudes(model, ["input", "Neg0"], batches) == {"input": 3.0, "Neg0": 3.0}


def test_a_channel_of_zeros_has_a_scale(tmp_path: Path) -> None:
    """A dead channel is stored as zeros, not divided by zero."""
    model = tiny.tensor_core_classifier()
    weights = next(t for t in model.graph.initializer if t.name == "fc.w")
    values = numpy_helper.to_array(weights).copy()
    values[3] = 0
    weights.CopyFrom(numpy_helper.from_array(values, "fc.w"))
    found = tensors(quantized(tmp_path, INT8, FP16, model))
    assert not found["fc.w__0__int8"][3].any() and found["fc.w__0__scale"][3] == 1.0


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    """Quantizing twice would measure another model."""
    quantized(tmp_path, INT8, FP32)
    with pytest.raises(Unsupported, match="quantized already"):
        qdq_from_fp32(tmp_path / "q.onnx", tmp_path / "r", form=INT8, scheme=FP32, calibration=tiny.colour_images())


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        (QuantScheme(), "u8-asym+bias"),
        (QuantScheme(activations="int8", quantize_bias=False), "s8-sym"),
        (FP32, "s8-sym@products"),
        (FP16, "s8-sym@products/fp16"),
        (tensorrt_scheme("weak-fp16-int8"), "s8-sym@products"),
    ],
)
def test_names_of_schemes_enter_keys_and_the_old_ones_stay(scheme: QuantScheme, name: str) -> None:
    """A cache filled before schemes had a placement is still valid."""
    assert scheme.name == name


def test_a_scheme_that_no_recipe_makes_cannot_be_asked_for() -> None:
    """The author of a backend learns it at once."""
    with pytest.raises(ValueError, match="without quantized biases"):
        QuantScheme(placement="products")
    with pytest.raises(ValueError, match="needs placement"):
        QuantScheme(activations="int8", quantize_bias=False, high_precision="fp16")
