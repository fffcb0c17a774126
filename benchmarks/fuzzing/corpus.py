"""Good inputs of every kind, from which the mutated ones are made: a study folder in which everything fits."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

DATA = """\
data:
  validation: {npz: val.npz, inputs: x, labels: y}
  calibration: {npz: calib.npz, inputs: x}
  preprocess: {scale: 0.5, mean: [1, 1, 1], std: [1, 1, 1]}
  metric: top1
"""
IMAGE_DATA = """\
data:
  validation: {images: images, labels: labels.csv, split: val}
  calibration: {images: images, labels: labels.csv, split: calib}
  preprocess: {color: RGB, layout: NCHW, scale: 0.5, mean: [1, 1, 1], std: [1, 1, 1], resize: [4, 4]}
  metric: top1
"""
STUDY = f"""\
study: tiny
model: {{path: model.onnx}}
{DATA}device: cpu
engines: [onnxruntime, openvino]
space:
  extends: cpu
  precision: [fp32, int8]
  batch_size: {{low: 1, high: 8, log: true}}
  streams: 1
objectives: [accuracy, throughput]
constraints: {{accuracy_drop: 0.01}}
load: {{scenario: offline}}
budget: {{trials: 4, hours: 1.5}}
storage: sqlite:///tiny.db
seed: 0
"""
STUDIES = (
    STUDY,
    STUDY.replace(DATA, IMAGE_DATA).replace("{scenario: offline}", "{server: {qps: auto, slo_ms: 50}}"),
    STUDY.replace("extends: cpu", "extends: ./mine.yaml")
    .replace("{scenario: offline}", "{scenario: arrivals.csv}")
    .replace(
        "seed: 0",
        "cache: {folder: keep, max_gib: 2}\nartifacts: file:///nowhere\npriors: [{batch_size: 2}]\ncanary: off\nseed: 0",
    ),
)
PRESET = "description: mine\nknobs:\n  precision: [fp32]\n  batch_size: {low: 1, high: 8}\npriors: [{batch_size: 4}]\n"
ARRIVALS = "second,samples\n0.0,1\n0.5,2\n0.75,1\n2.0,1\n"
LABELS = "file,label,split\n0.png,0,val\n1.jpg,1,val\n2.png,0,calib\n3.gif,1,val\n"


def convolution() -> Any:
    """input (batch, 3, 4, 4) → logits (batch, 2)."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_branches() -> Any:
    """The same input, with a Constant, a Reshape, an If with two sub-graphs, and a local function."""
    from onnx import TensorProto, helper, numpy_helper

    def branch(name: str, operator: str) -> Any:
        node = helper.make_node(operator, ["flat"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 48])])

    doubled = helper.make_function(
        "mine", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([0, 48], np.int64), "s")),
        helper.make_node("Reshape", ["input", "shape"], ["flat"]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Identity")),
        helper.make_node("Double", ["chosen"], ["twice"], domain="mine"),
        helper.make_node("MatMul", ["twice", "m"], ["logits"]),
    ]
    weights = [
        numpy_helper.from_array(np.ones((48, 2), np.float32), "m"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph(nodes, "branches", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[doubled])


def with_external_weights() -> Any:
    """The convolution, whose weights lie in weights.bin."""
    from onnx import TensorProto

    model = convolution()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "24")):
        weight.external_data.add(key=key, value=value)
    return model


def quantized() -> Any:
    """The convolution with a Q/DQ pair before it, and two outputs."""
    from onnx import TensorProto, helper, numpy_helper

    model = convolution()
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(128), "zero")]
    )
    pair = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
    ]
    nodes = [*pair, *model.graph.node]
    nodes[2].input[0] = "d"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, ["batch", 2, 1, 1]))
    return model


MODELS = (convolution, with_branches, with_external_weights, quantized)


def image_bytes(kind: str, width: int = 5, height: int = 6, seed: int = 9) -> bytes:
    """A small picture of that format."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def arrays(n: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Samples and labels that fit the models."""
    rng = np.random.default_rng(seed)
    return {"x": rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8), "y": np.arange(n) % 2}


def write_good(folder: Path) -> None:
    """Everything that the studies name is in the folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(convolution().SerializeToString())
    (folder / "weights.bin").write_bytes(np.ones(6, np.float32).tobytes())
    for name, n, seed in (("val", 6, 0), ("calib", 4, 1)):
        np.savez(folder / f"{name}.npz", **arrays(n, seed))  # type: ignore[arg-type]  # numpy's stub
    for i, (suffix, kind) in enumerate((("png", "PNG"), ("jpg", "JPEG"), ("png", "PNG"), ("gif", "GIF"))):
        (folder / "images" / f"{i}.{suffix}").write_bytes(image_bytes(kind, seed=i))
    for name, text in (("study.yaml", STUDY), ("mine.yaml", PRESET), ("arrivals.csv", ARRIVALS), ("labels.csv", LABELS)):
        (folder / name).write_text(text)


def bundle_files() -> dict[str, bytes]:
    """A bundle as `autotune export` writes it, with files of a few bytes."""
    files = {"model.onnx": b"model", "settings.json": b'{"batch_size": 4}', "run.py": b"print()", "sub/notes.txt": b"n"}
    estimate = {"value": 0.75, "low": 0.7, "high": 0.8, "n": 100, "method": "wilson"}
    candidate = {
        "engine": "onnxruntime", "precision": "fp32", "pruning_ratio": 0.0, "batch_size": 4, "streams": 1,
        "worker_threads": 2, "memory_pool_mib": None, "builder_level": None, "cuda_graph": None,
    }  # fmt: skip
    manifest = {
        "format": 1,
        "autotune": "0",
        "target": "onnxruntime",
        "trial": {"number": 3, "candidate": candidate, "metric": "top1", "accuracy": estimate, "flags": []},
        "settings": {"intra_op_num_threads": 2},
        "preprocess": None,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    return {**files, "manifest.json": json.dumps(manifest, indent=1).encode()}
