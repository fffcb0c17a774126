"""ONNX Runtime sessions that replay a CUDA graph: one InferenceSession per slot, bound to fixed addresses on the GPU.

What ONNX Runtime documents of it (CUDA Execution Provider, "Using CUDA Graphs") decides the form: shapes are fixed, inputs and
outputs are bound to device memory that stays where it is, new inputs are copied there, and a session is run by one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from autotune.engines.onnxruntime_session import rejection
from autotune.engines.protocol import Inputs, Outputs
from autotune.errors import BuildFailed, CandidateRejected, Unstable, Unsupported

_RUNS_TO_CAPTURE = 3
"""The first run captures, says the documentation; the providers themselves count two regular runs before a capture
(`min_num_runs_before_cuda_graph_capture_`), which some releases leave to the caller."""
_DTYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip


@dataclass(slots=True)
class _Bound:
    """A session with its graph captured. The values keep their addresses as long as it lives."""

    session: Any
    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class OnnxRuntimeGraphSession:
    """A captured graph per slot. Each slot's session is made, captured and run by one thread of its own.

    Both providers keep a captured graph in the context of the thread that captured it, so the caller's threads never run one:
    `submit` hands the inputs over and returns, `wait` waits.
    """

    def __init__(self, create: Callable[[], Any], slots: int, batch_size: int, cap: str = "") -> None:
        self.slots = slots
        self._cap = cap
        self._threads = [ThreadPoolExecutor(1, f"onnxruntime-graph-{slot}") for slot in range(slots)]
        self._lanes: list[_Bound] = []
        self._pending: list[Future[Outputs] | None] = [None] * slots
        try:
            # One after the other: while a graph is captured, another thread's allocation would break it.
            for thread in self._threads:
                self._lanes.append(thread.submit(_captured, create, batch_size).result())
        except Exception as exc:
            self.close()
            if isinstance(exc, CandidateRejected):
                raise
            raise rejection(exc, BuildFailed, "open", cap) from exc

    def submit(self, inputs: Inputs, slot: int) -> None:
        """The slot's thread copies the inputs, replays and copies back. Raises Unstable on inputs of another form."""
        lane = self._lanes[slot]
        if set(inputs) != set(lane.inputs):
            raise Unstable(
                f"the inputs are {', '.join(sorted(inputs))}; this session has {', '.join(lane.inputs)}", stage="load"
            )
        for name, value in lane.inputs.items():
            given, bound = inputs[name], tuple(value.shape())
            if given.shape != bound:
                raise Unstable(f"{name} has the shape {given.shape}; the captured graph has {bound}", stage="load")
        self._pending[slot] = self._threads[slot].submit(_replayed, lane, inputs)

    def wait(self, slot: int) -> Outputs:
        """The outputs by name, copies of the slot's own. Raises OutOfMemory or Unstable."""
        pending = self._pending[slot]
        if pending is None:
            raise Unstable(f"nothing was submitted on slot {slot}", stage="load")
        try:
            return pending.result()
        except Exception as exc:
            raise rejection(exc, Unstable, "load", self._cap) from exc

    def close(self) -> None:
        """Graphs, buffers and sessions are released, each by the thread that made it."""
        self._pending = [None] * self.slots
        lanes, self._lanes = self._lanes, []
        threads, self._threads = self._threads, []
        for thread in threads:
            lane = lanes.pop(0) if lanes else None
            if lane is not None:
                thread.submit(_released, lane)
            del lane
            thread.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _captured(create: Callable[[], Any], batch_size: int) -> _Bound:
    """A session with its buffers bound and its graph captured, in the calling thread. Raises Unsupported on an open size."""
    import onnxruntime as ort

    session = create()
    binding = session.io_binding()
    inputs, outputs = {}, {}
    for node in session.get_inputs():
        zeros = np.zeros(_fixed_shape(node, batch_size), _dtype(node))
        inputs[node.name] = ort.OrtValue.ortvalue_from_numpy(zeros, "cuda", 0)
        binding.bind_ortvalue_input(node.name, inputs[node.name])
    for node in session.get_outputs():
        shape = list(_fixed_shape(node, batch_size))
        outputs[node.name] = ort.OrtValue.ortvalue_from_shape_and_type(shape, _dtype(node), "cuda", 0)
        binding.bind_ortvalue_output(node.name, outputs[node.name])
    for _ in range(_RUNS_TO_CAPTURE):
        session.run_with_iobinding(binding)
    return _Bound(session=session, binding=binding, inputs=inputs, outputs=outputs)


def _replayed(lane: _Bound, inputs: Inputs) -> Outputs:
    for name, value in lane.inputs.items():
        value.update_inplace(np.ascontiguousarray(inputs[name]))
    lane.session.run_with_iobinding(lane.binding)
    return {name: value.numpy() for name, value in lane.outputs.items()}


def _released(lane: _Bound) -> None:
    """The binding first: it refers to the session and to the values."""
    lane.binding = None
    lane.inputs, lane.outputs = {}, {}
    lane.session = None


def _fixed_shape(node: Any, batch_size: int) -> tuple[int, ...]:
    """The shape with the batch in its first place, where that is open. Raises Unsupported where another size is."""
    shape = tuple(node.shape)
    if shape and not isinstance(shape[0], int):
        shape = (batch_size, *shape[1:])
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise Unsupported(
            f"cuda_graph=on: {node.name} has the shape {list(node.shape)}, of which more than the batch is open; a captured "
            "graph needs fixed sizes",
            stage="open",
        )
    return shape


def _dtype(node: Any) -> Any:
    if node.type not in _DTYPES:
        raise Unsupported(f"cuda_graph=on: {node.name} is a {node.type}, which numpy cannot hold", stage="open")
    return _DTYPES[node.type]
