"""A small network with what engines fuse and what they do not, as variants that the tests of explanations profile.

input (batch, 8, 16, 16) → stem Conv 3×3 → Relu → depthwise Conv 3×3 → Clip → project Conv 1×1 → Add (with stem's Relu)
→ GlobalAveragePool → Flatten → Gemm → logits (batch, 4)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autotune.cache import Cache
from autotune.data.dataset import Dataset
from autotune.engines.protocol import Backend
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.make import VariantRequest, make_variant
from autotune.variants.variant import ModelVariant

SAMPLE = (8, 16, 16)
CONVOLUTIONS = ("stem", "depthwise", "project")


def write_model(path: Path) -> Path:
    """The network with seeded weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {
        "stem.w": (16, 8, 3, 3), "stem.b": (16,), "depthwise.w": (16, 1, 3, 3), "depthwise.b": (16,),
        "project.w": (16, 16, 1, 1), "project.b": (16,), "fc.w": (4, 16), "fc.b": (4,),
    }  # fmt: skip
    tensors = [numpy_helper.from_array((rng.standard_normal(s) * 0.2).astype(np.float32), name) for name, s in shapes.items()]
    tensors += [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0.0), ("six", 6.0))]
    nodes = [
        helper.make_node("Conv", ["input", "stem.w", "stem.b"], ["stem_y"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem_y"], ["a"], name="stem/relu"),
        helper.make_node(
            "Conv", ["a", "depthwise.w", "depthwise.b"], ["depthwise_y"], name="depthwise", pads=[1, 1, 1, 1], group=16
        ),
        helper.make_node("Clip", ["depthwise_y", "zero", "six"], ["b"], name="depthwise/relu6"),
        helper.make_node("Conv", ["b", "project.w", "project.b"], ["c"], name="project"),
        helper.make_node("Add", ["c", "a"], ["d"], name="sum"),
        helper.make_node("GlobalAveragePool", ["d"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], ["logits"], name="fc", transB=1),
    ]
    ends = [("input", ["batch", *SAMPLE]), ("logits", ["batch", 4])]
    given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    graph = helper.make_graph(nodes, "explained", [given], [result], tensors)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def inputs(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`n` random samples."""
    return {"input": np.random.default_rng(seed).standard_normal((n, *SAMPLE)).astype(np.float32)}


def variant(folder: Path, precision: str, backend: Backend) -> ModelVariant:
    """The network in a precision, as the backend wants it."""
    request = VariantRequest(
        model=ModelSpec(path=write_model(folder / "explained.onnx")),
        precision=precision,
        pruning_ratio=0.0,
        scheme=backend.scheme(precision),
        recovery=RecoverySpec(),
        seed=0,
    )
    samples = Dataset(arrays=inputs(64, seed=9), labels=None, preprocess=None, digest="explained")
    return make_variant(request, samples, None, Cache(folder / "cache"))[0]
