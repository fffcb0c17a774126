"""ONNX Runtime on an NVIDIA GPU: its CUDA provider and its TensorRT provider, never silently on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from autotune.candidate import Candidate, Scalar
from autotune.devices.gpu import Gpu, selected_gpu
from autotune.devices.precision import refused_by_tensorrt, refused_precisions
from autotune.engines.layers import LayerReport
from autotune.engines.onnxruntime_probe import why_provider_fails
from autotune.engines.onnxruntime_profile import profiled_layers
from autotune.engines.onnxruntime_session import OnnxRuntimeSession, create_session
from autotune.engines.protocol import Capabilities, Engine, Inputs
from autotune.errors import BuildFailed, EnvironmentProblem
from autotune.fingerprint import library_version
from autotune.variants.outline import outline_of
from autotune.variants.variant import ModelVariant, QuantScheme

_FILE = "model.onnx"
_HALF = ("fp16", "bf16")
_WEAK = ("weak-fp16", "weak-fp16-int8")
_TENSORRTS = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
_NO_CPU = "session.disable_cpu_ep_fallback"
"""Set, ONNX Runtime refuses a session of which one node would run on the CPU, instead of copying there and back."""

_Options = dict[str, str]


class OnnxRuntimeGpu:
    """What the two providers share. A subclass says which providers, knobs and precisions it has."""

    name: str
    build_knobs: frozenset[str]
    run_knobs: frozenset[str]
    preload: tuple[str, ...] = ("onnxruntime",)
    precisions: ClassVar[tuple[str, ...]]
    docs: ClassVar[Mapping[str, str]]
    extra_refusals: ClassVar[Mapping[str, str]] = {}
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu",)
    provider: ClassVar[str]

    def capabilities(self) -> Capabilities:
        """Available where the provider has computed something on this GPU, tried once in a process of its own."""
        if library_version("onnxruntime-gpu") is None:
            return self._unavailable("the package onnxruntime-gpu is not installed", "pip install 'autotune[cuda]'")
        try:
            gpu = selected_gpu()
        except EnvironmentProblem as exc:
            return self._unavailable(str(exc).partition(" Try: ")[0].rstrip("."), exc.remedy)
        reason = why_provider_fails(self.provider)
        if reason:
            return self._unavailable(reason, self._remedy(gpu, reason))
        refused = {**self._refused(gpu), **self.extra_refusals}
        return Capabilities(
            available=True,
            device="cuda",
            precisions=tuple(p for p in self.precisions if p not in refused),
            refused=refused,
            limits={"memory_pool_mib": (1, gpu.memory_mib)},
            distributions=self.distributions,
            knob_docs=self.docs,
        )

    def _refused(self, gpu: Gpu) -> dict[str, str]:
        return refused_precisions(self.precisions, gpu.compute_capability)

    def _unavailable(self, missing: str, remedy: str) -> Capabilities:
        return Capabilities(available=False, device="cuda", missing=missing, remedy=remedy, knob_docs=self.docs)

    def _remedy(self, gpu: Gpu, reason: str) -> str:
        if library_version("onnxruntime") is not None:
            # Two distributions with one import name: the files of whichever was installed last are there.
            return "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'autotune[cuda]'"
        if gpu.compute_capability < (7, 5):
            return "pip install 'autotune[v100]', whose onnxruntime-gpu 1.24 still has code for sm_70"
        return "pip install 'autotune[cuda]'"

    def scheme(self, precision: str) -> QuantScheme:
        """Symmetric int8 around 0 where TensorRT fuses it, on an fp32 graph.

        Not on an fp16 one: ONNX Runtime's own optimizations, which come before the provider, compute Q/DQ with fp16 scales
        around Clip wrongly (MobileNetV2 with ONNX Runtime 1.32: 0 % top-1, without them 78.5 %).
        """
        return QuantScheme(activations="int8", quantize_bias=False, placement="products")

    def open(self, engine: Engine, candidate: Candidate) -> OnnxRuntimeSession:
        """A session on the GPU, every node of it. Raises Unsupported naming what would have run elsewhere."""
        return self._session(engine.folder, candidate, building=False)

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """Providers with their options, as InferenceSession takes them."""
        return {
            "providers": [[name, options] for name, options in self.providers(candidate, None, building=False)],
            "session_config": {_NO_CPU: "1"},
            "concurrent_runs": candidate.streams,
        }

    def providers(self, candidate: Candidate, folder: Path | None, *, building: bool) -> list[tuple[str, _Options]]:
        """The providers in their order, with options. `folder`: where the engine's files lie, if they lie anywhere."""
        raise NotImplementedError("a provider's own class says what it asks for")

    def _session(self, folder: Path, candidate: Candidate, *, building: bool) -> OnnxRuntimeSession:
        import onnxruntime as ort

        cap = f"memory_pool_mib={candidate.memory_pool_mib}" if candidate.memory_pool_mib is not None else ""
        session = self._created(ort.SessionOptions(), folder, candidate, cap, building=building)
        return OnnxRuntimeSession(session, candidate.streams or 1, cap)

    def _created(self, options: Any, folder: Path, candidate: Candidate, cap: str, *, building: bool) -> Any:
        """An InferenceSession on the GPU alone."""
        load_gpu_libraries()
        options.log_severity_level = 3
        options.add_session_config_entry(_NO_CPU, "1")
        asked = self.providers(candidate, folder, building=building)
        return create_session(folder / _FILE, options, asked, stage="engine" if building else "open", cap=cap)


