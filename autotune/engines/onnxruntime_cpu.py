"""ONNX Runtime on the CPU: its default execution provider, with one intra-op pool and one arena per trial."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.candidate import Candidate, Scalar
from autotune.engines.layers import LayerReport
from autotune.engines.onnxruntime_profile import profiled_layers
from autotune.engines.onnxruntime_session import OnnxRuntimeSession, create_session
from autotune.engines.protocol import Capabilities, Engine, Inputs
from autotune.errors import Unsupported
from autotune.fingerprint import onnxruntime_version, usable_cores
from autotune.variants.outline import outline_of
from autotune.variants.variant import ModelVariant, QuantScheme

_log = logging.getLogger(__name__)
_PROVIDER = "CPUExecutionProvider"
_FILE = "model.onnx"
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
        if onnxruntime_version() is None:
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
            distributions=("onnxruntime", "onnxruntime-gpu"),
            knob_docs=_DOCS,
            partial_batches=True,
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
        create_session(variant.path, options, [(_PROVIDER, {})], stage="engine")

    def open(self, engine: Engine, candidate: Candidate) -> OnnxRuntimeSession:
        """A session on the saved graph with the candidate's threads and arena."""
        import onnxruntime as ort

        session, cap = self._session(ort.SessionOptions(), engine, candidate)
        return OnnxRuntimeSession(session, candidate.streams or 1, cap)

    def _session(self, options: Any, engine: Engine, candidate: Candidate) -> tuple[Any, str]:
        """An InferenceSession with the candidate's threads and arena, and the cap in words."""
        import onnxruntime as ort

        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = candidate.worker_threads or 0
        if candidate.memory_pool_mib is not None:
            _cap_arena(candidate.memory_pool_mib)
            options.add_session_config_entry("session.use_env_allocators", "1")
        cap = f"memory_pool_mib={candidate.memory_pool_mib}" if candidate.memory_pool_mib is not None else ""
        return create_session(engine.folder / _FILE, options, [(_PROVIDER, {})], stage="open", cap=cap), cap

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """The nodes of the saved graph, timed by ONNX Runtime's profiler."""
        return profiled_layers(
            lambda options, _: self._session(options, engine, candidate)[0],
            engine.folder / _FILE,
            outline_of(engine.variant.path),
            batches,
            n_runs,
        )

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """SessionOptions and arena settings."""
        return {
            "providers": [_PROVIDER],
            "intra_op_num_threads": candidate.worker_threads,
            "concurrent_runs": candidate.streams,
            "arena_max_mem_bytes": None if candidate.memory_pool_mib is None else candidate.memory_pool_mib << 20,
        }


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
