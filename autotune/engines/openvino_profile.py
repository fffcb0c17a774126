"""OpenVINO's performance counters and runtime model as layers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.engines.fused_nodes import LayerHint, nodes_by_layer, vanished_nodes
from autotune.engines.layer_roles import role_of
from autotune.engines.layers import N_WARM_UPS, Layer, LayerReport
from autotune.engines.protocol import Inputs
from autotune.errors import OutOfMemory, Unstable
from autotune.variants.outline import Outline

_FORMATS = {"f64": "fp64", "f32": "fp32", "f16": "fp16", "u8": "int8", "i8": "int8", "u4": "int4", "i4": "int4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A layer by get_profiling_info and get_runtime_model. `average_us`: over all executions so far, in whole µs.

    `format` is OpenVINO's runtimePrecision, such as "u8"; `names` are its originalLayersNames.
    """

    name: str
    kind: str
    kernel: str
    format: str
    names: tuple[str, ...]
    average_us: float


def profiled_layers(compiled: Any, outline: Outline, batches: Sequence[Inputs], n_runs: int) -> LayerReport:
    """The layers of a model that was compiled with PERF_COUNT and one stream."""
    request = compiled.create_infer_request()
    for run in range(N_WARM_UPS):
        _execute(request, batches[run % len(batches)])
    before = counters_of(compiled, request)
    runs_us = tuple(_execute(request, batches[(N_WARM_UPS + run) % len(batches)]) for run in range(n_runs))
    return report_from_counters(before, counters_of(compiled, request), outline, runs_us)


def _execute(request: Any, inputs: Inputs) -> float:
    """One execution's µs by the wall clock."""
    begin = time.perf_counter_ns()
    try:
        request.start_async(dict(inputs), share_inputs=True)
        request.wait()
    except RuntimeError as exc:
        kind = OutOfMemory if "bad_alloc" in str(exc) else Unstable
        raise kind(f"OpenVINO failed while it was profiled: {exc}", stage="profile") from exc
    return (time.perf_counter_ns() - begin) / 1e3


def counters_of(compiled: Any, request: Any) -> tuple[Counter, ...]:
    """The layers that were executed, in their order; constants, and layers that cost nothing, are left out."""
    known = {str(op.friendly_name): _information(op) for op in compiled.get_runtime_model().get_ordered_ops()}
    found = []
    for counter in request.get_profiling_info():
        about = known.get(counter.node_name)
        if about is None or counter.status.name != "EXECUTED":
            continue
        found.append(
            Counter(
                name=counter.node_name,
                kind=about.get("layerType", counter.node_type),
                kernel=counter.exec_type,
                format=about.get("runtimePrecision", ""),
                names=tuple(n for n in about.get("originalLayersNames", "").split(",") if n),
                average_us=counter.real_time.total_seconds() * 1e6,
            )
        )
    return tuple(found)


def _information(op: Any) -> Mapping[str, str]:
    """The runtime information of an executed operation as text; it comes as str or as an object that holds one."""
    wanted = ("layerType", "runtimePrecision", "originalLayersNames")
    information = op.get_rt_info()
    return {key: str(getattr(information[key], "value", information[key])) for key in wanted if key in information}


def report_from_counters(
    before: Sequence[Counter], after: Sequence[Counter], outline: Outline, runs_us: Sequence[float]
) -> LayerReport:
    """The layers from the counters after the warm-ups and after `runs_us` more executions.

    A counter is the mean over all executions since the model was compiled, the first among them, which allocates; so the
    mean over the later ones is the difference of sums.
    """
    members = nodes_by_layer(outline, [LayerHint(names=c.names or (c.name,), kind=c.kind) for c in after])
    ops = {n.name: n.op for n in outline}
    earlier = {c.name: c.average_us for c in before}
    n = len(runs_us)
    layers = []
    for counter, nodes in zip(after, members, strict=True):
        spent_us = counter.average_us * (N_WARM_UPS + n) - earlier.get(counter.name, counter.average_us) * N_WARM_UPS
        layers.append(
            Layer(
                name=counter.name,
                kind=counter.kind,
                role=role_of(counter.kind, [ops[name] for name in nodes]),
                precision=_FORMATS.get(counter.format, counter.format),
                time_us=max(0.0, spent_us / n),
                kernel=counter.kernel,
                nodes=nodes,
            )
        )
    return LayerReport(
        layers=tuple(layers),
        total_us=sum(runs_us) / n,
        n_runs=n,
        method="OpenVINO's performance counters (PERF_COUNT) and runtime model",
        notes=("OpenVINO counts whole µs per layer: layers of a few µs are read up to 2 µs wrong",),
        runs_us=tuple(runs_us),
        vanished=vanished_nodes(outline, members),
    )
