"""Small networks with seeded random weights, as ONNX files, and data for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autotune.data.dataset import Dataset

FLOAT = TensorProto.FLOAT


class GraphWriter:
    """Collects nodes and initializers; weights are He-scaled normal draws of one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def constant(self, name: str, values: NDArray) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        return self.constant(name, (self.rng.standard_normal(shape) * scale).astype(np.float32))

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, source: str, n_in: int, n_out: int, kernel: int = 3, group: int = 1) -> str:
        name = f"conv{len(self.nodes)}"
        shape = (n_out, n_in // group, kernel, kernel)
        tensors = (self.weight(f"{name}.w", *shape), self.weight(f"{name}.b", n_out))
        return self.node("Conv", source, *tensors, pads=[kernel // 2] * 4, group=group)

    def relu_conv(self, *args: object, **kwargs: int) -> str:
        return self.node("Relu", self.conv(*args, **kwargs))  # type: ignore[arg-type]

    def model(self, inputs: dict[str, tuple[int, list]], output: str, shape: list, opset: int = 17) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], ["logits"], name="out"))
        values = [helper.make_tensor_value_info(n, kind, dims) for n, (kind, dims) in inputs.items()]
        result = helper.make_tensor_value_info("logits", FLOAT, shape)
        graph = helper.make_graph(self.nodes, "tiny", values, [result], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def classifier(batch: int | str = "batch", opset: int = 17) -> onnx.ModelProto:
    """8×8 grey images: stem, a residual block, a depthwise-separable block with BatchNorm, pooling, 4 classes."""
    w = GraphWriter()
    x = w.relu_conv("input", 1, 16)
    x = w.node("Relu", w.node("Add", x, w.conv(w.relu_conv(x, 16, 32), 32, 16)))
    x = w.relu_conv(x, 16, 16, group=16)
    x = w.conv(x, 16, 32, kernel=1)
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.float32)
    names = ("gamma", "beta", "mean", "var")
    norm = [w.constant(f"bn.{n}", v) for n, v in zip(names, (ones * 1.5, zeros + 0.1, zeros + 0.2, ones), strict=True)]
    x = w.node("Relu", w.node("BatchNormalization", x, *norm))
    x = w.node("Flatten", w.node("GlobalAveragePool", x))
    x = w.node("Gemm", x, w.weight("fc.w", 4, 32), w.weight("fc.b", 4), transB=1)
    return w.model({"input": (FLOAT, [batch, 1, 8, 8])}, x, [batch, 4], opset)


def tensor_core_classifier(classes: int = 16) -> onnx.ModelProto:
    """8×8 RGB images, every width a multiple of 16: stem, two residual blocks (the second with a projected shortcut), depthwise
    and pointwise convolutions, a batch normalization, pooling, a product of 128 inputs."""
    w = GraphWriter(3)
    x = w.relu_conv("input", 3, 32)
    x = w.node("Relu", w.node("Add", w.conv(w.relu_conv(x, 32, 32), 32, 32), x))
    main = w.conv(w.relu_conv(x, 32, 64), 64, 64)
    x = w.node("Relu", w.node("Add", main, w.conv(x, 32, 64, kernel=1)))
    x = w.relu_conv(x, 64, 64, group=64)
    x = w.conv(x, 64, 128, kernel=1)
    ones = np.ones(128, np.float32)
    values = {"gamma": ones * 1.5, "beta": ones * 0.1, "mean": ones * 0.2, "var": ones}
    x = w.node("Relu", w.node("BatchNormalization", x, *(w.constant(f"bn.{n}", v) for n, v in values.items())))
    x = w.node("Flatten", w.node("GlobalAveragePool", x))
    x = w.node("Gemm", x, w.weight("fc.w", classes, 128), w.weight("fc.b", classes), transB=1)
    return w.model({"input": (FLOAT, ["batch", 3, 8, 8])}, x, ["batch", classes])


def token_products() -> onnx.ModelProto:
    """Token ids → embedding, MatMul 64 → 96, a product of activations (attention), MatMul 96 → 40."""
    w = GraphWriter(4)
    x = w.node("Gather", w.weight("embedding", 20, 64), "ids")
    h = w.node("MatMul", x, w.weight("up.w", 64, 96))
    h = w.node("MatMul", w.node("MatMul", h, w.node("Transpose", h, perm=[0, 2, 1])), h)
    x = w.node("ReduceMean", w.node("MatMul", h, w.weight("down.w", 96, 40)), axes=[1], keepdims=0)
    return w.model({"ids": (TensorProto.INT64, ["batch", 6])}, x, ["batch", 40])


