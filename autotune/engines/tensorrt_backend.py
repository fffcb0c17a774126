"""TensorRT 10.0 to 11 and TensorRT for RTX: the builder, contexts in one capped pool, CUDA graphs, and a look inside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

from autotune.candidate import Candidate, Scalar
from autotune.cuda.select import runtime_distributions, runtime_name, selected_runtime
from autotune.devices.build_target import build_target
from autotune.devices.gpu import Gpu, selected_gpu
from autotune.devices.precision import refused_by_tensorrt, refused_precisions
from autotune.engines.fused_nodes import vanished_nodes
from autotune.engines.layers import LayerReport
from autotune.engines.protocol import Capabilities, Engine, Inputs
from autotune.engines.tensorrt_api import Trt
from autotune.engines.tensorrt_build import WEAK_FLAGS, Blueprint, built_plan
from autotune.engines.tensorrt_lane import GraphMode
from autotune.engines.tensorrt_layers import layers_from_log
from autotune.engines.tensorrt_library import TENSORRT, TENSORRT_RTX, Gap, Library
from autotune.engines.tensorrt_log import make_log, write_log
from autotune.engines.tensorrt_probe import why_tensorrt_fails
from autotune.engines.tensorrt_profile import profiled_layers
from autotune.engines.tensorrt_session import TensorRtSession
from autotune.engines.tensorrt_timings import Timings
from autotune.errors import CandidateRejected, EnvironmentProblem, Unsupported
from autotune.fingerprint import digest_of, library_version
from autotune.variants.outline import outline_of
from autotune.variants.variant import ModelVariant, QuantScheme, tensorrt_scheme

PLAN, BUILD_LOG = "engine.plan", "build.log"
_TYPED = ("fp32", "tf32", "fp16", "bf16", "int8", "int8-tensor", "fp8", "int4", "fp16-sparse")
"""Precisions that the graph carries, built strongly typed."""
_DOCS = {
    "precision": f"{', '.join(_TYPED)} as the graph says (strongly typed); {', '.join(WEAK_FLAGS)}: the builder chooses "
    "per layer (before TensorRT 11)",
    "batch_size": "the one batch of the optimization profile (min, opt and max)",
    "streams": "execution contexts of one engine, each with a stream and pinned buffers of its own",
    "worker_threads": "host threads that submit and wait, at most one per context; null: one per context",
    "memory_pool_mib": "the builder's workspace limit, and the cap of the pool that all contexts and buffers lie in (weights "
    "lie outside)",
    "builder_level": "builder_optimization_level: 3 is TensorRT's default, 5 compiles and times the most kernels",
    "cuda_graph": "on: copies and execution of a context are captured once and launched as one",
}


class TensorRt:
    """NVIDIA's TensorRT, built on the GPU that it runs on."""

    name = "tensorrt"
    library: ClassVar[Library] = TENSORRT
    docs: ClassVar[Mapping[str, str]] = _DOCS
    build_knobs = frozenset({"batch_size", "memory_pool_mib", "builder_level"})
    run_knobs = frozenset({"streams", "worker_threads", "cuda_graph"})
    preload: tuple[str, ...] = ()  # nobody promises that loading TensorRT leaves CUDA and threads alone

    def __init__(self) -> None:
        self._timings: Path | None = None

    def capabilities(self) -> Capabilities:
        """Available with a release that is known and serves the selected GPU, or the GPUs that are built for."""
        gap, refused = self._gap_or_refused()
        if gap is not None:
            missing, remedy = gap
            return Capabilities(available=False, device="cuda", missing=missing, remedy=remedy, knob_docs=self.docs)
        gpu = None if build_target() else selected_gpu()
        return Capabilities(
            available=True,
            device="cuda",
            precisions=tuple(p for p in (*_TYPED, *WEAK_FLAGS) if p not in refused),
            refused=refused,
            limits={
                "streams": (1, 32),
                "worker_threads": (1, 32),
                **({} if gpu is None else {"memory_pool_mib": (1, gpu.memory_mib)}),
            },
            distributions=self.library.distributions,
            run_distributions=() if gpu is None else runtime_distributions(),
            knob_docs=self.docs,
        )

    def _gap_or_refused(self) -> tuple[Gap | None, dict[str, str]]:
        gap = self.library.gap()
        if gap is not None:
            return gap, {}
        asked = (*_TYPED, *WEAK_FLAGS)
        if (target := build_target()) is not None:
            gap, refused = self.library.gap_for_target(target, self._module), target.refused(asked)
        else:
            try:
                gpu = selected_gpu()
                runtime_name()
            except EnvironmentProblem as exc:
                return (str(exc).partition(" Try: ")[0].rstrip("."), exc.remedy), {}
            gap, refused = self.library.gap_for_gpu(gpu, self._module), refused_precisions(asked, gpu.compute_capability)
            gap = gap or self._gap_in_start(gpu)
        return gap, {**refused, **self._refused_by_release()}

    def _gap_in_start(self, gpu: Gpu) -> Gap | None:
        why = why_tensorrt_fails(self.library.module_name() or "", self.library.version())
        remedy = f"{self.library.install}; driver {gpu.driver} serves CUDA {gpu.cuda} and earlier (docs/nvidia.md)"
        return (f"{self.library.title} is installed and does not start: {why}", remedy) if why else None

    def _refused_by_release(self) -> dict[str, str]:
        version = ".".join(map(str, self.library.version() or self.library.first))
        return refused_by_tensorrt((*_TYPED, *WEAK_FLAGS), version, rtx=self.library.ahead_of_time)

    def scheme(self, precision: str) -> QuantScheme:
        """Symmetric Q/DQ at products, without quantized biases: what NVIDIA's parser takes and TensorRT fuses."""
        return tensorrt_scheme(precision)

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One sample, one context, TensorRT's own workspace limit and level, no graph: what trtexec does."""
        given: dict[str, Scalar | None] = {"batch_size": 1, "streams": 1, "worker_threads": None, "memory_pool_mib": None}
        return {k: v for k, v in {**given, "builder_level": 3, "cuda_graph": "off"}.items() if k in self.docs}

    def keep_timings(self, folder: Path) -> None:
        """Kernels that one build timed are not timed again by the next on the same device and release."""
        self._timings = folder

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The serialized engine beside the log of its build. A refusal is a rejection in TensorRT's own words."""
        trt = self._module()
        log = make_log(trt)
        blueprint = Blueprint(
            onnx=variant.path,
            precision=candidate.precision,
            batch_size=candidate.batch_size,
            workspace_mib=candidate.memory_pool_mib,
            level=candidate.builder_level if "builder_level" in self.build_knobs else None,
            targets=self._targets(),
        )
        try:
            plan = built_plan(trt, blueprint, log, self._timings_file())
        except CandidateRejected as exc:
            exc.log_path = folder / BUILD_LOG
            raise
        finally:
            write_log(log, folder / BUILD_LOG)
        (folder / PLAN).write_bytes(plan)

    def _targets(self) -> tuple[str, ...]:
        if (target := build_target()) is not None:
            return target.names
        return self.library.targets_for_gpu(selected_gpu(), self._module) if self.library.ahead_of_time else ()

    def _timings_file(self) -> Timings | None:
        if self._timings is None or self.library.ahead_of_time:  # TensorRT for RTX times nothing when it builds
            return None
        gpu, version = selected_gpu(), next(filter(None, map(library_version, self.library.distributions)), "unknown")
        device = digest_of([str(gpu), gpu.driver])[:8]
        return Timings(path=self._timings / f"{self.name}-{re.sub(r'[^0-9A-Za-z.]+', '-', version)}-{gpu.sm}-{device}.timings")

    def open(self, engine: Engine, candidate: Candidate) -> TensorRtSession:
        """`streams` contexts, warmed up and, where asked for, captured. Raises OutOfMemory where the pool holds fewer."""
        return self._opened(engine, candidate, candidate.streams or 1, self._graph_mode(candidate))

    def _opened(self, engine: Engine, candidate: Candidate, slots: int, mode: GraphMode) -> TensorRtSession:
        if (target := build_target()) is not None:
            raise Unsupported(f"the engine was built ahead of time for {target}; nothing here runs it", stage="open")
        return TensorRtSession(
            self._module(),
            (engine.folder / PLAN).read_bytes(),
            selected_runtime(),
            slots=slots,
            threads=candidate.worker_threads,
            batch_size=candidate.batch_size,
            pool_mib=candidate.memory_pool_mib,
            graph_mode=mode,
        )

    def _graph_mode(self, candidate: Candidate) -> GraphMode:
        if candidate.cuda_graph != "on":
            return "none"
        return "by context" if self.library.ahead_of_time else "captured"

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """Times by TensorRT's profiler; without them, from the build log, where the engine was built ahead of time."""
        report = self._report(engine, candidate, batches, n_runs)
        return replace(report, vanished=vanished_nodes(outline_of(engine.variant.path), [x.nodes for x in report.layers]))

    def _report(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], n_runs: int) -> LayerReport:
        if (target := build_target()) is not None:
            lines = (engine.folder / BUILD_LOG).read_text(encoding="utf-8").split("\n")  # names may hold other line ends
            note = f"built ahead of time for {target}: nothing was run, so there are no times"
            found = layers_from_log(lines)
            if not found:
                raise Unsupported("the build log holds no table of layers", stage="open")
            return LayerReport(layers=found, total_us=None, n_runs=0, method="the builder's log", notes=(note,))
        with self._opened(engine, candidate, 1, "none") as session:
            found, total_us = session.explore(lambda lane, loaded: profiled_layers(lane, loaded, batches, n_runs))
        notes = ("profiled layer by layer, without CUDA graph and other streams: the sum is more than an execution takes",)
        return LayerReport(layers=found, total_us=total_us, n_runs=n_runs, method="IProfiler, IEngineInspector", notes=notes)

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """What a program sets to build and run the engine in the same way."""
        weak = WEAK_FLAGS.get(candidate.precision)
        pool = None if candidate.memory_pool_mib is None else candidate.memory_pool_mib << 20
        return {
            "strongly_typed": weak is None,
            "builder_flags": [*(weak or ()), *(["TF32"] if candidate.precision == "tf32" else [])],
            "cleared_builder_flags": [] if candidate.precision == "tf32" else ["TF32"],
            "optimization_profile_batch": candidate.batch_size,
            "workspace_bytes": pool,
            "builder_optimization_level": candidate.builder_level,
            "execution_contexts": candidate.streams,
            "context_memory": "USER_MANAGED",
            "device_pool_bytes": pool,
            "host_threads": candidate.worker_threads,
            "cuda_graph": candidate.cuda_graph == "on",
        }

    def _module(self) -> Trt:
        return cast(Trt, import_module(self.library.module_name() or self.library.modules[0]))


class TensorRtRtx(TensorRt):
    """TensorRT for RTX: builds in a second, also for GPUs that are not there; its kernels are compiled when it opens."""

    name = "tensorrt-rtx"
    library = TENSORRT_RTX
    build_knobs = frozenset({"batch_size", "memory_pool_mib"})
    docs: ClassVar[Mapping[str, str]] = {
        **{k: v for k, v in _DOCS.items() if k != "builder_level"},
        "precision": f"{', '.join(_TYPED)} as the graph says (strongly typed)",
        "cuda_graph": "on: each context captures what it enqueues (cudaGraphStrategy WHOLE_GRAPH_CAPTURE)",
    }
