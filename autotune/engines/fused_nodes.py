"""Which nodes of the graph an engine's layers hold, from the little that engines tell: names, and names of tensors.

Engines rename: "t110_nchwc" is ONNX Runtime's layer that makes tensor t110, "conv0/WithoutBiases" is OpenVINO's of node conv0.
And they drop what they fuse: the ReLU inside a convolution has no name left, nor have Q and DQ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autotune.variants.outline import GraphNode, Outline

HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operations that a layer holds one of, attention apart; so none is taken into another's layer on a guess."""
ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu", "Mish", "Softplus"}
)
POST_OPS = ACTIVATIONS | {"Add", "Sub", "Mul", "Div", "Sum", "Min", "Max", "BatchNormalization"}
"""Operations that engines fuse into the layer before them; Q is another."""
_PRE_OPS = frozenset({"DequantizeLinear", "Pad"})
"""Operations that engines fuse into the layer after them."""
_ADDED = re.compile(r"(_nchwc|_token_\d+|_quant|_nhwc)$")
_PREFIXES = ("InsertedPrecisionFreeCast_", "fused ")
"""What ONNX Runtime puts around names (observed with 1.32): layouts, uniqueness, its fp16 detour, fused activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHint:
    """What an engine tells of a layer: `names` of nodes or of the tensors they make, and `outputs`, the tensors it makes.

    `kind`: the engine's operation type.
    """

    names: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    kind: str = ""


class _Graph:
    def __init__(self, outline: Outline) -> None:
        self.nodes = outline
        self.by_name = {n.name: n for n in outline}
        self.producer = {tensor: n for n in outline for tensor in n.outputs}
        self.consumers: dict[str, list[GraphNode]] = {}
        for node in outline:
            for tensor in node.inputs:
                self.consumers.setdefault(tensor, []).append(node)

    def find(self, name: str) -> GraphNode | None:
        """The node that an engine's name means: its own, or that which makes the tensor of the name."""
        return next((n for s in _spellings(name) if (n := self.by_name.get(s) or self.producer.get(s)) is not None), None)


def nodes_by_layer(outline: Outline, hints: Sequence[LayerHint]) -> tuple[tuple[str, ...], ...]:
    """For each layer, in the order of `hints`, the names of its nodes in the graph's order. No node is in two layers.

    Named nodes first. Then a layer holds everything between its nodes and other layers; what is left is fused where engines
    fuse such: activations, sums and Q into the layer before, DQ into the one after. A node in no layer has vanished, or its
    layer hides its name.
    """
    graph = _Graph(outline)
    home: dict[str, int] = {}
    for index, hint in enumerate(hints):
        told = [*map(graph.find, hint.names), *map(graph.producer.get, hint.outputs)]
        for node in told:
            # A transposition that the engine added keeps the name of the tensor, and the layer that made it gets another.
            if node is not None and (hint.kind != "Transpose" or node.op == "Transpose"):
                home.setdefault(node.name, index)
    _take_activations(graph, home)
    for node in [n for n in outline if n.name in home]:
        _take_slice(graph, node, hints[home[node.name]], home)
    _take_post_ops(graph, home)
    _take_pre_ops(graph, home)
    members: list[list[str]] = [[] for _ in hints]
    for node in outline:
        if node.name in home:
            members[home[node.name]].append(node.name)
    return tuple(map(tuple, members))


def vanished_nodes(outline: Outline, members: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The nodes that no layer holds, in the graph's order."""
    held = {name for layer in members for name in layer}
    return tuple(n.name for n in outline if n.name not in held)


def _spellings(name: str) -> Iterator[str]:
    """The name, then what it may have been before the engine added to it."""
    bare = name
    while True:
        yield bare
        shorter = _ADDED.sub("", bare)
        for prefix in _PREFIXES:
            shorter = shorter.removeprefix(prefix)
        if shorter == bare:
            break
        bare = shorter
    while "/" in bare:  # OpenVINO: "fc/WithoutBiases/DequantizationMultiply"
        bare = bare.rpartition("/")[0]
        yield bare


def _take_slice(graph: _Graph, last: GraphNode, hint: LayerHint, home: dict[str, int]) -> None:
    """Homeless nodes from which `last` is computed, up to other layers, join its layer.

    Q ends a layer, and so does an activation or sum that follows a convolution or product: what lies before is another's.
    """
    index = home[last.name]
    full = "ttention" not in hint.kind and any(home.get(n.name) == index and n.op in HEAVY for n in graph.nodes)
    waiting = [last]
    while waiting:
        for tensor in waiting.pop().inputs:
            node = graph.producer.get(tensor)
            if node is None or node.name in home or node.op == "QuantizeLinear" or (node.op in HEAVY and full):
                continue
            if node.op in POST_OPS and any(s.op in HEAVY for s in _homes(graph, node, home)):
                continue
            full = full or (node.op in HEAVY and "ttention" not in hint.kind)
            home[node.name] = index
            waiting.append(node)


def _take_activations(graph: _Graph, home: dict[str, int]) -> None:
    """Homeless activations right after a named convolution or product join it, before a later layer could take them."""
    for node in graph.nodes:
        if node.name not in home and node.op in ACTIVATIONS:
            before = [p for p in _homes(graph, node, home) if p.op in HEAVY]
            if before:
                home[node.name] = home[before[0].name]


def _take_post_ops(graph: _Graph, home: dict[str, int]) -> None:
    """Homeless activations, sums and Q join the latest of the layers that make their inputs."""
    for node in graph.nodes:  # in an ONNX file, producers come first
        if node.name in home or node.op not in (*POST_OPS, "QuantizeLinear"):
            continue
        before = [home[p.name] for p in _homes(graph, node, home)]
        if before:
            home[node.name] = max(before)


def _homes(graph: _Graph, node: GraphNode, home: dict[str, int]) -> list[GraphNode]:
    """The nodes with a home that make the inputs, seen through homeless Q and DQ, for a fused sum reads them so.

    None at all where one input is made by a node without a home: then `node` cannot follow in the others' layer.
    """
    found = []
    for tensor in node.inputs:
        source = graph.producer.get(tensor)
        while source is not None and source.name not in home and source.op in ("DequantizeLinear", "QuantizeLinear"):
            source = graph.producer.get(source.inputs[0]) if source.inputs else None
        if source is not None and source.name not in home:
            return []
        found += [source] if source is not None else []
    return found


def _take_pre_ops(graph: _Graph, home: dict[str, int]) -> None:
    """Homeless DQ and pads join the first layer that reads them."""
    for node in reversed(graph.nodes):
        if node.name in home or node.op not in _PRE_OPS:
            continue
        after = [home[c.name] for tensor in node.outputs for c in graph.consumers.get(tensor, ()) if c.name in home]
        if after:
            home[node.name] = min(after)
