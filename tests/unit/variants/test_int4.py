"""4-bit weights: which layers, how they are stored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models as tiny
from onnx import TensorProto, numpy_helper

from autotune.data.dataset import Dataset
from autotune.errors import Unsupported
from autotune.variants.int4 import blocked, int4_from_fp32
from autotune.variants.variant import QuantScheme, tensorrt_scheme

pytest.importorskip("onnxruntime")
FP32 = QuantScheme(activations="int8", quantize_bias=False, placement="products")
SCHEMES = pytest.mark.parametrize("scheme", [FP32, tensorrt_scheme("int4")], ids=lambda s: s.high_precision)


@SCHEMES
def test_a_block_that_fits_is_kept_exactly(scheme: QuantScheme) -> None:
    """Whole multiples of a power of two, from −7 to 7, come back as they are: one scale per block and output."""
    values = np.random.default_rng(0).integers(-7, 8, (128, 3)).astype(np.float32)
    values[0], values[64] = 7, -7  # so that largest / 7 is the unit, in both blocks
    unit = np.array([0.5, 0.25, 2.0], np.float32)
    found, scales = blocked(values * unit, 64, half=scheme.high_precision == "fp16")
    assert found.tolist() == values.astype(int).tolist()
    assert scales.shape == (2, 3) and (scales == unit).all()


def test_the_scale_with_the_least_squared_error_is_taken() -> None:
    """An outlier of 7.4 and 63 weights of 1.4: at largest / 7 = 1.057 each of the 63 is 0.343 off, 7.41 in squared errors. At
    0.725 of that, 0.766, they are 0.133 off (1.11) and the outlier is cut to 7 · 0.766 = 5.365 (4.14): 5.25."""
    weights = np.full((64, 1), 1.4, np.float32)
    weights[0] = 7.4
    found, scales = blocked(weights, 64, half=False)
    assert float(np.square(found * scales - weights).sum()) == pytest.approx(5.25, abs=0.01)
    assert scales.item() == pytest.approx(0.725 * 7.4 / 7)


@SCHEMES
def test_only_the_products_weights_are_in_4_bits(tmp_path: Path, scheme: QuantScheme) -> None:
    """The Gemm of 128 inputs reads a DQ with one scale per block of 128 inputs and output; convolutions stay as they are."""
    source = tiny.saved(tiny.tensor_core_classifier(), tmp_path / "source.onnx")
    notes = int4_from_fp32(source, tmp_path / "q.onnx", scheme=scheme)
    model = onnx.load(str(tmp_path / "q.onnx"))
    onnx.checker.check_model(model, full_check=True)
    (dq,) = (n for n in model.graph.node if n.op_type == "DequantizeLinear")
    attributes = {a.name: a.i for a in dq.attribute}
    stored = {t.name: t for t in model.graph.initializer}
    assert (attributes["axis"], attributes["block_size"], len(dq.input)) == (1, 128, 2)
    weights, scales = stored[dq.input[0]], stored[dq.input[1]]
    assert weights.data_type == TensorProto.INT4 and list(weights.dims) == [16, 128] and len(weights.raw_data) == 16 * 128 // 2
    assert list(scales.dims) == [16, 1]
    assert next(n for n in model.graph.node if n.op_type == "Gemm").input[1] == dq.output[0]
    assert "int4 weights in 1 of 9 layers" in notes[0] and f"{scheme.high_precision} elsewhere" in notes[0]
    data = tiny.colour_images()
    found, expected = tiny.outputs(tmp_path / "q.onnx", data), tiny.outputs(source, data)
    assert np.abs(found - expected).max() <= 0.15 * np.abs(expected).max()  # half a step of 1/7 of the largest, averaged


def test_a_matmul_has_its_blocks_along_its_inputs(tmp_path: Path) -> None:
    """(64, 96): one block of 64 per output, along axis 0. 96 inputs are no multiple of 64: that product stays, told why."""
    source = tiny.saved(tiny.token_products(), tmp_path / "source.onnx")
    notes = int4_from_fp32(source, tmp_path / "q.onnx", scheme=FP32)
    model = onnx.load(str(tmp_path / "q.onnx"))
    (dq,) = (n for n in model.graph.node if n.op_type == "DequantizeLinear")
    assert {a.name: a.i for a in dq.attribute} == {"axis": 0, "block_size": 64}
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name == dq.input[1]}
    assert stored[dq.input[1]].shape == (1, 96)
    assert "1 of 4 layers" in notes[0]
    ids = np.random.default_rng(1).integers(0, 20, (16, 6))
    data = Dataset(arrays={"ids": ids}, labels=None, preprocess=None, digest="ids")
    found, expected = tiny.outputs(tmp_path / "q.onnx", data), tiny.outputs(source, data)
    assert np.abs(found - expected).max() <= 0.3 * np.abs(expected).max()  # the result is cubic in these weights


def test_a_graph_without_large_products_is_refused_with_the_reason_of_each_layer(tmp_path: Path) -> None:
    """A network of convolutions gains nothing: the trial says what stood in the way instead of measuring fp16 again."""
    source = tiny.saved(tiny.padded_residual(), tmp_path / "source.onnx")
    with pytest.raises(Unsupported, match=r"int4: no layer can hold 4-bit weights; Conv0: .*matrix products only"):
        int4_from_fp32(source, tmp_path / "q.onnx", scheme=FP32)
    source = tiny.saved(tiny.token_mlp(), tmp_path / "tokens.onnx")
    with pytest.raises(Unsupported, match=r"its 8 inputs are no multiple of 64"):
        int4_from_fp32(source, tmp_path / "q.onnx", scheme=FP32)
