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
from autotune.errors import SpecError
from autotune.spec.model import ModelSpec
from autotune.variants.base import model_identity
from autotune.variants.graph import MODEL_FILE, model_inputs, n_macs, n_params
from autotune.variants.make import base_model

pytest.importorskip("onnxruntime")


def test_params_and_macs_are_those_counted_by_hand(tmp_path: Path) -> None:
    """Weights and biases count as parameters; MACs are outputs times the reads of one output, for one sample."""
    artifact = base_model(ModelSpec(path=tiny.saved(tiny.padded_residual(), tmp_path / "m.onnx")), Cache(tmp_path / "c"))
    convs = (8 * 9 + 8) + (16 * 8 * 9 + 16) + (16 * 16 * 9 + 16)
    assert artifact.facts["params"] == convs + 4 * 16 + 4
    assert artifact.facts["macs"] == 64 * (8 * 9 + 16 * 8 * 9 + 16 * 16 * 9) + 4 * 16


def test_a_fixed_batch_becomes_dynamic(tmp_path: Path) -> None:
    """A model exported for a batch of 1, flattening by Reshape to [1, n], runs any batch afterwards."""
    w = tiny.GraphWriter()
    flat = w.node("Reshape", w.relu_conv("input", 1, 4), w.constant("shape", np.array([1, 256], np.int64)))
    model = w.model({"input": (tiny.FLOAT, [1, 1, 8, 8])}, w.node("MatMul", flat, w.weight("fc", 256, 4)), [1, 4])
    artifact = base_model(ModelSpec(path=tiny.saved(model, tmp_path / "m.onnx")), Cache(tmp_path / "c"))
    path = artifact.folder / MODEL_FILE
    assert model_inputs(path)[0].shape == (None, 1, 8, 8)
    assert tiny.outputs(path, tiny.images(5)).shape == (5, 4)


def test_weights_that_exporters_share_by_an_identity_are_named_where_they_are_used(tmp_path: Path) -> None:
    """torch writes Identity(bias) for a second bias of the same values; no node stands between a layer and its weights then."""
    w = tiny.GraphWriter()
    bias = w.node("Identity", w.constant("zeros", np.zeros(4, np.float32)))
    gemm = w.node("Gemm", w.node("Flatten", "input"), w.weight("fc", 64, 4), bias)
    path = tiny.saved(w.model({"input": (tiny.FLOAT, ["n", 1, 8, 8])}, gemm, ["n", 4]), tmp_path / "m.onnx")
    found = onnx.load(str(base_model(ModelSpec(path=path), Cache(tmp_path / "c")).folder / MODEL_FILE))
    (last,) = (n for n in found.graph.node if n.op_type == "Gemm")
    assert last.input[2] in {t.name for t in found.graph.initializer}
    assert [n.op_type for n in found.graph.node] == ["Flatten", "Gemm", "Identity"], "the last names the output"


def test_a_model_whose_samples_mix_is_refused(tmp_path: Path) -> None:
    """A graph that averages over the batch cannot be deployed in batches, and the error says so."""
    w = tiny.GraphWriter()
    centred = w.node("Sub", "input", w.node("ReduceMean", "input", axes=[0], keepdims=1))
    gemm = w.node("Gemm", w.node("Flatten", centred), w.weight("fc", 64, 4))
    path = tiny.saved(w.model({"input": (tiny.FLOAT, ["n", 1, 8, 8])}, gemm, ["n", 4]), tmp_path / "m.onnx")
    with pytest.raises(SpecError, match="one by one"):
        base_model(ModelSpec(path=path), Cache(tmp_path / "c"))


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname", "x" * 300, "é" * 200])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, place: str) -> None:
    """A model file cannot make us read files that lie elsewhere."""
    model = tiny.classifier()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(SpecError, match=r"external weights at .*in files beside the model"):
        base_model(ModelSpec(path=path), Cache(tmp_path / "c"))


