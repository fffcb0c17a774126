"""Where an engine's time goes: TensorRT's own profiler on one context, and its inspector beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from autotune.engines.layers import Layer
from autotune.engines.protocol import Inputs
from autotune.engines.tensorrt_api import ICudaEngine, IExecutionContext, Trt
from autotune.engines.tensorrt_lane import Lane
from autotune.engines.tensorrt_layers import layers_from_inspector, with_times
from autotune.engines.tensorrt_log import rejection

_WARM_UPS = 3
"""Profiled executions that do not count: clocks rise and kernels are loaded in them."""


class Times(Protocol):
    """TensorRT's IProfiler that adds up."""

    total_ms: dict[str, float]


def make_profiler(trt: Trt) -> Times:
    """A new profiler; it must live as long as its context."""

    base = trt.IProfiler

    class Sums(base):  # type: ignore[misc, valid-type]  # the base is there at run time only
        def __init__(self) -> None:
            base.__init__(self)
            self.total_ms: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.total_ms[layer_name] += ms

    made: Times = Sums()
    return made


def profiled_layers(lane: Lane, engine: ICudaEngine, batches: Sequence[Inputs], n_runs: int) -> tuple[tuple[Layer, ...], float]:
    """The layers with their mean times over `n_runs` executions in the lane, one after the other, and the sum of the means.

    Microseconds. Raises what running raises, and BuildFailed where TensorRT does not tell.
    """
    trt, log, context = lane.shared.trt, lane.shared.log, lane.context
    if context is None:
        raise rejection(log, "the context is closed", "open")
    times = make_profiler(trt)
    context.profiler = times
    context.enqueue_emits_profile = False  # else the enqueue waits for the execution; we ask when it is over
    for run in range(_WARM_UPS + n_runs):
        if run == _WARM_UPS:
            times.total_ms.clear()
        lane.submit(batches[run % len(batches)])
        lane.wait()
        if not context.report_to_profiler():
            raise rejection(log, "TensorRT's profiler reports nothing", "open")
    time_us = {name: 1000 * ms / n_runs for name, ms in times.total_ms.items()}
    return with_times(_inspected(trt, lane, engine, context), time_us), sum(time_us.values())


def _inspected(trt: Trt, lane: Lane, engine: ICudaEngine, context: IExecutionContext) -> tuple[Layer, ...]:
    inspector = engine.create_engine_inspector()
    if inspector is None:
        raise rejection(lane.shared.log, "TensorRT made no inspector", "open")
    inspector.execution_context = context  # else sizes and formats are "N/A due to dynamic shapes"
    return layers_from_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