class OnnxRuntimeCuda(OnnxRuntimeGpu):
    """The CUDA provider. Streams are threads that call one session at once; each run gets a CUDA stream of its own."""

    name = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"
    build_knobs: frozenset[str] = frozenset()
    run_knobs = frozenset({"batch_size", "streams", "memory_pool_mib"})
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
        "streams": "threads that call run() on one session at the same time",
        "memory_pool_mib": "gpu_mem_limit of the arena (weights, activations, workspace; not the CUDA context)",
    }

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One caller, an arena without a cap."""
        return {"batch_size": 1, "streams": 1, "memory_pool_mib": None}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The graph itself: this provider fuses when it opens. A session is opened once, to learn whether it can be."""
        shutil.copyfile(variant.path, folder / _FILE)
        self._session(folder, candidate, building=True).close()

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """The nodes as this provider fused them, with the times of their kernels on the GPU."""

        def create(options: Any, optimized: Path) -> Any:
            options.optimized_model_filepath = str(optimized)
            return self._created(options, engine.folder, candidate, "", building=False)

        return profiled_layers(create, None, outline_of(engine.variant.path), batches, n_runs)

    def providers(self, candidate: Candidate, folder: Path | None, *, building: bool) -> list[tuple[str, _Options]]:
        """CUDA alone. Fixed choices, and why:

        * cudnn_conv_algo_search EXHAUSTIVE, with the largest workspace: found once per shape in the warm-up, never slower.
        * prefer_nhwc for 16-bit formats: tensor cores read channels last; in fp32 it would add transpositions only.
        * use_tf32 exactly where the precision says so: by default an fp32 graph would be measured in TF32.
        * arena: grown by what is asked for under a cap, because doubling would waste most of it; doubling without one.
        * no CUDA graph: it needs one session, with its weights, per stream and buffers at fixed addresses.
        """
        options = {
            "device_id": "0",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "prefer_nhwc": "1" if candidate.precision in _HALF else "0",
            "use_tf32": "1" if candidate.precision == "tf32" else "0",
            "arena_extend_strategy": "kNextPowerOfTwo" if candidate.memory_pool_mib is None else "kSameAsRequested",
        }
        if candidate.memory_pool_mib is not None:
            options["gpu_mem_limit"] = str(candidate.memory_pool_mib << 20)
        return [(self.provider, options)]


