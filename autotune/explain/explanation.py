"""One trial explained: where the time goes, what stayed in a wide format, what was not fused, and the sum by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.engines.fused_nodes import ACTIVATIONS, HEAVY, POST_OPS
from autotune.engines.layer_roles import QUANTIZE_OPS
from autotune.engines.layers import Layer
from autotune.explain.subject import GraphView, Subject, bits_of, label_of, main_node, total_of
from autotune.variants.outline import GraphNode

_COSTS = ("reformat", "copy", "quantize")
_WORTH_A_WORD = 0.005
"""Share of the time below which nothing is said to be open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of the layers with its time for one batch, and its share of the profiled execution."""

    name: str
    n_layers: int
    time_us: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What one of several executors inside the engine ran: its layers, the nodes of the graph in them, and their time.

    `untimed`: layers of which no time is known, and which count nothing in `time_us`.
    """

    provider: str
    n_layers: int
    n_nodes: int
    untimed: int
    time_us: float
    share: float
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A layer about which there is something to say. `label`: its kind of work; `nodes`: Q, DQ and casts last.

    `why`: what could be told of the reason.
    """

    layer: str
    label: str
    role: str
    precision: str
    time_us: float | None
    share: float
    nodes: tuple[str, ...]
    kernel: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """Nodes of the graph that share layers, called after the one that does the work, with the time of all of these layers.

    `nodes`: Q, DQ and casts last.
    """

    name: str
    label: str
    nodes: tuple[str, ...]
    n_layers: int
    precisions: tuple[str, ...]
    time_us: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All lists are sorted by time, the longest first. `between`: the execution's time outside all layers.

    `stayed_wide`: computing layers in a wider format than the candidate's. `overhead`: layers that compute nothing. `unfused`:
    Q, DQ, activations and sums that are layers of their own. `untold`: what the engine left open. `by_provider`: what
    each of the engine's executors took, in the order in which they come first; empty where there is one only, unless
    that is TensorRT inside another engine.
    """

    by_role: tuple[Share, ...]
    by_precision: tuple[Share, ...]
    between: Share
    layers: tuple[Finding, ...]
    stayed_wide: tuple[Finding, ...]
    overhead: tuple[Finding, ...]
    unfused: tuple[Finding, ...]
    by_node: tuple[NodeTime, ...]
    vanished: tuple[str, ...]
    untold: tuple[str, ...]
    by_provider: tuple[Placed, ...] = ()


def explain(subject: Subject) -> Explanation:
    """Everything that one profile and its graph tell."""
    graph = GraphView(subject.outline)
    layers = sorted(subject.report.layers, key=lambda layer: -(layer.time_us or 0.0))
    computing = [layer for layer in layers if layer.role == "compute"]
    idle_us = max(0.0, subject.total_us - total_of(layers))

    def found(layer: Layer, why: str = "") -> Finding:
        return _finding(subject, graph, layer, why)

    return Explanation(
        by_role=_shares(subject, layers, lambda layer: layer.role),
        by_precision=_shares(subject, computing, lambda layer: layer.precision or "unknown"),
        between=Share(name="between layers", n_layers=0, time_us=idle_us, share=subject.share(idle_us)),
        layers=tuple(map(found, layers)),
        stayed_wide=tuple(found(layer, _why_wide(subject, graph, layer)) for layer in computing if _is_wide(subject, layer)),
        overhead=tuple(found(layer) for layer in layers if layer.role in _COSTS),
        unfused=tuple(found(layer, why) for layer in layers if (why := why_unfused(graph, layer))),
        by_node=_by_node(subject, graph, layers),
        vanished=subject.report.vanished,
        untold=_untold(subject, layers),
        by_provider=_by_provider(subject),
    )


