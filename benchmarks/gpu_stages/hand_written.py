"""The loop to be measured against: TensorRT and the driver's own calls, nothing of autotune in between.

What somebody writes who knows that it is one engine, one batch size and N streams: buffers once, one CUDA graph per stream, one
thread per stream that copies the batch into pinned memory, launches and waits.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from autotune.bench.statistics import mean_estimate
from autotune.engines.tensorrt_api import (
    ICudaEngine,
    IExecutionContext,
    RtxICudaEngine,
    RtxTrt,
    Runtime,
    Trt,
    member,
    method,
)
from autotune.engines.tensorrt_lane import rtx_context
from autotune.engines.tensorrt_log import Log, make_log
from autotune.records import Estimate

CALLS = (
    "cuInit", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreate", "cuStreamSynchronize", "cuStreamBeginCapture",
    "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch", "cuMemAlloc", "cuMemHostAlloc", "cuMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync",
)  # fmt: skip


_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32", "INT8": "int8", "BOOL": "bool"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One stream. `staging`: the pinned inputs by name. `begin` makes the thread ready; `launch` enqueues, `wait` waits."""

    staging: Mapping[str, NDArray[Any]]
    begin: Callable[[], None]
    launch: Callable[[], None]
    launch_compute: Callable[[], None]
    wait: Callable[[], None]


def unknown_calls() -> list[str]:
    """Calls of the loop that the installed cuda-bindings lack; empty where they are not installed."""
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return []
    driver = import_module("cuda.bindings.driver")
    return [f"cuda.bindings.driver has no {name}" for name in CALLS if name not in dir(driver)]


def call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """The call's value. Raises RuntimeError with its status."""
    status, *values = function(*arguments)
    if status:
        raise RuntimeError(f"{function.__name__}: {status!r}")
    return values[0] if values else None


def tensorrt_lanes(module: str, plan: bytes, batch_size: int, n_lanes: int) -> list[Lane]:
    """Lanes over one deserialized engine, each context with memory of its own."""
    trt, driver = cast(Trt, import_module(module)), import_module("cuda.bindings.driver")
    call(driver.cuInit, 0)
    context = call(driver.cuDevicePrimaryCtxRetain, 0)
    call(driver.cuCtxSetCurrent, context)
    log = make_log(trt)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeError("TensorRT cannot load the engine")
    return [_lane(trt, driver, context, (log, runtime, engine), batch_size) for _ in range(n_lanes)]


def _context(trt: Trt, engine: ICudaEngine, log: Log) -> IExecutionContext:
    """A context that allocates no activations. In TensorRT for RTX with kernels for the very shapes, as autotune's have."""
    if member(trt, "CudaGraphStrategy") is None:
        execution = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    else:
        execution = rtx_context(cast(RtxTrt, trt), cast(RtxICudaEngine, engine), "none", log)
    if execution is None:
        raise RuntimeError("TensorRT makes no execution context")
    return execution


def _lane(trt: Trt, driver: Any, context: Any, owned: tuple[Log, Runtime, ICudaEngine], batch_size: int) -> Lane:
    log, _, engine = owned
    execution = _context(trt, engine, log)
    stream = call(driver.cuStreamCreate, 1)  # CU_STREAM_NON_BLOCKING
    if not execution.set_optimization_profile_async(0, int(stream)):  # only the first context has it by itself
        raise RuntimeError("TensorRT does not choose the profile")
    call(driver.cuStreamSynchronize, stream)
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    given = [n for n in names if engine.get_tensor_mode(n).name == "INPUT"]
    for name in given:
        if not execution.set_input_shape(name, (batch_size, *tuple(execution.get_tensor_shape(name))[1:])):
            raise RuntimeError(f"TensorRT refuses the shape of {name}")
    host, device = {}, {}
    for name in names:
        dtype, shape = np.dtype(_DTYPES[engine.get_tensor_dtype(name).name]), tuple(execution.get_tensor_shape(name))
        n_bytes = math.prod(shape) * dtype.itemsize
        pointer = int(call(driver.cuMemHostAlloc, n_bytes, 0))
        host[name] = np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(pointer)).view(dtype).reshape(shape)
        device[name] = int(call(driver.cuMemAlloc, n_bytes))
        execution.set_tensor_address(name, device[name])
    n_bytes = max(1, execution.update_device_memory_size_for_shapes())
    memory = int(call(driver.cuMemAlloc, n_bytes))  # at a multiple of 256, as TensorRT wants
    set_device_memory = method(execution, "set_device_memory")  # since 10.1
    if set_device_memory is not None:
        set_device_memory(memory, n_bytes)
    else:
        execution.device_memory = memory

    def compute() -> None:
        if not execution.execute_async_v3(int(stream)):
            raise RuntimeError("TensorRT did not enqueue the execution")

    def everything() -> None:
        for name in given:
            call(driver.cuMemcpyHtoDAsync, device[name], host[name].ctypes.data, host[name].nbytes, stream)
        compute()
        for name in names:
            if name not in given:
                call(driver.cuMemcpyDtoHAsync, host[name].ctypes.data, device[name], host[name].nbytes, stream)

    for _ in range(2):
        everything()
    call(driver.cuStreamSynchronize, stream)
    whole, alone = _captured(driver, stream, everything), _captured(driver, stream, compute)
    keep = (execution, *owned)
    return Lane(
        staging={name: host[name] for name in given},
        begin=lambda: call(driver.cuCtxSetCurrent, context),
        launch=lambda: call(driver.cuGraphLaunch, whole, stream),
        launch_compute=lambda: call(driver.cuGraphLaunch, alone, stream),
        wait=lambda _keep=keep: call(driver.cuStreamSynchronize, stream),
    )


