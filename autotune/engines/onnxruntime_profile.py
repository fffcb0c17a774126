"""ONNX Runtime's own profiler: a session that writes it, and its JSON as layers."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.engines.fused_nodes import LayerHint, nodes_by_layer, vanished_nodes
from autotune.engines.layer_roles import QUANTIZE_OPS, role_of
from autotune.engines.layers import N_WARM_UPS, Layer, LayerReport
from autotune.engines.onnxruntime_placement import CPU, RECORD, Placement, placements
from autotune.engines.onnxruntime_session import rejection
from autotune.engines.protocol import Inputs
from autotune.errors import Unstable
from autotune.variants.outline import Outline, outline_of, short_format

_SUFFIX = "_kernel_time"
_INTEGER_OPS = ("QLinear", "QGemm", "QAttention", "QEmbed", "Integer")
_TENSORRT = "TensorrtExecutionProvider"
SUBGRAPH = "TensorRT subgraph"
"""The kind of a layer that is a whole engine of TensorRT's: one node of ONNX Runtime's graph."""
_NO_LAYERS = (
    "ONNX Runtime tells a TensorRT subgraph as one layer: for the layers inside, explain the same model on TensorRT itself "
    "(engines: [tensorrt] in the study)"
)
_ON_HOST = "a TensorRT subgraph is timed on the host, from enqueueing to the synchronization that the provider ends with"
_SLOWER = "ONNX Runtime's profiler writes an event per node: short nodes read up to a few µs too long"

Event = Mapping[str, Any]


@dataclass(slots=True)
class _Executed:
    """What the profile tells of one node of the optimized graph, summed over the counted runs; times in µs."""

    name: str
    kind: str
    provider: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    host_us: float = 0.0
    device_us: float = 0.0
    kernels: dict[str, float] = field(default_factory=dict)

    @property
    def is_subgraph(self) -> bool:
        """A whole engine of TensorRT's, called "TRTKernel_graph_…" (tensorrt_execution_provider.cc, GetSubGraph)."""
        return self.provider == _TENSORRT


def profiled_layers(
    create: Callable[[Any, Path], Any], optimized: Path | None, outline: Outline, batches: Sequence[Inputs], n_runs: int
) -> LayerReport:
    """The layers of a session that `create(options, path)` makes from options which profile.

    `optimized`: the graph that the session runs, where it lies somewhere; else the session writes it to `path`, or cannot: a
    graph with nodes that a provider compiled is not written.
    """
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.add_session_config_entry(RECORD, "1")
        path = Path(folder) / "optimized.onnx"
        session = create(options, path)
        try:
            for run in range(N_WARM_UPS + n_runs):
                session.run(None, batches[run % len(batches)])
        except Exception as exc:
            raise rejection(exc, Unstable, "profile") from exc
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = optimized or path
        return report_from_events(events, outline_of(graph) if graph.exists() else (), outline, placements(session) or ())


