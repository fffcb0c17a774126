"""torch.profiler on a module whose children are the graph's nodes, as layers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from autotune.engines.layer_roles import role_of
from autotune.engines.layers import N_WARM_UPS, Layer, LayerReport, LayerRole
from autotune.engines.protocol import Inputs, Session
from autotune.errors import Unstable
from autotune.variants.outline import GraphNode, Outline, short_format

COMPILED = "Inductor compiles many nodes into one function and keeps no names of them: its layers cannot be told"
_MARK = "autotune node "
_CAST, _CONVERTED = "aten::to", "aten::_to_copy"
_COPIES = frozenset({"aten::pad", "aten::constant_pad_nd", "aten::copy_", "aten::contiguous", "aten::clone"})
"""What torch runs beside a node's own operation, besides casts: pads that it cannot fuse, and copies."""
_OUTSIDE = "calls around the nodes"


@dataclass(slots=True)
class Operation:
    """One event of the profiler, with those inside it. Times in µs; `device_us` is that of all kernels launched within.

    `kernels`: name → µs, of its own launches.
    """

    name: str
    host_us: float
    device_us: float = 0.0
    kernels: dict[str, float] = field(default_factory=dict)
    children: list[Operation] = field(default_factory=list)


def profiled_layers(
    session: Session, module: Any, outline: Outline, batches: Sequence[Inputs], n_runs: int, *, on_gpu: bool
) -> LayerReport:
    """The layers of an open session of `module`, whose children node0, node1, … are the nodes of `outline`."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    formats: dict[str, str] = {}
    with _marked(module, outline, formats):
        for run in range(N_WARM_UPS):
            _execute(session, batches[run % len(batches)])
        with profile(activities=activities) as profiler:
            runs_us = tuple(_execute(session, batches[(N_WARM_UPS + run) % len(batches)]) for run in range(n_runs))
    roots = [_operation(e) for e in profiler.events() if e.cpu_parent is None and not _is_device(e)]
    return report_from_operations(roots, outline, formats, runs_us, on_gpu=on_gpu)


def as_replayed(report: LayerReport, session: Session, batches: Sequence[Inputs]) -> LayerReport:
    """The report of an eager module, with the execution times of the `session` that replays its kernels in one launch."""
    for run in range(N_WARM_UPS):
        _execute(session, batches[run % len(batches)])
    runs_us = tuple(_execute(session, batches[(N_WARM_UPS + run) % len(batches)]) for run in range(report.n_runs))
    note = "kernels were timed one launch each; the whole is timed as the captured graph replays it, without the profiler"
    return replace(report, runs_us=runs_us, total_us=sum(runs_us) / len(runs_us), notes=(*report.notes, note))


def _execute(session: Session, inputs: Inputs) -> float:
    """One execution's µs by the wall clock."""
    begin = time.perf_counter_ns()
    session.submit(inputs, 0)
    session.wait(0)
    return (time.perf_counter_ns() - begin) / 1e3