def test_external_data_is_merged_and_enters_the_key(tmp_path: Path) -> None:
    """The base is one file; other weights in the file beside the model give another base."""
    path = tmp_path / "m.onnx"
    bases = []
    for bias in (0.0, 1.0):
        model = tiny.classifier()
        model.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.full((16, 1, 3, 3), bias, np.float32), model.graph.initializer[0].name)
        )
        (tmp_path / "w.bin").unlink(missing_ok=True)
        onnx.save_model(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
        bases.append(base_model(ModelSpec(path=path), Cache(tmp_path / "c")))
    assert bases[0].key != bases[1].key
    merged = onnx.load(str(bases[1].folder / MODEL_FILE), load_external_data=False)
    assert not any(t.external_data for t in merged.graph.initializer)


@pytest.mark.parametrize("content", [b"not a model", b""])
def test_a_file_that_is_no_model_is_a_spec_error(tmp_path: Path, content: bytes) -> None:
    """The user's mistake is named as such, not as a crash of the parser."""
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(SpecError, match=r"m\.onnx"):
        base_model(ModelSpec(path=tmp_path / "m.onnx"), Cache(tmp_path / "c"))


def test_a_torch_callable_becomes_the_same_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch model with its weights gives an ONNX file of equal outputs with BatchNorm folded and a dynamic batch."""
    torch = pytest.importorskip("torch")
    (tmp_path / "my_nets.py").write_text(
        "import torch.nn as nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(8, 4))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(3)
    import my_nets

    module = my_nets.net().eval()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    spec = ModelSpec(torch="my_nets:net", weights=tmp_path / "w.pt", input_shape=(1, 8, 8))
    path = base_model(spec, Cache(tmp_path / "c")).folder / MODEL_FILE
    data = tiny.images(7)
    with torch.no_grad():
        expected = module(torch.from_numpy(data.batch(0, 7)["input"])).numpy()
    np.testing.assert_allclose(tiny.outputs(path, data), expected, atol=1e-5)
    kinds = [n.op_type for n in onnx.load(str(path)).graph.node]
    assert kinds == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_counts_survive_quantization_notation() -> None:
    """Weights behind DequantizeLinear count, scales and zero points do not; MACs are found through Q/DQ."""
    w = tiny.GraphWriter()
    scale, zero = w.constant("s", np.ones(4, np.float32)), w.constant("z", np.zeros(4, np.int8))
    stored = w.constant("w8", np.ones((4, 64), np.int8))
    weight = w.node("DequantizeLinear", stored, scale, zero, axis=0)
    model = w.model({"input": (tiny.FLOAT, ["batch", 64])}, w.node("Gemm", "input", weight, transB=1), ["batch", 4])
    assert n_params(model) == 4 * 64
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert n_macs(model) == 4 * 64


def torch_spec(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch, **files: str) -> ModelSpec:
    """A torch model of the user's: `source` is its module, `files` are modules beside it."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(folder))
    for name, text in {"users_nets": source, **files}.items():
        (folder / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
    return ModelSpec(torch="users_nets:net", input_shape=(8,))


LINEAR = "import torch\nfrom users_act import act\ndef net():\n    torch.manual_seed(0)\n    return Net()\n"
LINEAR += (
    "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.l = torch.nn.Linear(8, 4)\n"
)


def test_code_beside_the_model_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in a module that the model's module imports gives another base and another identity."""
    forward = LINEAR + "    def forward(self, x):\n        return act(self.l(x))\n"
    found = []
    for sign in ("", "-"):
        spec = torch_spec(tmp_path, forward, monkeypatch, users_act=f"def act(x):\n    return {sign}x\n")
        found.append((model_identity(spec), base_model(spec, Cache(tmp_path / "c")).folder))
    assert found[0][0] != found[1][0]
    noise = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    data = Dataset(arrays={"input": noise}, labels=None, preprocess=None, digest="noise")
    np.testing.assert_allclose(
        tiny.outputs(found[0][1] / MODEL_FILE, data), -tiny.outputs(found[1][1] / MODEL_FILE, data), atol=1e-6
    )


@pytest.mark.parametrize(
    ("result", "names"),
    [("{'logits': y, 'twice': 2 * y}", ["logits", "twice"]), ("(y, 2 * y)", ["output_0", "output_1"]), ("[y]", ["output"])],
)
def test_outputs_by_name_and_in_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str, names: list[str]
) -> None:
    """A dictionary of tensors, as Hugging Face's models return, keeps its names; sequences are numbered."""
    forward = LINEAR + f"    def forward(self, x):\n        y = act(self.l(x))\n        return {result}\n"
    spec = torch_spec(tmp_path, forward, monkeypatch, users_act="act = abs\n")
    graph = onnx.load(str(base_model(spec, Cache(tmp_path / "c")).folder / MODEL_FILE)).graph
    assert [v.name for v in graph.output] == names


def test_a_partial_is_a_callable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named need not be a function or a class."""
    source = "import functools, torch\nnet = functools.partial(torch.nn.Linear, 8, out_features=4)\n"
    assert base_model(torch_spec(tmp_path, source, monkeypatch), Cache(tmp_path / "c")).facts["params"] == 8 * 4 + 4


@pytest.mark.parametrize(
    ("result", "said"), [("'text'", "returns output: str"), ("x.nonsense", "fails when called with a batch of shape")]
)
def test_a_model_that_gives_no_tensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str, said: str
) -> None:
    """The user's code is at fault, and the message says how."""
    forward = LINEAR + f"    def forward(self, x):\n        return {result}\n"
    with pytest.raises(SpecError, match=said):
        base_model(torch_spec(tmp_path, forward, monkeypatch, users_act="act = abs\n"), Cache(tmp_path / "c"))


def test_weights_that_are_not_numbers_are_named_as_such(tmp_path: Path) -> None:
    """NaN differs from itself, which must not be told as a fault of the batch."""
    model = tiny.classifier()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(np.full(numpy_helper.to_array(tensor).shape, np.nan, np.float32), tensor.name))
    with pytest.raises(SpecError, match="not finite"):
        base_model(ModelSpec(path=tiny.saved(model, tmp_path / "m.onnx")), Cache(tmp_path / "c"))