def _finding(subject: Subject, graph: GraphView, layer: Layer, why: str) -> Finding:
    nodes = graph.nodes_of(layer)
    between = {n.name for n in nodes if n.op in QUANTIZE_OPS}
    return Finding(
        layer=layer.name,
        label=label_of(layer, nodes),
        role=layer.role,
        precision=layer.precision,
        time_us=layer.time_us,
        share=subject.share(layer.time_us or 0.0),
        nodes=tuple(sorted(layer.nodes, key=lambda name: name in between)),
        kernel=layer.kernel,
        why=why,
    )


def _shares(subject: Subject, layers: Sequence[Layer], key: Callable[[Layer], str]) -> tuple[Share, ...]:
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    found = [
        Share(name=name, n_layers=len(members), time_us=(us := total_of(members)), share=subject.share(us))
        for name, members in groups.items()
    ]
    return tuple(sorted(found, key=lambda s: -s.time_us))


def _by_provider(subject: Subject) -> tuple[Placed, ...]:
    groups: dict[str, list[Layer]] = {}
    for layer in subject.report.layers:
        if layer.provider:
            groups.setdefault(layer.provider, []).append(layer)
    if len(groups) < 2 and "TensorRT" not in groups:
        return ()
    found = []
    for provider, members in groups.items():
        nodes = tuple(node for layer in members for node in layer.nodes)
        found.append(
            Placed(
                provider=provider,
                n_layers=len(members),
                n_nodes=len(nodes),
                untimed=sum(layer.time_us is None for layer in members),
                time_us=(us := total_of(members)),
                share=subject.share(us),
                nodes=nodes,
            )
        )
    return tuple(found)


def _is_wide(subject: Subject, layer: Layer) -> bool:
    """True where the layer computes floating point wider than the candidate's format; integers of shapes are not meant."""
    wanted, found = bits_of(subject.precision), bits_of(layer.precision)
    return wanted is not None and found is not None and found > wanted and layer.precision.startswith(("fp", "bf", "tf"))


def _why_wide(subject: Subject, graph: GraphView, layer: Layer) -> str:
    """The reason as far as the graph tells it."""
    node = main_node(graph.nodes_of(layer))
    if node is None:
        return "the engine does not tell which node it is"
    if subject.precision.startswith("int"):
        return _why_not_integer(graph, node)
    wanted = bits_of(subject.precision) or 0
    if "amp-" in subject.precision or subject.precision == "tf32":
        return f"the graph is {node.precision or 'fp32'} throughout, and the engine did not narrow this operation"
    if (bits_of(node.precision) or 0) > wanted:
        return f"the graph keeps it in {node.precision}"
    return f"the graph says {node.precision or subject.precision}, and the engine computes it in {layer.precision}"


def _why_not_integer(graph: GraphView, node: GraphNode) -> str:
    sources = graph.before(node)
    if not any(s is not None and s.op == "DequantizeLinear" and s.inputs for s in sources):
        return "no Q/DQ around it in the graph"
    if not all(s is not None and s.op == "DequantizeLinear" for s in sources):
        return "only some of its inputs are quantized in the graph"
    if not any(c.op == "QuantizeLinear" for c in _past_activations(graph, node)):
        return "its inputs are quantized in the graph, its result is not"
    return "Q/DQ around it, which the engine did not fuse"


def _past_activations(graph: GraphView, node: GraphNode) -> list[GraphNode]:
    """What reads the node's result, seen through activations."""
    found = []
    for consumer in graph.after(node):
        found += _past_activations(graph, consumer) if consumer.op in ACTIVATIONS else [consumer]
    return found


def why_unfused(graph: GraphView, layer: Layer) -> str:
    """What the layer does that engines do within others; empty where there is nothing of the kind."""
    nodes = graph.nodes_of(layer)
    if layer.role == "quantize":
        return _why_own_quantization(graph, nodes)
    working = [n for n in nodes if n.op not in QUANTIZE_OPS]
    if layer.role != "compute" or not working or not all(n.op in POST_OPS for n in working):
        return ""
    held = set(layer.nodes)
    for node in working:
        for source in graph.before(node):
            heavy = _past_quantization(graph, source)
            if heavy is not None and heavy.op in HEAVY and heavy.name not in held and _is_only_reader(graph, heavy, node):
                return f"not fused into {heavy.name} ({heavy.label})"
    return ""


