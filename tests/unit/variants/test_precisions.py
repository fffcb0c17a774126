from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models as tiny
from onnx import numpy_helper

from autotune.cache import Cache
from autotune.data.dataset import Dataset
from autotune.errors import Unsupported
from autotune.fingerprint import digest_of, library_version
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.make import VariantRequest, base_model, make_variant
from autotune.variants.precision import PRECISIONS
from autotune.variants.variant import ModelVariant, QuantScheme

pytest.importorskip("onnxruntime")
U8 = QuantScheme()
S8 = QuantScheme(activations="int8", quantize_bias=False)


def made(
    tmp_path: Path, model: onnx.ModelProto, precision: str, data: Dataset | None, scheme: QuantScheme = U8
) -> ModelVariant:
    path = tiny.saved(model, tmp_path / "m.onnx")
    request = VariantRequest(
        model=ModelSpec(path=path),
        precision=precision,
        pruning_ratio=0.0,
        scheme=scheme,
        recovery=RecoverySpec(epochs=0),
        seed=0,
    )
    return make_variant(request, data, None, Cache(tmp_path / "cache"))[0]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 5e-3), ("int8", 0.1), ("int8-tensor", 0.15)])
@pytest.mark.parametrize("scheme", [U8, S8], ids=lambda s: s.name)
def test_each_precision_computes_the_same_function(
    tmp_path: Path, precision: str, tolerance: float, scheme: QuantScheme
) -> None:
    """A variant is the model up to rounding: fp16 has 11 significant bits, int8 some 1 % per layer over 6 layers."""
    data = tiny.images()
    variant = made(tmp_path, tiny.classifier(), precision, data, scheme)
    expected = tiny.outputs(tmp_path / "m.onnx", data)
    found = tiny.outputs(variant.path, data)
    assert found.dtype == np.float32
    assert relative_error(found, expected) <= tolerance
    onnx.checker.check_model(str(variant.path), full_check=precision != "fp16")


def test_bf16_runs_in_openvino(tmp_path: Path) -> None:
    """The bfloat16 graph keeps fp32 inputs and outputs and stays within its 8 significant bits."""
    openvino = pytest.importorskip("openvino")
    data = tiny.images()
    variant = made(tmp_path, tiny.classifier(), "bf16", None)
    compiled = openvino.Core().compile_model(str(variant.path), "CPU")
    found = compiled(data.batch(0, len(data)))[0]
    assert found.dtype == np.float32
    assert relative_error(found, tiny.outputs(tmp_path / "m.onnx", data)) <= 0.05
    stored = onnx.load(str(variant.path)).graph.initializer
    assert {t.data_type for t in stored} == {onnx.TensorProto.BFLOAT16}


def test_bf16_names_what_stands_in_its_way(tmp_path: Path) -> None:
    """An operation outside the ONNX standard cannot be converted; the trial is rejected with that reason."""
    model = tiny.classifier()
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(Unsupported, match="outside the ONNX standard"):
        made(tmp_path, model, "bf16", None)


def test_weights_have_a_scale_per_channel_or_per_tensor(tmp_path: Path) -> None:
    """int8 and int8-tensor are different graphs: 16 scales for the first convolution's 16 channels, or one."""
    data = tiny.images()
    sizes = {}
    for precision in ("int8", "int8-tensor"):
        model = onnx.load(str(made(tmp_path, tiny.classifier(), precision, data).path))
        tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        sizes[precision] = max(
            tensors[n.input[1]].size
            for n in model.graph.node
            if n.op_type == "DequantizeLinear" and n.input[0] in tensors and tensors[n.input[0]].ndim == 4
        )
    assert sizes == {"int8": 32, "int8-tensor": 1}


def test_the_symmetric_scheme_has_no_offsets_and_no_integer_bias(tmp_path: Path) -> None:
    """NVIDIA's parser takes zero zero-points and floating-point biases only."""
    model = onnx.load(str(made(tmp_path, tiny.classifier(), "int8", tiny.images(), S8).path))
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    quantized = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantized
    for node in quantized:
        if len(node.input) > 2:
            assert tensors[node.input[2]].dtype == np.int8
            assert not tensors[node.input[2]].any()
        assert node.input[0] not in tensors or tensors[node.input[0]].dtype == np.int8


def test_the_asymmetric_scheme_is_uint8_with_integer_biases(tmp_path: Path) -> None:
    """ONNX Runtime's fast kernels want uint8 activations and int32 biases."""
    model = onnx.load(str(made(tmp_path, tiny.classifier(), "int8", tiny.images(), U8).path))
    assert {t.data_type for t in model.graph.initializer} >= {onnx.TensorProto.UINT8, onnx.TensorProto.INT32}


