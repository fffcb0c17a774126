"""PyTorch on the CPU: the model as torch runs it for everybody, eager or compiled by Inductor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which
from typing import Any, Self

import numpy as np

from autotune.candidate import Candidate, Scalar
from autotune.engines.layers import LayerReport
from autotune.engines.protocol import Capabilities, Engine, Inputs, Outputs
from autotune.engines.torch_computation import (
    MODEL,
    REFUSALS,
    Computation,
    as_function,
    called,
    compiled_function,
    loaded_function,
    loaded_module,
    ordered_inputs,
    output_names,
    rejection,
    write_checked_model,
)
from autotune.engines.torch_profile import COMPILED, profiled_layers
from autotune.errors import Unsupported
from autotune.fingerprint import library_version, usable_cores
from autotune.variants.graph import model_inputs
from autotune.variants.make import InputSpec
from autotune.variants.outline import outline_of
from autotune.variants.variant import ModelVariant, QuantScheme

_PRECISIONS = ("fp32", "fp16", "bf16", "amp-bf16")
_DOCS = {
    "precision": "fp32, fp16, bf16 (weights and activations), amp-bf16 (autocast: fp32 weights); no Q/DQ graphs",
    "batch_size": "first dimension of the tensors",
    "streams": "threads that call the module at the same time",
    "worker_threads": "torch.set_num_threads: intra-op threads, divided among the streams",
}


class TorchCpu:
    """The eager engine. Streams are threads that call one module at once, each with its share of the worker threads."""

    name = "torch"
    compiled = False
    build_knobs: frozenset[str] = frozenset()
    run_knobs = frozenset({"batch_size", "streams", "worker_threads"})
    preload: tuple[str, ...] = ("torch",)

    def capabilities(self) -> Capabilities:
        """Available when torch and onnx2torch are installed; offered where no faster engine is, or by name."""
        lacking = [d for d in ("torch", "onnx2torch") if library_version(d) is None]
        if lacking:
            missing = f"the package {lacking[0]} is not installed"
            return Capabilities(available=False, missing=missing, remedy="pip install 'autotune[torch]'", knob_docs=_DOCS)
        if self.compiled and not any(map(which, ("g++", "c++", "clang++"))):
            missing = "torch.compile needs a C++ compiler, and there is no g++, c++ or clang++ in PATH"
            return Capabilities(available=False, missing=missing, remedy="apt-get install g++", knob_docs=_DOCS)
        return Capabilities(
            available=True,
            precisions=_PRECISIONS,
            refused=REFUSALS,
            limits={"worker_threads": (1, usable_cores()), "streams": (1, 4 * usable_cores())},
            distributions=("torch", "onnx2torch"),
            knob_docs=_DOCS,
            offered="only by name" if self.compiled else "if nothing else runs",
        )

    def scheme(self, precision: str) -> QuantScheme:
        """The default; this engine takes no integer graphs."""
        return QuantScheme()

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One caller on all cores."""
        return {"batch_size": 1, "streams": 1, "worker_threads": usable_cores()}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The graph, after torch's form of it has given the graph's own answers."""
        write_checked_model(variant, folder)

    def open(self, engine: Engine, candidate: Candidate) -> TorchCpuSession:
        """The module ready to run; compiled for the candidate's batch where this engine compiles."""
        _set_threads(candidate)
        wanted = model_inputs(engine.folder / MODEL)
        compute = loaded_function(engine.folder, candidate.precision, "cpu")
        if self.compiled:
            compute = compiled_function(compute)
            _run_once(compute, wanted, candidate.batch_size)
        return TorchCpuSession(compute, wanted, output_names(engine.folder / MODEL), candidate.streams or 1)

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """The nodes of the graph as torch's operations, timed by torch.profiler. Raises Unsupported where they are compiled."""
        if self.compiled:
            raise Unsupported(COMPILED, stage="profile")
        _set_threads(candidate)
        path = engine.folder / MODEL
        module = loaded_module(engine.folder)
        compute = as_function(module, candidate.precision, "cpu")
        session = TorchCpuSession(compute, model_inputs(path), output_names(path), 1)
        return profiled_layers(session, module, outline_of(path), batches, n_runs, on_gpu=False)

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """What a program sets to run the module in the same way."""
        threads = None if candidate.worker_threads is None else max(1, candidate.worker_threads // (candidate.streams or 1))
        return {
            "compile": {"dynamic": False} if self.compiled else None,
            "autocast": candidate.precision.removeprefix("amp-") if candidate.precision.startswith("amp-") else None,
            "dtype": "fp32" if candidate.precision.startswith("amp-") else candidate.precision,
            "memory_format": "channels_last",
            "num_threads": threads,
            "concurrent_calls": candidate.streams,
        }


class TorchCompileCpu(TorchCpu):
    """The engine whose module Inductor has compiled for one batch; opening it takes seconds to minutes."""

    name = "torch-compile"
    compiled = True


class TorchCpuSession:
    """One module; `wait` calls it on the calling thread, so each slot's thread is a stream."""

    def __init__(self, compute: Computation, wanted: tuple[InputSpec, ...], names: list[str], slots: int) -> None:
        self.slots = slots
        self._compute, self._wanted, self._names = compute, wanted, names
        self._pending: list[Inputs] = [{}] * slots

    def submit(self, inputs: Inputs, slot: int) -> None:
        """The inputs are remembered; the slot's own thread does the work in `wait`. Raises Unstable on wrong ones."""
        self._pending[slot] = ordered_inputs(inputs, self._wanted)

    def wait(self, slot: int) -> Outputs:
        """The outputs by name. Raises OutOfMemory, or Unstable on any other failure."""
        try:
            values = called(self._compute, self._pending[slot])
        except Exception as exc:
            raise rejection(exc, "load") from exc
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """The module is released."""
        self._compute = _closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _set_threads(candidate: Candidate) -> None:
    """torch computes with the share of the candidate's threads that each of its streams has."""
    import torch

    if candidate.worker_threads is not None:
        torch.set_num_threads(max(1, candidate.worker_threads // (candidate.streams or 1)))


def _run_once(compute: Computation, wanted: tuple[InputSpec, ...], batch_size: int) -> None:
    """Compilation happens in the first call; here it is part of opening, and its failure is one to open."""
    try:
        called(compute, {w.name: np.ones((batch_size, *(n or 1 for n in w.sample_shape)), w.dtype) for w in wanted})
    except Exception as exc:
        raise rejection(exc, "open") from exc


def _closed(*_: Any) -> tuple[Any, ...]:
    raise RuntimeError("the session is closed")
