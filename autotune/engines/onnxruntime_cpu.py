"""ONNX Runtime on the CPU: its default execution provider, with one intra-op pool and one arena per trial."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from autotune.candidate import Candidate, Scalar
from autotune.engines.protocol import Capabilities, Engine, Inputs, Outputs
from autotune.errors import BuildFailed, OutOfMemory, Unstable, Unsupported
from autotune.fingerprint import library_version, usable_cores
from autotune.variants.variant import ModelVariant, QuantScheme

_log = logging.getLogger(__name__)
_PROVIDER = "CPUExecutionProvider"
_FILE = "model.onnx"
_OUT_OF_MEMORY = ("smaller than requested bytes", "bad_alloc", "Failed to allocate memory")
_registered_pool_mib: int | None = None

_DOCS = {
    "precision": "fp32, fp16 (cast to fp32 and back: slower on x86), int8, int8-tensor; no bf16",
    "batch_size": "first dimension of the tensors given to run()",
    "streams": "threads that call run() on one session at the same time",
    "worker_threads": "intra_op_num_threads: the pool that all streams share, each stream's own thread included",
    "memory_pool_mib": "max_mem of the session's arena (activations and workspace; weights lie outside)",
}


class OnnxRuntimeCpu:
    """The backend. Streams are threads that call one session at once; they share its intra-op pool of worker threads."""

    name = "onnxruntime"
    build_knobs: frozenset[str] = frozenset()
    run_knobs = frozenset({"batch_size", "streams", "worker_threads", "memory_pool_mib"})
    preload = ("onnxruntime",)

    def capabilities(self) -> Capabilities:
        """Available when onnxruntime is installed."""
        if not any(library_version(d) for d in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")):
            return Capabilities(
                available=False,
                missing="the package onnxruntime is not installed",
                remedy="pip install 'autotune[onnxruntime]'",
            )
        return Capabilities(
            available=True,
            precisions=("fp32", "fp16", "int8", "int8-tensor"),
            refused={"bf16": "ONNX Runtime's CPU provider has no bfloat16 convolution"},
            limits={"worker_threads": (1, usable_cores()), "streams": (1, 4 * usable_cores())},
            distributions=("onnxruntime",),
            knob_docs=_DOCS,
        )

    def scheme(self, precision: str) -> QuantScheme:
        """Asymmetric uint8 activations: the form whose kernels are fast on x86 (VNNI multiplies u8 by s8)."""
        return QuantScheme(activations="uint8", quantize_bias=True)

    def defaults(self) -> Mapping[str, Scalar | None]:
        """What a user gets who only names the model: all cores, one caller, an arena without a cap."""
        return {"batch_size": 1, "streams": 1, "worker_threads": usable_cores(), "memory_pool_mib": None}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The graph as ONNX Runtime optimizes it for this CPU, saved so that opening it repeats nothing."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(folder / _FILE)
        options.log_severity_level = 3
        _create(variant.path, options, stage="engine")

    def open(self, engine: Engine, candidate: Candidate) -> OnnxRuntimeSession:
        """A session on the saved graph with the candidate's threads and arena."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = candidate.worker_threads or 0
        if candidate.memory_pool_mib is not None:
            _cap_arena(candidate.memory_pool_mib)
            options.add_session_config_entry("session.use_env_allocators", "1")
        return OnnxRuntimeSession(_create(engine.folder / _FILE, options, stage="open"), candidate.streams or 1)

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """SessionOptions and arena settings."""
        return {
            "providers": [_PROVIDER],
            "intra_op_num_threads": candidate.worker_threads,
            "concurrent_runs": candidate.streams,
            "arena_max_mem_bytes": None if candidate.memory_pool_mib is None else candidate.memory_pool_mib << 20,
        }


class OnnxRuntimeSession:
    """One InferenceSession; `wait` runs the model on the calling thread, so each slot's thread is a stream."""

    def __init__(self, session: Any, slots: int) -> None:
        self.slots = slots
        self._session = session
        self._names = [o.name for o in session.get_outputs()]
        self._pending: list[Inputs | None] = [None] * slots

    def submit(self, inputs: Inputs, slot: int) -> None:
        """The inputs are remembered; the slot's own thread does the work in `wait`."""
        self._pending[slot] = inputs

    def wait(self, slot: int) -> Outputs:
        """The outputs by name. Raises OutOfMemory when the arena's cap is reached, Unstable on any other failure."""
        try:
            values = self._session.run(self._names, self._pending[slot])
        except Exception as exc:
            raise _rejection(exc, Unstable, "load") from exc
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """The session and its arena are released."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _create(path: Path, options: Any, *, stage: str) -> Any:
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(str(path), options, providers=[_PROVIDER])
    except Exception as exc:  # onnxruntime raises a dozen unrelated pybind classes
        raise _rejection(exc, BuildFailed, stage) from exc
    if session.get_providers() != [_PROVIDER]:
        raise Unsupported(f"ONNX Runtime was asked for {_PROVIDER} and took {session.get_providers()}", stage=stage)
    return session


def _rejection(exc: Exception, otherwise: type[BuildFailed] | type[Unstable], stage: str) -> Exception:
    text = str(exc)
    if isinstance(exc, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        cap = f" with memory_pool_mib={_registered_pool_mib}" if _registered_pool_mib else ""
        return OutOfMemory(f"ONNX Runtime's arena ran out{cap}: {text.rpartition('Stream*) ')[2] or text}", stage=stage)
    if "NOT_IMPLEMENTED" in text:
        return Unsupported(f"ONNX Runtime: {text}", stage=stage)
    return otherwise(f"ONNX Runtime: {text}", stage=stage)


def _cap_arena(mib: int) -> None:
    """This process's shared arena holds at most `mib`. ONNX Runtime registers one such arena per process and device."""
    global _registered_pool_mib
    if _registered_pool_mib == mib:
        return
    if _registered_pool_mib is not None:
        raise Unsupported(
            f"memory_pool_mib={mib}: this process already holds an arena of {_registered_pool_mib} MiB, and ONNX Runtime keeps "
            "one per process; run the candidate in a process of its own",
            stage="open",
        )
    import onnxruntime as ort

    # 1 = kSameAsRequested: doubling, the default, would round every request up and waste most of a tight cap.
    arena = ort.OrtArenaCfg({"max_mem": mib << 20, "arena_extend_strategy": 1})
    device = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(device, arena)
    _registered_pool_mib = mib
