"""ONNX Runtime's CUDA provider."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from autotune.candidate import Candidate, Scalar
from autotune.engines.onnxruntime_gpu import MODEL, OnnxRuntimeGpu, Options, n_sessions
from autotune.variants.variant import ModelVariant

_HALF = ("fp16", "bf16")
_WEAK = ("weak-fp16", "weak-fp16-int8")
_GROWTH = {"doubling": "kNextPowerOfTwo", "as_requested": "kSameAsRequested"}


class OnnxRuntimeCuda(OnnxRuntimeGpu):
    """The CUDA provider. Streams are threads that call one session at once; each run gets a CUDA stream of its own."""

    name = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"
    build_knobs: frozenset[str] = frozenset()
    run_knobs = frozenset({"batch_size", "streams", "memory_pool_mib", "cuda_graph", "layout", "conv_search", "arena_growth"})
    keeps_graph = True
    precisions = ("fp32", "tf32", "fp16", "bf16")
    extra_refusals: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("int8", "int8-tensor"),
            "the CUDA provider computes Q/DQ graphs in floating point; onnxruntime-tensorrt has int8 kernels",
        ),
        **dict.fromkeys(("fp8", "int4"), "the CUDA provider computes Q/DQ graphs in floating point"),
        "fp16-sparse": "the CUDA provider has no sparse kernels; onnxruntime-tensorrt has them",
        **dict.fromkeys(_WEAK, "a choice of TensorRT's builder; onnxruntime-tensorrt has it"),
    }
    docs: ClassVar[Mapping[str, str]] = {
        "precision": "fp32, tf32 (from sm_80), fp16, bf16 (from sm_80)",
        "batch_size": "first dimension of the tensors given to run()",
        "streams": "threads that call run() on one session at the same time; with cuda_graph, a session for each",
        "memory_pool_mib": "gpu_mem_limit of the arena (weights, activations, workspace; not the CUDA context), divided among "
        "the sessions",
        "cuda_graph": "on: enable_cuda_graph, a session with the weights and a graph for each stream",
        "layout": "prefer_nhwc; null: nhwc in 16 bits, else nchw",
        "conv_search": "cudnn_conv_algo_search; null: exhaustive",
        "arena_growth": "arena_extend_strategy; null: doubling without a memory_pool_mib, as_requested with one",
    }

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One caller, an arena without a cap, no graph."""
        return {"batch_size": 1, "streams": 1, "memory_pool_mib": None, "cuda_graph": "off"}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The graph itself: this provider fuses when it opens. A session is opened once, to learn whether it can be."""
        shutil.copyfile(variant.path, folder / MODEL)
        # Whether a graph can be captured is no property of the file: that is learnt when it is opened.
        self._session(folder, replace(candidate, cuda_graph="off"), building=True).close()

    def providers(self, candidate: Candidate, folder: Path | None, *, building: bool) -> list[tuple[str, Options]]:
        """CUDA alone. What a candidate leaves open, and why it is as it is:

        * cudnn_conv_algo_search EXHAUSTIVE, with the largest workspace: found once per shape in the warm-up, never slower.
        * prefer_nhwc for 16-bit formats: tensor cores read channels last; in fp32 it may add transpositions only.
        * use_tf32 exactly where the precision says so: by default an fp32 graph would be measured in TF32.
        * arena: grown by what is asked for under a cap, because doubling would waste most of it; doubling without one.
        """
        cap_mib = candidate.memory_pool_mib
        growth = candidate.arena_growth or ("doubling" if cap_mib is None else "as_requested")
        layout = candidate.layout or ("nhwc" if candidate.precision in _HALF else "nchw")
        options = {
            "device_id": "0",
            "cudnn_conv_algo_search": (candidate.conv_search or "exhaustive").upper(),
            "cudnn_conv_use_max_workspace": "1",
            "prefer_nhwc": "1" if layout == "nhwc" else "0",
            "use_tf32": "1" if candidate.precision == "tf32" else "0",
            "arena_extend_strategy": _GROWTH[growth],
            "enable_cuda_graph": "1" if candidate.cuda_graph == "on" else "0",
        }
        if cap_mib is not None:
            options["gpu_mem_limit"] = str((cap_mib << 20) // n_sessions(candidate))
        return [(self.provider, options)]