def _why_own_quantization(graph: GraphView, nodes: Sequence[GraphNode]) -> str:
    if not nodes:
        return "a conversion that the engine added"
    if all(source is None for source in graph.before(nodes[0])):
        return "at the model's input, where it is needed" if nodes[0].inputs else "of a constant, in every execution"
    if not graph.after(nodes[-1]):
        return "at the model's output, where it is needed"
    return "inside the model, not fused with its neighbours"


def _past_quantization(graph: GraphView, node: GraphNode | None) -> GraphNode | None:
    while node is not None and node.op in QUANTIZE_OPS and node.inputs:
        node = graph.before(node)[0]
    return node


def _is_only_reader(graph: GraphView, source: GraphNode, reader: GraphNode) -> bool:
    """True when nothing but `reader` needs what `source` makes; else the two could not be one layer."""
    waiting, readers = list(graph.after(source)), set()
    while waiting:
        node = waiting.pop()
        if node.op in QUANTIZE_OPS and node.name != reader.name:
            waiting += graph.after(node)
        else:
            readers.add(node.name)
    return readers == {reader.name}


def _by_node(subject: Subject, graph: GraphView, layers: Sequence[Layer]) -> tuple[NodeTime, ...]:
    found = []
    for nodes, members in grouped(layers).items():
        known = [graph.by_name[n] for n in graph.by_name if n in nodes]
        main = main_node(known)
        if main is None:
            continue
        time_us = total_of(members)
        found.append(
            NodeTime(
                name=main.name,
                label=main.label,
                nodes=tuple(n.name for n in sorted(known, key=lambda n: n.op in QUANTIZE_OPS)),
                n_layers=len(members),
                precisions=tuple(dict.fromkeys(m.precision for m in members if m.precision)),
                time_us=time_us,
                share=subject.share(time_us),
            )
        )
    return tuple(sorted(found, key=lambda n: -n.time_us))


def grouped(
    layers: Sequence[Layer], links: Callable[[Layer], Sequence[str]] = lambda layer: layer.nodes
) -> Mapping[frozenset[str], list[Layer]]:
    """Layers that share a node stand together, under all of their nodes; layers without nodes are left out."""
    group_of: dict[str, list[Layer]] = {}
    nodes_of: dict[int, set[str]] = {}
    for layer in layers:
        names = links(layer)
        if not names:
            continue
        merged: list[Layer] = [layer]
        nodes = set(names)
        for old in {id(g): g for n in names if (g := group_of.get(n)) is not None}.values():
            merged += old
            nodes |= nodes_of.pop(id(old))
        nodes_of[id(merged)] = nodes
        group_of.update(dict.fromkeys(nodes, merged))
    groups = {id(g): g for g in group_of.values()}
    return {frozenset(nodes_of[key]): group for key, group in groups.items()}


def _untold(subject: Subject, layers: Sequence[Layer]) -> tuple[str, ...]:
    """What the profile left open, with its weight."""
    found = []
    nameless = [layer for layer in layers if not layer.nodes and layer.role in ("compute", "other") and layer.time_us]
    share = subject.share(total_of(nameless))
    if share >= _WORTH_A_WORD:
        found.append(f"{len(nameless)} layers ({share:.0%} of the time) whose nodes the engine does not tell")
    unknown = [layer for layer in layers if layer.role == "compute" and bits_of(layer.precision) is None and layer.time_us]
    share = subject.share(total_of(unknown))
    if share >= _WORTH_A_WORD and bits_of(subject.precision) is not None:
        found.append(f"{len(unknown)} computing layers ({share:.0%}) in a format that is not known or no floating point")
    timeless = [layer for layer in layers if layer.time_us is None]
    if timeless:
        found.append(f"{len(timeless)} layers without a time")
    return tuple(found)