@contextmanager
def _marked(module: Any, outline: Outline, formats: dict[str, str]) -> Iterator[None]:
    """Inside the block each node's execution is an event of the profiler; `formats` hears in which format it computed."""
    children = [(node.name, getattr(module, f"node{index}", None)) for index, node in enumerate(outline)]
    handles = []
    for name, child in children:
        if child is not None:
            enter, leave = _hooks(name, formats)
            handles += [child.register_forward_pre_hook(enter), child.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(name: str, formats: dict[str, str]) -> tuple[Callable[..., None], Callable[..., None]]:
    import torch

    marks: list[Any] = []

    def enter(*_: Any) -> None:
        marks.append(torch.profiler.record_function(_MARK + name))
        marks[-1].__enter__()

    def leave(_: Any, __: Any, result: Any) -> None:
        marks.pop().__exit__(None, None, None)
        if isinstance(result, torch.Tensor):
            formats[name] = short_format(str(result.dtype).removeprefix("torch."))

    return enter, leave


def _is_device(event: Any) -> bool:
    return str(event.device_type).rpartition(".")[2] != "CPU"


def _operation(event: Any) -> Operation:
    kernels: dict[str, float] = defaultdict(float)
    for kernel in event.kernels:
        kernels[kernel.name] += kernel.duration
    children = [_operation(child) for child in event.cpu_children]
    own_us = sum(kernels.values()) + sum(c.device_us for c in children)
    return Operation(name=event.name, host_us=event.cpu_time_total, device_us=own_us, kernels=dict(kernels), children=children)


@dataclass(slots=True)
class _Spent:
    time_us: float = 0.0
    by_operation: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    by_kernel: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def report_from_operations(
    roots: Sequence[Operation], outline: Outline, formats: Mapping[str, str], runs_us: Sequence[float], *, on_gpu: bool
) -> LayerReport:
    """The layers from the outermost events of `runs_us` executions.

    A node's layer has the time of its own operation; casts and pads that torch runs for it are layers without nodes, named
    after it. On a GPU the time is that of the kernels, on the CPU that of the operations. `formats`: of the nodes' results.
    """
    spent: dict[tuple[str, str], _Spent] = defaultdict(_Spent)  # (node or "", operation added for it or "")
    for root in roots:
        node = root.name.removeprefix(_MARK) if root.name.startswith(_MARK) else ""
        for operation in root.children if node else [root]:
            _add(spent, node, operation, on_gpu)
    n = len(runs_us)
    if not n:
        raise Unstable("torch was not run under its profiler", stage="profile")
    layers = [_layer(n_, spent[n_.name, ""], formats, n) for n_ in outline if (n_.name, "") in spent]
    for (node, added), cost in spent.items():
        if added:
            layers.append(_added_layer(node, added, cost, n))
    told = {name for layer in layers for name in layer.nodes}
    return LayerReport(
        layers=tuple(layers),
        total_us=sum(runs_us) / n,
        n_runs=n,
        method="torch.profiler" + (", GPU kernels by CUPTI" if on_gpu else ""),
        notes=("torch.profiler and the marks around each node slow every operation by some µs",),
        runs_us=tuple(runs_us),
        vanished=tuple(n_.name for n_ in outline if n_.name not in told),
    )


def _add(spent: Mapping[tuple[str, str], _Spent], node: str, operation: Operation, on_gpu: bool) -> None:
    """The operation's time is the node's, but what was added for the node, at any depth, is counted on its own."""
    if not node:
        converts = _is_conversion(operation) or operation.name in _COPIES
        _count(spent["", operation.name if converts else _OUTSIDE], operation, _us(operation, on_gpu))
        return
    if operation.name in _COPIES or _is_conversion(operation):
        _count(spent[node, operation.name], operation, _us(operation, on_gpu))
        return
    added = list(_conversions_inside(operation))
    for inner in added:
        _count(spent[node, inner.name], inner, _us(inner, on_gpu))
    _count(spent[node, ""], operation, max(0.0, _us(operation, on_gpu) - sum(_us(i, on_gpu) for i in added)))


def _us(operation: Operation, on_gpu: bool) -> float:
    return operation.device_us if on_gpu else operation.host_us


def _is_conversion(operation: Operation) -> bool:
    """True for a cast that wrote a new tensor; `to` is called everywhere and mostly returns what it was given."""
    return operation.name == _CAST and any(child.name == _CONVERTED for child in operation.children)


def _conversions_inside(operation: Operation) -> Iterator[Operation]:
    for child in operation.children:
        if _is_conversion(child):
            yield child
        else:
            yield from _conversions_inside(child)


def _count(spent: _Spent, operation: Operation, time_us: float) -> None:
    spent.time_us += time_us
    spent.by_operation[operation.name] += time_us
    for name, us in _kernels(operation):
        spent.by_kernel[name] += us


def _kernels(operation: Operation) -> Iterator[tuple[str, float]]:
    yield from operation.kernels.items()
    for child in operation.children:
        yield from _kernels(child)


def _main(times: Mapping[str, float]) -> str:
    return max(times, key=times.__getitem__) if times else ""


def _layer(node: GraphNode, spent: _Spent, formats: Mapping[str, str], n: int) -> Layer:
    kernel = _main(spent.by_kernel)
    return Layer(
        name=node.name,
        kind=node.op,
        role=role_of(node.op, (node.op,)),
        precision="tf32" if "tf32" in kernel else formats.get(node.name, ""),
        time_us=spent.time_us / n,
        kernel=kernel or _main(spent.by_operation),
        nodes=(node.name,),
    )


def _added_layer(node: str, added: str, spent: _Spent, n: int) -> Layer:
    """Around the nodes, `to` converts inputs and outputs, to channels last among others; inside one it casts, by autocast."""
    cast: LayerRole = "quantize" if node else "reformat"
    return Layer(
        name=f"{added} for {node}" if node else added,
        kind=added,
        role=cast if added == _CAST else "copy" if added in _COPIES else "other",
        time_us=spent.time_us / n,
        kernel=_main(spent.by_kernel) or added,
    )