def test_several_integer_inputs_can_be_quantized(tmp_path: Path) -> None:
    """A text model with int64 ids and masks keeps its inputs and its function."""
    data = tiny.tokens()
    variant = made(tmp_path, tiny.token_mlp(), "int8", data)
    expected = tiny.outputs(tmp_path / "m.onnx", data)
    assert relative_error(tiny.outputs(variant.path, data), expected) <= 0.1


@pytest.mark.parametrize("precision", [p for p, r in PRECISIONS.items() if r.calibrated])
def test_int8_without_calibration_says_what_is_missing(tmp_path: Path, precision: str) -> None:
    """Ranges are never invented: without a calibration split the candidate is rejected."""
    with pytest.raises(Unsupported, match=r"data\.calibration"):
        made(tmp_path, tiny.classifier(), precision, None)


def test_an_unknown_precision_names_the_known_ones(tmp_path: Path) -> None:
    """A typo in an embedding program shows the choices."""
    with pytest.raises(Unsupported, match="fp32, tf32, fp16"):
        made(tmp_path, tiny.classifier(), "fp7", None)


@pytest.mark.parametrize(
    ("precision", "scheme", "name"), [("fp16", U8, None), ("int8", U8, "u8-asym+bias"), ("int8", S8, "s8-sym")]
)
def test_keys_of_what_was_made_before_stay(tmp_path: Path, precision: str, scheme: QuantScheme, name: str | None) -> None:
    """A cache that was filled before schemes had a placement is still found: the same parts, in the same form."""
    data = tiny.images()
    variant = made(tmp_path, tiny.classifier(), precision, data, scheme)
    base = base_model(ModelSpec(path=tmp_path / "m.onnx"), Cache(tmp_path / "cache"))
    parts = {
        "revision": 1,
        "source": base.facts["digest"],
        "precision": precision,
        "scheme": name,
        "calibration": None if name is None else data.digest,
        "versions": {d: library_version(d) for d in ("onnx", "onnxruntime", "onnxruntime-gpu")},
    }
    assert variant.key == digest_of(parts)


@pytest.mark.parametrize("scheme", [QuantScheme(), QuantScheme(activations="int8", quantize_bias=False)])
def test_attention_is_quantized_in_its_stored_products_alone(tmp_path: Path, scheme: QuantScheme) -> None:
    """A mask of −3·10³⁸ has no scale that leaves anything of the scores: softmax and sums between the products stay fp32."""
    noise = np.random.default_rng(2).standard_normal((64, 6, 16)).astype(np.float32)
    data = Dataset(arrays={"tokens": noise}, labels=None, preprocess=None, digest="tokens")
    variant = made(tmp_path, tiny.attention(), "int8", data, scheme)
    graph = onnx.load(str(variant.path)).graph
    nodes, stored = graph.node, {t.name for t in graph.initializer}
    made_of = {n.output[0]: n.op_type for n in nodes}
    weights = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] in stored}
    assert sum(n.op_type == "MatMul" and n.input[1] in weights for n in nodes) == 4
    assert not any(made_of.get(i) == "DequantizeLinear" for n in nodes if n.op_type in ("Softmax", "Add") for i in n.input)
    assert relative_error(tiny.outputs(variant.path, data), tiny.outputs(tmp_path / "m.onnx", data)) <= 0.1
    assert "attention: only the 4 products with stored weights are quantized" in variant.info.notes


def test_an_old_opset_is_raised_for_int8(tmp_path: Path) -> None:
    """A model of opset 11 can be quantized per channel, which ONNX defines from opset 13 on."""
    data = tiny.images()
    variant = made(tmp_path, tiny.classifier(opset=11), "int8", data)
    assert relative_error(tiny.outputs(variant.path, data), tiny.outputs(tmp_path / "m.onnx", data)) <= 0.1


def test_the_counts_do_not_depend_on_the_precision(tmp_path: Path) -> None:
    """fp16 and int8 change bytes, not the number of parameters or multiply-accumulates (BatchNorm may be folded)."""
    data = tiny.colour_images()
    infos = {p: made(tmp_path, tiny.tensor_core_classifier(), p, data).info for p in PRECISIONS}
    folded = infos["fp32"].params - 4 * 128  # scale, shift, mean and variance of 128 channels
    assert {i.params for i in infos.values()} == {infos["fp32"].params, folded}
    assert {i.macs for i in infos.values()} == {infos["fp32"].macs}
    assert infos["fp16"].model_bytes < infos["fp32"].model_bytes