def test_a_dynamically_quantized_model_is_refused_by_name(tmp_path: Path) -> None:
    """Its scales span the batch, so that samples influence each other; the float model is what is wanted."""
    from onnxruntime.quantization import quantize_dynamic

    source = tiny.saved(tiny.classifier(), tmp_path / "m.onnx")
    quantize_dynamic(str(source), str(tmp_path / "q.onnx"))
    with pytest.raises(SpecError, match="dynamically quantized"):
        base_model(ModelSpec(path=tmp_path / "q.onnx"), Cache(tmp_path / "c"))


def test_a_graph_that_contradicts_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the checker lets pass and no rewrite can read is the model's fault, told as such."""

    def unreadable(graph: onnx.ModelProto) -> onnx.ModelProto:
        raise ValueError("cannot reshape array of size 100 into shape (2,)")

    monkeypatch.setattr("autotune.variants.base.canonical", unreadable)
    with pytest.raises(SpecError, match=r"contradicts itself \(ValueError: cannot reshape"):
        base_model(ModelSpec(path=tiny.saved(tiny.classifier(), tmp_path / "m.onnx")), Cache(tmp_path / "c"))


def test_inputs_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    """A few bytes of a model file may declare terabytes; nothing of that size is made to try it out."""
    from onnx import TensorProto, helper

    sizes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1 << 20, 1 << 20]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "huge", sizes[:1], sizes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SpecError, match="4194304 MiB"):
        base_model(ModelSpec(path=tmp_path / "m.onnx"), Cache(tmp_path / "c"))
