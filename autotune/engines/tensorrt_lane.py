"""One execution context of an engine with all that it owns: a stream, buffers at fixed addresses, activations, a graph."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from autotune.cuda.failures import is_sticky
from autotune.cuda.runtime import DeviceBuffer, DeviceRuntime, Graph, MemoryPool, PinnedBuffer, Stream
from autotune.engines.protocol import Inputs, Outputs
from autotune.engines.tensorrt_api import ICudaEngine, IExecutionContext, RtxICudaEngine, RtxTrt, Trt, member, method
from autotune.engines.tensorrt_log import Log, rejection
from autotune.errors import CandidateRejected, DeviceFault, OutOfMemory, Unstable, Unsupported

_log = logging.getLogger(__name__)
_ALIGNMENT_BYTES = 256
"""What set_device_memory wants of an address (TensorRT's Python API, IExecutionContext)."""
_WARM_UPS = 2
"""Executions before a capture: the first one of a context loads kernels lazily, which may not happen while capturing."""
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}

GraphMode = Literal["none", "captured", "by context"]
"""captured: we capture a context's work once. by context: TensorRT for RTX does, when it is told so as the context is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What all lanes of a session share."""

    trt: Trt
    log: Log
    engine: ICudaEngine
    runtime: DeviceRuntime
    pool: MemoryPool
    batch_size: int
    graph_mode: GraphMode


@dataclass(slots=True, kw_only=True)
class Port:
    """One input or output of the engine in one lane. `view`: the pinned memory as the array that it holds."""

    name: str
    host: PinnedBuffer
    device: DeviceBuffer
    view: NDArray[Any]


@dataclass(slots=True, kw_only=True)
class Lane:
    """A context belongs to one thread at a time; so does its lane. Made by `open_lane`, which closes what it cannot finish."""

    shared: Opened
    stream: Stream
    context: IExecutionContext | None = None
    activations: DeviceBuffer | None = None
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    graph: Graph | None = None

    def submit(self, inputs: Inputs) -> None:
        """Copies in, the execution and copies out are on the stream. Raises Unstable where the inputs do not fit."""
        self._require(inputs)
        for port in self.inputs:
            np.copyto(port.view, inputs[port.name], casting="same_kind")
        if self.graph is not None:
            self.graph.launch(self.stream)
        else:
            self.enqueue("load")

    def wait(self) -> Outputs:
        """The outputs in pinned memory, valid until the next submit."""
        self.stream.synchronize()
        return {port.name: port.view for port in self.outputs}

    def enqueue(self, stage: str) -> None:
        """One execution from pinned memory to pinned memory is on the stream."""
        runtime, log = self.shared.runtime, self.shared.log
        for port in self.inputs:
            runtime.copy_in(port.device, port.host, port.view.nbytes, self.stream)
        if self.context is None or not self.context.execute_async_v3(self.stream.handle):
            raise rejection(log, "TensorRT did not enqueue the execution", stage)
        for port in self.outputs:
            runtime.copy_out(port.host, port.device, port.view.nbytes, self.stream)

    def _require(self, inputs: Inputs) -> None:
        wanted = {port.name: port.view for port in self.inputs}
        if inputs.keys() != wanted.keys():
            raise Unstable(f"the engine's inputs are {', '.join(wanted)}; given: {', '.join(inputs) or 'none'}", stage="load")
        for name, view in wanted.items():
            given = inputs[name]
            if given.shape != view.shape or not np.can_cast(given.dtype, view.dtype, "same_kind"):
                raise Unstable(
                    f"the input {name} is {given.dtype} {given.shape}; this engine takes {view.dtype} {view.shape}",
                    stage="load",
                )

    def close(self) -> None:
        """Graph, context, buffers and stream are released, in this order: each uses what follows it. Safe to call twice."""
        release(self.graph)
        self.graph = self.context = None
        for port in (*self.inputs, *self.outputs):
            port.view = np.empty(0)
            release(port.device, port.host)
        release(self.activations, self.stream)
        self.inputs, self.outputs, self.activations = [], [], None


class Closable(Protocol):
    """What is released by closing it."""

    def close(self) -> None: ...


def release(*resources: Closable | None) -> None:
    """Each is closed as far as the device still can: after a failed execution it refuses, and what failed first is told."""
    for resource in filter(None, resources):
        try:
            resource.close()
        except CandidateRejected as exc:
            _log.debug("not released: %s", exc)


def open_lane(shared: Opened) -> Lane:
    """A lane whose context has its shapes, memory and addresses, was warmed up, and was captured where that was asked for.

    Raises OutOfMemory where the pool's cap is reached, BuildFailed or Unsupported where TensorRT refuses.
    """
    lane = Lane(shared=shared, stream=shared.runtime.stream())
    try:
        lane.context = context = _made_context(shared)
        _set_shapes(lane, context)
        _give_memory(lane, context)
        for _ in range(_WARM_UPS):
            lane.enqueue("open")
        lane.stream.synchronize()
        if shared.graph_mode == "captured":
            lane.graph = _captured(lane)
    except BaseException:
        lane.close()
        raise
    return lane