def report_from_events(
    events: Sequence[Event], optimized: Outline, outline: Outline, placed: Sequence[Placement] = ()
) -> LayerReport:
    """The layers from a profile of `N_WARM_UPS` executions and as many more as it holds, which count.

    `optimized`: the graph that was run, empty where it could not be had. `outline`: the variant's, whose nodes the layers name.
    `placed`: what the session told of providers; TensorRT's subgraphs get their nodes from it. Where a GPU's profiler wrote
    kernels, a layer's time is theirs; a GPU's layers without kernels have no time, for the host's is only that of launching,
    TensorRT's subgraphs apart, after which their provider waits for the GPU.
    """
    runs = sorted((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"])[N_WARM_UPS:]
    if not runs:
        raise Unstable(f"ONNX Runtime's profile holds no execution after {N_WARM_UPS} warm-ups", stage="profile")
    counted = [e for e in events if e["ts"] >= runs[0]["ts"]]
    executed, lost_us = _executed(counted)
    on_gpu = any(e.provider not in ("CPUExecutionProvider", "") for e in executed)
    has_kernels = any(e.kernels for e in executed) or lost_us > 0
    known, hints = {n.name: n for n in optimized}, []
    inside = _nodes_of_subgraphs(executed, placed)
    for e in executed:
        e.domain, made = (known[e.name].domain, known[e.name].outputs) if e.name in known else ("", ())
        hints.append(LayerHint(names=inside.get(e.name, (e.name,)), outputs=made, kind=e.kind))
    members = nodes_by_layer(outline, hints)
    if any(e.is_subgraph and e.name not in inside for e in executed):
        # What is not named may lie in a subgraph of which nothing is known, and must not be guessed into another layer.
        members = tuple(tuple(n for n in nodes if n == e.name) for e, nodes in zip(executed, members, strict=True))
    ops = {n.name: n.op for n in outline}
    layers = [
        _layer(e, nodes, [ops[n] for n in nodes], _time_us(e, len(runs), on_gpu, has_kernels))
        for e, nodes in zip(executed, members, strict=True)
    ]
    if lost_us:
        layers.append(Layer(name="kernels and copies of no node", kind="kernel", role="other", time_us=lost_us / len(runs)))
    runs_us = tuple(float(e["dur"]) for e in runs)
    return LayerReport(
        layers=tuple(layers),
        total_us=sum(runs_us) / len(runs_us),
        n_runs=len(runs_us),
        method="ONNX Runtime's profiler" + (", GPU kernels by CUPTI" if has_kernels else ""),
        notes=_notes(executed, inside, has_kernels=has_kernels),
        runs_us=runs_us,
        vanished=vanished_nodes(outline, members),
    )


def _nodes_of_subgraphs(executed: Sequence[_Executed], placed: Sequence[Placement]) -> dict[str, tuple[str, ...]]:
    """The names of the nodes in each of TensorRT's subgraphs, by the subgraph's own name; what is not known is left out.

    Subgraphs are numbered in the order in which they were placed: TRTKernel_graph_NAME_HASH_0_0, …_1_1.
    """
    fused = sorted((e.name for e in executed if e.is_subgraph), key=_number_of)
    told = [p for p in placed if p.provider == _TENSORRT]
    if len(fused) != len(told):
        return {}
    return {name: tuple(node for node, _ in p.nodes) for name, p in zip(fused, told, strict=True)}


def _number_of(name: str) -> int:
    last = re.search(r"_(\d+)$", name)
    return int(last[1]) if last else 0


def _notes(executed: Sequence[_Executed], inside: Mapping[str, object], *, has_kernels: bool) -> tuple[str, ...]:
    """What the reader must know of this profile."""
    notes = [_SLOWER]
    subgraphs = [e for e in executed if e.is_subgraph]
    if not has_kernels and any(e.provider not in (CPU, "", _TENSORRT) for e in executed):
        notes.append("this onnxruntime wrote no GPU kernels (it needs CUPTI), so its layers have no times")
    if subgraphs:
        notes.append(_NO_LAYERS)
    if any(not e.kernels for e in subgraphs):
        notes.append(_ON_HOST)
    if len(inside) < len(subgraphs):
        notes.append("this onnxruntime does not tell which nodes a TensorRT subgraph holds; from 1.24 on it does")
    return tuple(notes)


def _executed(events: Sequence[Event]) -> tuple[list[_Executed], float]:
    """The nodes in their order, and the µs of kernels that belong to none of them."""
    found: dict[tuple[str, str], _Executed] = {}
    by_name: dict[str, _Executed] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_SUFFIX):
            args, name = event["args"], event["name"].removesuffix(_SUFFIX)
            key = (str(args.get("node_index", "")), name)
            if key not in found:
                found[key] = by_name[name] = _Executed(
                    name=name,
                    kind=args["op_name"],
                    provider=args.get("provider", ""),
                    inputs=_formats(args.get("input_type_shape", ())),
                    outputs=_formats(args.get("output_type_shape", ())),
                )
            found[key].host_us += event["dur"]
    lost_us = 0.0
    for event in events:
        if event["cat"] == "Kernel":
            owner = by_name.get(str(event["args"].get("parent_name", "")).removesuffix(_SUFFIX))
            if owner is None:
                lost_us += event["dur"]
            else:
                owner.device_us += event["dur"]
                owner.kernels[event["name"]] = owner.kernels.get(event["name"], 0.0) + event["dur"]
    return list(found.values()), lost_us


def _formats(typed_shapes: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(short_format(name) for typed in typed_shapes for name in typed)


def _time_us(executed: _Executed, n_runs: int, on_gpu: bool, has_kernels: bool) -> float | None:
    if not on_gpu or executed.provider == CPU or (executed.is_subgraph and not executed.kernels):
        return executed.host_us / n_runs
    return executed.device_us / n_runs if has_kernels else None


def _layer(executed: _Executed, nodes: tuple[str, ...], ops: Sequence[str], time_us: float | None) -> Layer:
    kernel = max(executed.kernels, key=executed.kernels.__getitem__) if executed.kernels else ""
    provider = "TensorRT" if executed.is_subgraph else executed.provider.removesuffix("ExecutionProvider")
    kind = SUBGRAPH if executed.is_subgraph else executed.kind
    return Layer(
        name=executed.name,
        kind=kind,
        role="compute" if executed.is_subgraph else role_of(executed.kind, ops),
        # TensorRT chooses formats inside, and the types at its ends say nothing of them.
        precision="" if executed.is_subgraph else _precision(executed, kernel),
        time_us=time_us,
        kernel=kernel or ("TensorRT engine" if executed.is_subgraph else f"{provider} {executed.domain or 'onnx'}.{kind}"),
        nodes=nodes,
        provider=provider,
    )


def _precision(executed: _Executed, kernel: str) -> str:
    """What the types of the tensors say: integer operations are int8, casts read as their wider side, others as the result."""
    floats = [f for f in (*executed.inputs[:1], *executed.outputs[:1]) if f.startswith(("fp", "bf"))]
    if executed.kind in QUANTIZE_OPS:
        return max(floats, key=lambda f: int(f.lstrip("bfp")), default="")
    if any(sign in executed.kind for sign in _INTEGER_OPS):
        return "int8"
    if "tf32" in kernel:
        return "tf32"
    return floats[-1] if floats else next(iter(executed.inputs[:1]), "")
