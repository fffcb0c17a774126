"""What an engine made of a graph, layer by layer, and where its time goes: what `autotune explain` reads.

A backend that can tell implements `Explains` beside `Backend`; one that cannot is left without an explanation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from autotune.candidate import Candidate
from autotune.engines.protocol import Engine, Inputs

LayerRole = Literal["compute", "reformat", "copy", "quantize", "other"]
"""compute: the model's own work. reformat: another memory layout. quantize: Q, DQ or casts between number formats that were
not fused. copy: tensors moved without change. other: what fits none (constants, shape arithmetic)."""

N_WARM_UPS = 3
"""Executions before those that are profiled: engines choose kernels and allocate in the first ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One executed layer. `nodes`: names of the ONNX nodes fused in it, where the engine tells; a node is in one layer only.

    `precision`: the number format it computes in ("fp32", "int8", …), "" where unknown. `time_us`: mean time of one execution
    of the layer for the whole batch; None where it was not measured. `kernel`: the engine's own name of the implementation.
    `provider`: which of several executors inside the engine ran it ("TensorRT", "CUDA", "CPU"), "" where there is only one.
    """

    name: str
    kind: str
    role: LayerRole
    precision: str = ""
    time_us: float | None = None
    kernel: str = ""
    nodes: tuple[str, ...] = ()
    provider: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """All layers of an engine in their order. `total_us`: one execution's time by the profiler, which is slower than without.

    `n_runs`: profiled executions behind the means; 0 where the engine was inspected and not run. `runs_us`: the time of each,
    whose mean is `total_us`; empty where only the mean is known. `vanished`: nodes of the graph that are in no layer, such as
    those folded into constants. `notes`: what the reader must know of the method.
    """

    layers: tuple[Layer, ...]
    total_us: float | None
    n_runs: int
    method: str
    notes: tuple[str, ...] = ()
    runs_us: tuple[float, ...] = ()
    vanished: tuple[str, ...] = ()


@runtime_checkable
class Explains(Protocol):
    """A backend whose engines can be looked into."""

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """The engine's layers, with times where this machine can run it. `batches`: real samples of the candidate's batch size.

        One execution at a time: `candidate` names one stream at most. Raises what `build` and `open` raise, and Unsupported
        where this engine cannot tell its layers.
        """
        ...
