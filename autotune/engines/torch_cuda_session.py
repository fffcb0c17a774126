"""A torch module on a GPU with a stream per slot: copies in, computation and copies out are enqueued, `wait` synchronizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from autotune.engines.protocol import Inputs, Outputs
from autotune.engines.torch_computation import Computation, ordered_inputs, rejection
from autotune.errors import Unstable
from autotune.variants.make import InputSpec

_WARM_UPS = 3
"""Calls before a capture: cuDNN tries its algorithms and the allocator grows in them, neither of which may happen inside."""


@dataclass(slots=True)
class _Lane:
    """What one slot owns. Host tensors are pinned, so copies run beside computation; all tensors keep their addresses."""

    stream: Any
    host_inputs: dict[str, Any]
    device_inputs: dict[str, Any]
    device_outputs: tuple[Any, ...]
    host_outputs: tuple[Any, ...]
    run: Callable[[], tuple[Any, ...]]


class TorchCudaSession:
    """One module's weights, shared by `slots` streams. A slot belongs to one thread; slots do not wait for each other."""

    def __init__(
        self,
        compute: Computation,
        wanted: tuple[InputSpec, ...],
        names: list[str],
        *,
        slots: int,
        batch_size: int,
        captured: bool,
        device: str,
    ) -> None:
        self.slots = slots
        self._wanted, self._names, self._batch_size = wanted, names, batch_size
        try:
            # One after the other: a capture forbids what other threads' allocations would do to the device meanwhile.
            self._lanes = [_lane(compute, wanted, batch_size, captured=captured, device=device) for _ in range(slots)]
        except Exception as exc:
            raise rejection(exc, "open") from exc

    def submit(self, inputs: Inputs, slot: int) -> None:
        """Copies in, the forward pass and copies out are on the slot's stream. Raises Unstable or OutOfMemory."""
        import torch

        lane = self._lanes[slot]
        given = ordered_inputs(inputs, self._wanted)
        for name, values in given.items():
            if len(values) != self._batch_size:
                raise Unstable(f"{name} has a batch of {len(values)}; this session is for {self._batch_size}", stage="load")
            np.copyto(lane.host_inputs[name].numpy(), values, casting="same_kind")
        try:
            with torch.inference_mode(), torch.cuda.stream(lane.stream):
                for name, tensor in lane.device_inputs.items():
                    tensor.copy_(lane.host_inputs[name], non_blocking=True)
                lane.device_outputs = lane.run()
                for there, here in zip(lane.device_outputs, lane.host_outputs, strict=True):
                    here.copy_(there, non_blocking=True)
        except Exception as exc:
            raise rejection(exc, "load") from exc

    def wait(self, slot: int) -> Outputs:
        """Views of the slot's pinned outputs, valid until its next submit. Raises Unstable when a kernel failed."""
        lane = self._lanes[slot]
        try:
            lane.stream.synchronize()
        except Exception as exc:
            raise rejection(exc, "load") from exc
        return {name: tensor.numpy() for name, tensor in zip(self._names, lane.host_outputs, strict=True)}

    def close(self) -> None:
        """Streams, graphs, buffers and the module are released."""
        self._lanes = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lane(compute: Computation, wanted: tuple[InputSpec, ...], batch_size: int, *, captured: bool, device: str) -> _Lane:
    """A slot's stream and buffers, warmed up, and its graph where the engine captures."""
    import torch

    pinned = device != "cpu"  # the tests' double of a GPU has no pinned memory
    shapes = {w.name: (batch_size, *(n or 1 for n in w.sample_shape)) for w in wanted}
    host = {
        w.name: torch.zeros(shapes[w.name], dtype=getattr(torch, str(np.dtype(w.dtype))), pin_memory=pinned) for w in wanted
    }
    there = {name: torch.zeros_like(tensor, device=device) for name, tensor in host.items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # the weights and zeros were written there

    def forward() -> tuple[Any, ...]:
        return compute(*there.values())

    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            found = forward()
    stream.synchronize()
    run = forward
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph, stream=stream):
            found = forward()
        run = _replayed(graph, found)
    results = tuple(torch.zeros(t.shape, dtype=t.dtype, pin_memory=pinned) for t in found)
    return _Lane(stream=stream, host_inputs=host, device_inputs=there, device_outputs=found, host_outputs=results, run=run)


def _replayed(graph: Any, outputs: tuple[Any, ...]) -> Callable[[], tuple[Any, ...]]:
    def replay() -> tuple[Any, ...]:
        graph.replay()
        return outputs

    return replay