def _captured(driver: Any, stream: Any, work: Callable[[], None]) -> Any:
    call(driver.cuStreamBeginCapture, stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    work()
    return call(driver.cuGraphInstantiate, call(driver.cuStreamEndCapture, stream), 0)


def torch_lanes(
    compute: Callable[..., Any], example: Mapping[str, NDArray[Any]], n_lanes: int, *, device: str = "cuda:0"
) -> list[Lane]:
    """The same in torch: pinned tensors, copies, and torch.cuda.graph for the computation."""
    import torch

    pinned = device != "cpu"  # the tests' double of a GPU has no pinned memory

    def lane() -> Lane:
        kinds = {n: torch.from_numpy(np.empty(0, v.dtype)).dtype for n, v in example.items()}
        host = {n: torch.zeros(v.shape, dtype=kinds[n], pin_memory=pinned) for n, v in example.items()}
        there = {n: torch.zeros_like(t, device=device) for n, t in host.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):
                found = compute(*there.values())
        stream.synchronize()
        back = [torch.zeros(t.shape, dtype=t.dtype, pin_memory=pinned) for t in found]
        alone = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(alone, stream=stream):
            found = compute(*there.values())

        def launch_compute() -> None:
            with torch.cuda.stream(stream):
                alone.replay()

        def launch() -> None:
            with torch.inference_mode(), torch.cuda.stream(stream):
                for name, tensor in there.items():
                    tensor.copy_(host[name], non_blocking=True)
                alone.replay()
                for target, source in zip(back, found, strict=True):
                    target.copy_(source, non_blocking=True)

        return Lane(
            staging={n: t.numpy() for n, t in host.items()},
            begin=lambda: None,
            launch=launch,
            launch_compute=launch_compute,
            wait=stream.synchronize,
        )

    return [lane() for _ in range(n_lanes)]


def rate(
    lanes: Sequence[Lane],
    batches: Sequence[Mapping[str, NDArray[Any]]],
    batch_size: int,
    *,
    computing_only: bool,
    seconds: float,
    windows: int = 10,
) -> Estimate:
    """Items per second with a thread per lane, after a warm-up of a fifth of the time; the interval is over the windows."""
    counts, stop, errors = [0] * len(lanes), threading.Event(), []

    def drive(number: int, lane: Lane) -> None:
        try:
            lane.begin()
            n = number
            while not stop.is_set():
                if computing_only:
                    lane.launch_compute()
                else:
                    batch = batches[n % len(batches)]
                    for name, pinned in lane.staging.items():
                        np.copyto(pinned, batch[name], casting="same_kind")
                    lane.launch()
                lane.wait()
                counts[number] += 1
                n += 1
        except BaseException as exc:
            errors.append(exc)
            stop.set()

    threads = [threading.Thread(target=drive, args=pair, daemon=True) for pair in enumerate(lanes)]
    for thread in threads:
        thread.start()
    stop.wait(seconds / 5)
    edges = [(time.perf_counter(), sum(counts))]
    for _ in range(windows):
        stop.wait(seconds / windows)
        edges.append((time.perf_counter(), sum(counts)))
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return mean_estimate(np.array([(b[1] - a[1]) * batch_size / (b[0] - a[0]) for a, b in pairwise(edges)]))