def padded_residual() -> onnx.ModelProto:
    """A residual block whose shortcut is widened with zero channels: the stream cannot be pruned, the block's inside can."""
    w = GraphWriter(1)
    x = w.relu_conv("input", 1, 8)
    pads = w.constant("pads", np.array([0, 4, 0, 0, 0, 4, 0, 0], np.int64))
    x = w.node("Add", w.node("Pad", x, pads), w.conv(w.relu_conv(x, 8, 16), 16, 16))
    x = w.node("Flatten", w.node("GlobalAveragePool", w.node("Relu", x)))
    x = w.node("Gemm", x, w.weight("fc.w", 4, 16), w.weight("fc.b", 4), transB=1)
    return w.model({"input": (FLOAT, ["batch", 1, 8, 8])}, x, ["batch", 4])


def token_mlp() -> onnx.ModelProto:
    """Token and mask ids (int64) → embedding, a feed-forward layer of MatMul and Add, masked mean over the sequence."""
    w = GraphWriter(2)
    x = w.node("Gather", w.weight("embedding", 20, 8), "ids")
    h = w.node("Relu", w.node("Add", w.node("MatMul", x, w.weight("up.w", 8, 32)), w.weight("up.b", 32)))
    x = w.node("Add", x, w.node("Add", w.weight("down.b", 8), w.node("MatMul", h, w.weight("down.w", 32, 8))))
    axes = w.constant("axes", np.array([-1], np.int64))
    mask = w.node("Unsqueeze", w.node("Cast", "mask", to=FLOAT), axes)
    x = w.node("ReduceMean", w.node("Mul", x, mask), axes=[1], keepdims=0)
    kinds = {n: (TensorProto.INT64, ["batch", "seq"]) for n in ("ids", "mask")}
    return w.model(kinds, x, ["batch", 8])


def attention() -> onnx.ModelProto:
    """One head of self-attention over 6 tokens of 16 numbers, an additive mask that hides the last token, then a classifier."""
    w = GraphWriter()
    q, k, v = (w.node("MatMul", "tokens", w.weight(name, 16, 16)) for name in ("q", "k", "v"))
    scores = w.node("MatMul", q, w.node("Transpose", k, perm=[0, 2, 1]))
    hidden = w.constant("hidden", np.array([[0, 0, 0, 0, 0, np.finfo(np.float32).min]], np.float32))
    mixed = w.node("MatMul", w.node("Softmax", w.node("Add", scores, hidden), axis=-1), v)
    pooled = w.node("ReduceMean", mixed, axes=[1], keepdims=0)
    return w.model({"tokens": (FLOAT, ["batch", 6, 16])}, w.node("MatMul", pooled, w.weight("fc", 16, 4)), ["batch", 4])


def linear_model() -> onnx.ModelProto:
    """One layer, whose outputs are the model's: nothing can be pruned."""
    w = GraphWriter()
    x = w.node("Gemm", w.node("Flatten", "input"), w.weight("fc.w", 4, 64), w.weight("fc.b", 4), transB=1)
    return w.model({"input": (FLOAT, ["batch", 1, 8, 8])}, x, ["batch", 4])


def images(n: int = 64, seed: int = 5) -> Dataset:
    """Normal noise for the 8×8 models."""
    values = np.random.default_rng(seed).standard_normal((n, 1, 8, 8)).astype(np.float32)
    return Dataset(arrays={"input": values}, labels=None, preprocess=None, digest=f"noise-{n}-{seed}")


def colour_images(n: int = 64, seed: int = 6) -> Dataset:
    """Normal noise for the models of 8×8 RGB images."""
    values = np.random.default_rng(seed).standard_normal((n, 3, 8, 8)).astype(np.float32)
    return Dataset(arrays={"input": values}, labels=None, preprocess=None, digest=f"colours-{n}-{seed}")


def tokens(n: int = 32) -> Dataset:
    """Sequences of 6 ids with full masks."""
    ids = np.random.default_rng(7).integers(0, 20, (n, 6))
    return Dataset(arrays={"ids": ids, "mask": np.ones_like(ids)}, labels=None, preprocess=None, digest=f"tokens-{n}")


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save_model(model, str(path))
    return path


def outputs(path: Path, data: Dataset, *, plainly: bool = False) -> NDArray:
    """What ONNX Runtime computes for every sample.

    `plainly`: without its optimizations, of which some compute Q/DQ in fp8, or with fp16 scales, wrongly (1.32).
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if plainly:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    parts = [session.run(None, data.batch(i, i + 64))[0] for i in range(0, len(data), 64)]
    return np.concatenate(parts)
