"""ONNX Runtime's TensorRT provider, with its CUDA provider for what TensorRT does not take."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from autotune.candidate import Candidate, Scalar
from autotune.devices.gpu import Gpu, selected_gpu
from autotune.devices.precision import refused_by_tensorrt
from autotune.engines.onnxruntime_gpu import MODEL, OnnxRuntimeGpu, Options
from autotune.errors import BuildFailed
from autotune.fingerprint import digest_of, library_version
from autotune.variants.variant import ModelVariant

_log = logging.getLogger(__name__)
_WEAK = ("weak-fp16", "weak-fp16-int8")
_TENSORRTS = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
_LOCK_TIMEOUT_S = 60.0


class OnnxRuntimeTensorRt(OnnxRuntimeGpu):
    """The TensorRT provider, with the CUDA provider for what TensorRT does not take. It runs one execution at a time."""

    name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"
    build_knobs = frozenset({"batch_size", "memory_pool_mib", "builder_level"})
    run_knobs = frozenset({"cuda_graph"})
    keeps_graph = False
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
        "builder_level": "trt_builder_optimization_level: 3 is TensorRT's default, 5 compiles and times the most kernels",
        "cuda_graph": "on: trt_cuda_graph_enable, where TensorRT takes the whole graph",
    }

    def __init__(self) -> None:
        self._kept: Path | None = None
        self._timings: Path | None = None

    def keep_timings(self, folder: Path) -> None:
        """Kernels that one build timed are not timed again by the next on the same device and releases."""
        self._kept = folder

    def _refused(self, gpu: Gpu) -> dict[str, str]:
        version = next((v for v in map(library_version, _TENSORRTS) if v is not None), None)
        lacking = {} if version is None else refused_by_tensorrt(self.precisions, version)  # None: it is no Python package
        return {**lacking, **super()._refused(gpu)}

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One sample, TensorRT's own workspace and level, no graph."""
        return {"batch_size": 1, "memory_pool_mib": None, "builder_level": 3, "cuda_graph": "off"}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The graph beside the engine that TensorRT built from it, which opening takes from there."""
        import numpy as np

        from autotune.variants.graph import model_inputs

        shutil.copyfile(variant.path, folder / MODEL)
        wanted = model_inputs(variant.path)
        sample = {w.name: np.zeros((candidate.batch_size, *(n or 1 for n in w.sample_shape)), w.dtype) for w in wanted}
        plain = replace(candidate, cuda_graph="off")
        with self._builds_alone(), self._session(folder, plain, building=True) as session:
            session.submit(sample, 0)  # the engine is built by the time that the first run ends
            session.wait(0)
        if not list(folder.glob("*.engine")):
            raise BuildFailed(
                "ONNX Runtime's TensorRT provider took no part of this graph: no engine was built", stage="engine"
            )

    def providers(self, candidate: Candidate, folder: Path | None, *, building: bool) -> list[tuple[str, Options]]:
        """TensorRT, then CUDA. The graph carries its types; the flags let TensorRT keep to them, and go lower only where the
        precision is "weak-…".

        Timings are read and written while building only: an engine that is opened must not depend on them.
        No second stream: the provider locks its one execution context for each run.
        """
        options = {
            "device_id": "0",
            "trt_fp16_enable": str("fp16" in candidate.precision),
            "trt_int8_enable": str("int8" in candidate.precision),
            "trt_sparsity_enable": str(candidate.precision == "fp16-sparse"),
            "trt_engine_cache_enable": "True",
            "trt_cuda_graph_enable": str(candidate.cuda_graph == "on"),  # since 1.16
        }
        if candidate.precision == "bf16":
            options["trt_bf16_enable"] = "True"  # not in every release, and an option that is not known is an error
        if candidate.builder_level is not None:
            options["trt_builder_optimization_level"] = str(candidate.builder_level)
        if candidate.memory_pool_mib is not None:
            options["trt_max_workspace_size"] = str(candidate.memory_pool_mib << 20)
        if folder is not None:
            options["trt_engine_cache_path"] = str(folder)
            shapes = _profile(folder / MODEL, candidate.batch_size)
            options |= {f"trt_profile_{end}_shapes": shapes for end in ("min", "opt", "max")}
            if building:
                options |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(self._timings or folder)}
        rest = {"device_id": "0", "use_tf32": "1" if candidate.precision == "tf32" else "0"}
        return [(self.provider, options), ("CUDAExecutionProvider", rest)]

    @contextmanager
    def _builds_alone(self) -> Iterator[None]:
        """No other build writes the timings meanwhile: the provider replaces the file in place, without a lock of its own.

        Where another build holds them for long, this one does without. The provider names its file after the compute capability
        alone, and does not build from one of another release; so there is a folder for each device and release.
        """
        from filelock import FileLock, Timeout

        if self._kept is None:
            yield
            return
        gpu = selected_gpu()
        about = (str(gpu), gpu.driver, [(d, library_version(d)) for d in self.distributions])
        folder = self._kept / f"{self.name}-{gpu.sm}-{digest_of(about)[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "build.lock", timeout=_LOCK_TIMEOUT_S)
        try:
            lock.acquire()
        except Timeout:
            _log.info("the timings in %s are in use; this build keeps none", folder)
            yield
            return
        self._timings = folder
        try:
            yield
        finally:
            self._timings = None
            lock.release()


def _profile(path: Path, batch_size: int) -> str:
    """The provider's spelling of the inputs' shapes: "name:8x3x224x224,other:8x1". Raises BuildFailed on a second free size."""
    from autotune.variants.graph import model_inputs

    parts = []
    for wanted in model_inputs(path):
        if None in wanted.sample_shape:
            raise BuildFailed(f"the input {wanted} has a size that is not known beside the batch", stage="engine")
        parts.append(f"{wanted.name}:" + "x".join(map(str, (batch_size, *wanted.sample_shape))))
    return ",".join(parts)
