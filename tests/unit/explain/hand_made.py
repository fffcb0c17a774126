"""Layer reports written by hand, whose sums can be checked in the head.

The graph: input → Q → DQ → conv1 → relu → Q → DQ → conv2 (its result is not quantized) → gelu → logits.
"""

from __future__ import annotations

from dataclasses import replace

from autotune.engines.layers import Layer, LayerReport, LayerRole
from autotune.explain.subject import Subject
from autotune.records import Estimate
from autotune.variants.outline import GraphNode, Outline


def node(name: str, op: str, inputs: str, output: str, label: str = "", precision: str = "fp32") -> GraphNode:
    return GraphNode(name=name, op=op, label=label or op, inputs=tuple(inputs.split()), outputs=(output,), precision=precision)


PLAIN: Outline = (
    node("conv1", "Conv", "input", "c1", "Conv 3×3"),
    node("relu", "Relu", "c1", "a"),
    node("conv2", "Conv", "a", "c2", "Conv 1×1"),
    node("gelu", "Gelu", "c2", "logits"),
)
QUANTIZED: Outline = (
    node("in/q", "QuantizeLinear", "input", "iq", precision="int8"),
    node("in/dq", "DequantizeLinear", "iq", "id"),
    node("w1/dq", "DequantizeLinear", "", "w1d"),
    node("conv1", "Conv", "id w1d", "c1", "Conv 3×3"),
    node("relu", "Relu", "c1", "a"),
    node("a/q", "QuantizeLinear", "a", "aq", precision="int8"),
    node("a/dq", "DequantizeLinear", "aq", "ad"),
    node("conv2", "Conv", "ad", "c2", "Conv 1×1"),
    node("gelu", "Gelu", "c2", "logits"),
)


def layer(
    name: str, kind: str, us: float | None, role: LayerRole = "compute", precision: str = "fp32", nodes: str = ""
) -> Layer:
    return Layer(name=name, kind=kind, role=role, precision=precision, time_us=us, nodes=tuple(nodes.split()))


def report(*layers: Layer, total_us: float | None) -> LayerReport:
    return LayerReport(layers=layers, total_us=total_us, n_runs=10, method="by hand")


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=10, method="by hand")


def in_tensorrt() -> Subject:
    """200 µs: TensorRT has conv1 with its ReLU in 150, CUDA conv2 in a time that is not known, the CPU gelu in 30."""
    layers = (
        replace(layer("trt", "TensorRT subgraph", 150, precision="", nodes="conv1 relu"), provider="TensorRT"),
        replace(layer("conv2", "Conv", None, nodes="conv2"), provider="CUDA"),
        replace(layer("gelu", "Gelu", 30, nodes="gelu"), provider="CPU"),
    )
    made = report(*layers, total_us=200)
    return Subject(label="trt", engine="hand", precision="fp32", batch_size=2, report=made, outline=PLAIN)


def fp32(plain_us: Estimate | None = None, measured: Estimate | None = None, batch_size: int = 2) -> Subject:
    """200 µs: conv1 with its ReLU 120, conv2 with its GELU 70, 10 between layers."""
    return Subject(
        label="fp32",
        engine="hand",
        precision="fp32",
        batch_size=batch_size,
        report=report(
            layer("conv1", "Conv", 120, nodes="conv1 relu"), layer("conv2", "Conv", 70, nodes="conv2 gelu"), total_us=200
        ),
        outline=PLAIN,
        plain_us=plain_us,
        measured=measured,
    )


def int8(plain_us: Estimate | None = None, measured: Estimate | None = None) -> Subject:
    """400 µs: conv1 in int8 60, conv2 in fp32 160, its GELU on its own 40, Q and DQ on their own 20 + 30, reorders 50 + 30."""
    return Subject(
        label="int8",
        engine="hand",
        precision="int8",
        batch_size=2,
        report=report(
            layer("in/q", "QuantizeLinear", 20, "quantize", "fp32", "in/q"),
            layer("reorder 1", "Reorder", 50, "reformat", "int8"),
            layer("conv1", "QConv", 60, "compute", "int8", "in/dq w1/dq conv1 relu a/q"),
            layer("a/dq", "DequantizeLinear", 30, "quantize", "fp32", "a/dq"),
            layer("conv2", "Conv", 160, nodes="conv2"),
            layer("gelu", "Gelu", 40, nodes="gelu"),
            layer("reorder 2", "Reorder", 30, "reformat", "fp32"),
            total_us=400,
        ),
        outline=QUANTIZED,
        plain_us=plain_us,
        measured=measured,
    )