def _made_context(shared: Opened) -> IExecutionContext:
    """A context that allocates no activations of its own."""
    trt, log = shared.trt, shared.log
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if member(trt, "CudaGraphStrategy") is None:
        context = shared.engine.create_execution_context(strategy)
    else:
        context = rtx_context(cast(RtxTrt, trt), cast(RtxICudaEngine, shared.engine), shared.graph_mode, log)
    if context is None:
        raise rejection(log, "TensorRT made no execution context", "open")
    return context


def rtx_context(trt: RtxTrt, engine: RtxICudaEngine, mode: GraphMode, log: Log) -> IExecutionContext | None:
    """TensorRT for RTX compiles kernels for the shapes that come; EAGER has that over before anything is measured."""
    settings = engine.create_runtime_config()
    if settings is None:
        raise rejection(log, "TensorRT made no runtime configuration", "open")
    settings.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    graphs = trt.CudaGraphStrategy
    settings.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if mode == "by context" else graphs.DISABLED
    settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(settings)


def _set_shapes(lane: Lane, context: IExecutionContext) -> None:
    """The one profile is chosen, which contexts share since TensorRT 10, and every tensor has its size and buffers."""
    shared, log = lane.shared, lane.shared.log
    if not context.set_optimization_profile_async(0, lane.stream.handle):
        raise rejection(log, "TensorRT did not choose the optimization profile", "open")
    lane.stream.synchronize()
    engine = shared.engine
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    given = [n for n in names if engine.get_tensor_mode(n).name == shared.trt.TensorIOMode.INPUT.name]
    for name in given:
        shape = (shared.batch_size, *tuple(context.get_tensor_shape(name))[1:])
        if not context.set_input_shape(name, shape):
            raise rejection(log, f"TensorRT refuses the shape {shape} for the input {name}", "open")
    if missing := context.infer_shapes():
        raise rejection(log, f"TensorRT cannot tell the shapes of {', '.join(missing)}", "open")
    for name in names:
        port = _port(lane, context, name)
        (lane.inputs if name in given else lane.outputs).append(port)
        if not context.set_tensor_address(name, port.device.pointer):
            raise rejection(log, f"TensorRT refuses the address of {name}", "open")


def _port(lane: Lane, context: IExecutionContext, name: str) -> Port:
    shared = lane.shared
    kind, shape = shared.engine.get_tensor_dtype(name).name, tuple(context.get_tensor_shape(name))
    if kind not in _DTYPES or any(size < 0 for size in shape):
        raise Unsupported(f"the tensor {name} is {kind} {shape}, which the host cannot exchange with the engine", stage="open")
    dtype = np.dtype(_DTYPES[kind])
    n_bytes = math.prod(shape) * dtype.itemsize
    host = shared.runtime.pinned(max(1, n_bytes))
    try:
        device = shared.pool.allocate(max(1, n_bytes), lane.stream)
    except BaseException:
        host.close()
        raise
    return Port(name=name, host=host, device=device, view=host.array[:n_bytes].view(dtype).reshape(shape))


def _give_memory(lane: Lane, context: IExecutionContext) -> None:
    """The context's activations lie in the session's pool. The profile has one size, so the shapes' need is the profile's."""
    engine_need = method(lane.shared.engine, "get_device_memory_size_for_profile_v2")  # since 10.1
    n_bytes = max(int(context.update_device_memory_size_for_shapes()), int(engine_need(0)) if engine_need else 0)
    lane.activations = lane.shared.pool.allocate(n_bytes + _ALIGNMENT_BYTES, lane.stream)
    lane.stream.synchronize()
    aligned = -(-lane.activations.pointer // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    set_device_memory = method(context, "set_device_memory")  # since 10.1
    if set_device_memory is not None:
        set_device_memory(aligned, n_bytes)
    else:
        context.device_memory = aligned


def _captured(lane: Lane) -> Graph:
    """Copies in, the execution and copies out as one launch. Shapes and addresses are fixed, so it is captured once."""
    try:
        with lane.shared.runtime.capture(lane.stream) as capture:
            lane.enqueue("open")
    except (DeviceFault, OutOfMemory):  # say nothing about capturing
        raise
    except Exception as exc:
        if is_sticky(str(exc)):
            raise DeviceFault(f"capturing: {exc}", stage="open") from exc
        raise Unsupported(f"cuda_graph=on: this engine cannot be captured: {exc}", stage="open") from exc
    return capture.graph