class OnnxRuntimeTensorRt(OnnxRuntimeGpu):
    """The TensorRT provider, with the CUDA provider for what TensorRT does not take. It runs one execution at a time."""

    name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"
    build_knobs = frozenset({"batch_size", "memory_pool_mib"})
    run_knobs: frozenset[str] = frozenset()
    precisions = ("fp32", "tf32", "fp16", "bf16", "int8", "int8-tensor", "fp16-sparse", *_WEAK)
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", *_TENSORRTS)
    extra_refusals: ClassVar[Mapping[str, str]] = {
        "fp8": "ONNX Runtime's own optimizations compute fp8 Q/DQ graphs wrongly, before the provider sees them",
        "int4": "not offered: whether the provider takes 4-bit weights was never tried",
    }
    docs: ClassVar[Mapping[str, str]] = {
        "precision": "fp32, tf32 (from sm_80), fp16, bf16 (from sm_80), int8, int8-tensor, fp16-sparse (from sm_80), "
        "weak-fp16, weak-fp16-int8",
        "batch_size": "the one batch of the optimization profile (min, opt and max)",
        "memory_pool_mib": "trt_max_workspace_size: scratch memory that the builder's tactics may use",
    }

    def _refused(self, gpu: Gpu) -> dict[str, str]:
        version = next((v for v in map(library_version, _TENSORRTS) if v is not None), None)
        lacking = {} if version is None else refused_by_tensorrt(self.precisions, version)  # None: it is no Python package
        return {**lacking, **super()._refused(gpu)}

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One sample, TensorRT's own workspace."""
        return {"batch_size": 1, "memory_pool_mib": None}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The graph beside the engine that TensorRT built from it, which opening takes from there."""
        import numpy as np

        from autotune.variants.graph import model_inputs

        shutil.copyfile(variant.path, folder / _FILE)
        wanted = model_inputs(variant.path)
        sample = {w.name: np.zeros((candidate.batch_size, *(n or 1 for n in w.sample_shape)), w.dtype) for w in wanted}
        with self._session(folder, candidate, building=True) as session:
            session.submit(sample, 0)  # the engine is built by the time that the first run ends
            session.wait(0)
        if not list(folder.glob("*.engine")):
            raise BuildFailed(
                "ONNX Runtime's TensorRT provider took no part of this graph: no engine was built", stage="engine"
            )

    def providers(self, candidate: Candidate, folder: Path | None, *, building: bool) -> list[tuple[str, _Options]]:
        """TensorRT, then CUDA. The graph carries its types; the flags let TensorRT keep to them, and go lower only where the
        precision is "weak-…".

        The timing cache is kept beside the engine while it is built and not touched afterwards: artifacts do not change.
        No CUDA graph and no second stream: the provider locks its one execution context for each run.
        """
        options = {
            "device_id": "0",
            "trt_fp16_enable": str("fp16" in candidate.precision),
            "trt_bf16_enable": str(candidate.precision == "bf16"),
            "trt_int8_enable": str("int8" in candidate.precision),
            "trt_sparsity_enable": str(candidate.precision == "fp16-sparse"),
            "trt_engine_cache_enable": "True",
        }
        if candidate.memory_pool_mib is not None:
            options["trt_max_workspace_size"] = str(candidate.memory_pool_mib << 20)
        if folder is not None:
            options["trt_engine_cache_path"] = str(folder)
            shapes = _profile(folder / _FILE, candidate.batch_size)
            options |= {f"trt_profile_{end}_shapes": shapes for end in ("min", "opt", "max")}
            if building:
                options |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(folder)}
        rest = {"device_id": "0", "use_tf32": "1" if candidate.precision == "tf32" else "0"}
        return [(self.provider, options), ("CUDAExecutionProvider", rest)]


def _profile(path: Path, batch_size: int) -> str:
    """The provider's spelling of the inputs' shapes: "name:8x3x224x224,other:8x1". Raises BuildFailed on a second free size."""
    from autotune.variants.graph import model_inputs

    parts = []
    for wanted in model_inputs(path):
        if None in wanted.sample_shape:
            raise BuildFailed(f"the input {wanted} has a size that is not known beside the batch", stage="engine")
        parts.append(f"{wanted.name}:" + "x".join(map(str, (batch_size, *wanted.sample_shape))))
    return ",".join(parts)


def load_gpu_libraries() -> None:
    """CUDA, cuDNN and TensorRT from their Python packages are loaded, where they are there; ONNX Runtime then finds them."""
    from importlib import import_module
    from importlib.util import find_spec

    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):  # since 1.21
        ort.preload_dlls()
    if find_spec("tensorrt_libs") is not None:
        import_module("tensorrt_libs")
