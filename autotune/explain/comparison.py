"""Two trials of one model side by side: the same nodes matched, whatever each engine fused them with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autotune.engines.layer_roles import QUANTIZE_OPS
from autotune.engines.layers import Layer
from autotune.explain.explanation import grouped, why_unfused
from autotune.explain.subject import GraphView, Subject, main_node, total_of
from autotune.records import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one trial spends on something, in µs per item, profiled."""

    us_per_item: float
    n_layers: int
    precisions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The same work in both trials. `nodes` is empty for layers that hold no node: then they are matched by role."""

    name: str
    label: str
    nodes: tuple[str, ...]
    ours: Side
    theirs: Side

    @property
    def lost_us(self) -> float:
        """How much longer ours takes per item, in µs; negative where it gains."""
        return self.ours.us_per_item - self.theirs.us_per_item


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`ratio`: our time per item over theirs. `ratio_source`: from which measurements. `matched`: sorted by what we lose.

    `families`: the same summed by kind of work. `fused_there`: our layers, with the reason, that the other trial has inside
    others. `unmatched_nodes`: working nodes that one of the graphs lacks.
    """

    ratio: Estimate | None
    ratio_source: str
    matched: tuple[Matched, ...]
    families: tuple[Matched, ...]
    fused_there: tuple[tuple[str, str], ...]
    unmatched_nodes: int


def compare(ours: Subject, theirs: Subject) -> Comparison:
    """What ours gains and loses against theirs, per item, for batches may differ."""
    matched = sorted(_matched(ours, theirs), key=lambda m: -m.lost_us)
    ratio, source = _ratio(ours, theirs)
    working = [{n.name for n in s.outline if n.op not in QUANTIZE_OPS} for s in (ours, theirs)]
    return Comparison(
        ratio=ratio,
        ratio_source=source,
        matched=tuple(matched),
        families=_families(matched),
        fused_there=_fused_there(ours, theirs),
        unmatched_nodes=len(working[0] ^ working[1]),
    )


def _ratio(ours: Subject, theirs: Subject) -> tuple[Estimate | None, str]:
    """The quotient of two means with the interval of independent errors on the log scale."""
    if ours.plain_us is not None and theirs.plain_us is not None:
        return _quotient(ours.plain_us, ours.batch_size, theirs.plain_us, theirs.batch_size), "without the profiler, one stream"
    if ours.total_us > 0 and theirs.total_us > 0:
        value = ours.total_us / ours.batch_size / (theirs.total_us / theirs.batch_size)
        n = min(ours.report.n_runs, theirs.report.n_runs)
        return Estimate(value=value, low=0.0, high=math.inf, n=n, method="profiled, no interval"), "under the profiler"
    return None, "not measured"


def _quotient(ours: Estimate, our_batch: int, theirs: Estimate, their_batch: int) -> Estimate:
    value = ours.value / our_batch / (theirs.value / their_batch)
    half = math.hypot(ours.half_width / ours.value, theirs.half_width / theirs.value)
    method = "quotient of independent means, on the log scale"
    n = min(ours.n, theirs.n)
    return Estimate(value=value, low=value * math.exp(-half), high=value * math.exp(half), n=n, method=method)


def _links(subject: Subject) -> dict[int, tuple[str, ...]]:
    """By a layer's identity the nodes by which it is matched: those that work. Q and DQ would tie neighbours together."""
    graph = GraphView(subject.outline)
    return {
        id(layer): tuple(n.name for n in graph.nodes_of(layer) if n.op not in QUANTIZE_OPS) for layer in subject.report.layers
    }


def _matched(ours: Subject, theirs: Subject) -> Iterator[Matched]:
    mine = {id(layer) for layer in ours.report.layers}
    links = _links(ours) | _links(theirs)
    known = {n.name: n for s in (theirs, ours) for n in s.outline}
    order = {name: place for place, name in enumerate(dict.fromkeys(n.name for s in (ours, theirs) for n in s.outline))}
    both = [*ours.report.layers, *theirs.report.layers]
    for nodes, members in grouped(both, lambda layer: links[id(layer)]).items():
        here = [known[name] for name in sorted(nodes, key=order.__getitem__)]
        main = main_node(here) or here[0]
        yield Matched(
            name=main.name,
            label=main.label,
            nodes=tuple(n.name for n in here),
            ours=_side(ours, [m for m in members if id(m) in mine]),
            theirs=_side(theirs, [m for m in members if id(m) not in mine]),
        )
    nameless = {id(layer) for layer in both if not links[id(layer)]}
    for role in dict.fromkeys(layer.role for layer in both if id(layer) in nameless):
        sides = [_side(s, [x for x in s.report.layers if id(x) in nameless and x.role == role]) for s in (ours, theirs)]
        yield _nameless(f"{role} layers", *sides)
    yield _nameless("between layers", *(_idle(s) for s in (ours, theirs)))


def _nameless(name: str, ours: Side, theirs: Side) -> Matched:
    return Matched(name=name, label=name, nodes=(), ours=ours, theirs=theirs)


def _idle(subject: Subject) -> Side:
    """The execution's time outside all layers."""
    us = max(0.0, subject.total_us - total_of(subject.report.layers))
    return Side(us_per_item=us / subject.batch_size, n_layers=0)


def _side(subject: Subject, layers: Sequence[Layer]) -> Side:
    return Side(
        us_per_item=total_of(layers) / subject.batch_size,
        n_layers=len(layers),
        precisions=tuple(dict.fromkeys(x.precision for x in layers if x.precision and x.role == "compute")),
    )


def _families(matched: Sequence[Matched]) -> tuple[Matched, ...]:
    groups: dict[str, list[Matched]] = {}
    for m in matched:
        groups.setdefault(m.label, []).append(m)
    found = [
        Matched(
            name=label,
            label=label,
            nodes=tuple(m.name for m in members if m.nodes),
            ours=_summed([m.ours for m in members]),
            theirs=_summed([m.theirs for m in members]),
        )
        for label, members in groups.items()
    ]
    return tuple(sorted(found, key=lambda m: -m.lost_us))


def _summed(sides: Sequence[Side]) -> Side:
    return Side(
        us_per_item=sum(s.us_per_item for s in sides),
        n_layers=sum(s.n_layers for s in sides),
        precisions=tuple(dict.fromkeys(p for s in sides for p in s.precisions)),
    )


def _fused_there(ours: Subject, theirs: Subject) -> tuple[tuple[str, str], ...]:
    """(layer, why) of our activations and sums on their own that are part of a larger layer in the other trial."""
    graph, other = GraphView(ours.outline), GraphView(theirs.outline)
    companions = {n.name: layer for layer in theirs.report.layers for n in other.nodes_of(layer)}
    found = []
    for layer in ours.report.layers:
        why = why_unfused(graph, layer) if layer.role == "compute" else ""
        for node in graph.nodes_of(layer) if why else ():
            there = companions.get(node.name)
            main = main_node(other.nodes_of(there)) if there is not None else None
            if node.op not in QUANTIZE_OPS and main is not None and main.name != node.name:
                found.append((layer.name, why))
                break
    return tuple(found)
