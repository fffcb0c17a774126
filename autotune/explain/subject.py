"""What is explained: an engine's layers beside the graph that it was built from, and the graph's questions and answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autotune.engines.fused_nodes import HEAVY
from autotune.engines.layer_roles import QUANTIZE_OPS
from autotune.engines.layers import Layer, LayerReport
from autotune.records import Estimate
from autotune.variants.outline import GraphNode, Outline

_BITS = {"fp64": 64, "fp32": 32, "tf32": 19, "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One trial's profile. `label`: how it is called in sentences. `precision`: the candidate's.

    `plain_us`: one execution of a batch without the profiler, one at a time; None where it was not measured. `measured`: the
    items/s that the study measured under the trial's own streams; None where it did not.
    """

    label: str
    engine: str
    precision: str
    batch_size: int
    report: LayerReport
    outline: Outline
    plain_us: Estimate | None = None
    measured: Estimate | None = None

    @property
    def total_us(self) -> float:
        """One profiled execution; where the engine was only inspected, 0."""
        return self.report.total_us or 0.0

    def share(self, time_us: float) -> float:
        """Of one profiled execution."""
        return time_us / self.total_us if self.total_us > 0 else 0.0


class GraphView:
    """An outline with its edges."""

    def __init__(self, outline: Outline) -> None:
        self.by_name = {n.name: n for n in outline}
        self._producer = {tensor: n for n in outline for tensor in n.outputs}
        self._consumers: dict[str, list[GraphNode]] = {}
        for node in outline:
            for tensor in node.inputs:
                self._consumers.setdefault(tensor, []).append(node)

    def nodes_of(self, layer: Layer) -> list[GraphNode]:
        """The layer's nodes that the outline has, in the layer's order."""
        return [self.by_name[n] for n in layer.nodes if n in self.by_name]

    def before(self, node: GraphNode) -> list[GraphNode | None]:
        """What makes each input that is no constant; None for an input of the graph."""
        return [self._producer.get(tensor) for tensor in node.inputs]

    def after(self, node: GraphNode) -> list[GraphNode]:
        """What reads the results; empty where they are outputs of the graph alone."""
        return [c for tensor in node.outputs for c in self._consumers.get(tensor, ())]


def main_node(nodes: Sequence[GraphNode]) -> GraphNode | None:
    """The node that a layer is called after: its convolution or product, else its first that is no Q, DQ or cast."""
    own = [n for n in nodes if n.op not in QUANTIZE_OPS] or list(nodes)
    return next((n for n in own if n.op in HEAVY), own[0] if own else None)


def label_of(layer: Layer, nodes: Sequence[GraphNode]) -> str:
    """What kind of work the layer is, for people: "Conv 3×3 depthwise"; the engine's word where its nodes are not known, or
    where it is a whole part of the graph with several convolutions or products."""
    if sum(n.op in HEAVY for n in nodes) > 1 and layer.provider == "TensorRT":
        return layer.kind
    node = main_node(nodes)
    return layer.kind if node is None else node.label


def bits_of(precision: str) -> int | None:
    """How wide a number format is: 8 for "int8", "int8-tensor" and "fp8+…", 16 for "amp-bf16"; None where it is not known."""
    named = [_BITS[word] for word in re.split(r"[-+ ]", precision) if word in _BITS]
    return min(named, default=None)


def total_of(layers: Iterable[Layer]) -> float:
    """The sum of the layers' times in µs; those that were not measured count nothing."""
    return sum(layer.time_us or 0.0 for layer in layers)


def counted(labels: Iterable[str], at_most: int = 3) -> str:
    """ "Conv 1×1 12, Add 5, …": the most frequent first."""
    counts: dict[str, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{label} {n}" for label, n in ordered[:at_most]) + (", …" if len(ordered) > at_most else "")
