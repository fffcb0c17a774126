"""ONNX Runtime on an NVIDIA GPU, what its CUDA provider and its TensorRT provider share: never silently on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from autotune.candidate import Candidate
from autotune.devices.gpu import Gpu, selected_gpu
from autotune.devices.precision import refused_precisions
from autotune.engines.layers import LayerReport
from autotune.engines.onnxruntime_graph import OnnxRuntimeGraphSession
from autotune.engines.onnxruntime_placement import RECORD, on_cpu, placements
from autotune.engines.onnxruntime_probe import why_provider_fails
from autotune.engines.onnxruntime_profile import profiled_layers
from autotune.engines.onnxruntime_session import FELL_TO_CPU, NO_CPU, OnnxRuntimeSession, create_session
from autotune.engines.protocol import Capabilities, Engine, Inputs, Session
from autotune.errors import EnvironmentProblem, Unsupported
from autotune.fingerprint import library_version
from autotune.variants.outline import outline_of
from autotune.variants.variant import QuantScheme

MODEL = "model.onnx"
_GRAPH_NOTE = (
    "profiled without the CUDA graph, into whose replay no profiler looks; the time without the profiler is the replay's"
)

Options = dict[str, str]


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
    keeps_graph: ClassVar[bool]
    """Its optimized graph can be written: no node of it was compiled by the provider."""

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

    def open(self, engine: Engine, candidate: Candidate) -> Session:
        """A session on the GPU, every node of it; one per stream, each with its graph captured, where that is asked for.

        Raises Unsupported naming what would have run elsewhere, or why the graph cannot be captured.
        """
        cap = self._cap(candidate)
        if candidate.cuda_graph != "on":
            return self._session(engine.folder, candidate, building=False)
        import onnxruntime as ort

        return OnnxRuntimeGraphSession(
            lambda: self._created(ort.SessionOptions(), engine.folder, candidate, cap, building=False),
            candidate.streams or 1,
            candidate.batch_size,
            cap,
        )

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """The nodes as this provider fused them, each with its provider and the times of its kernels on the GPU."""
        plain = candidate if candidate.cuda_graph is None else replace(candidate, cuda_graph="off")

        def create(options: Any, optimized: Path) -> Any:
            if self.keeps_graph:
                options.optimized_model_filepath = str(optimized)
            return self._created(options, engine.folder, plain, "", building=False)

        report = profiled_layers(create, None, outline_of(engine.variant.path), batches, n_runs)
        return replace(report, notes=(*report.notes, _GRAPH_NOTE)) if candidate.cuda_graph == "on" else report

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """Providers with their options, as InferenceSession takes them."""
        captured = candidate.cuda_graph == "on"
        return {
            "providers": [[name, options] for name, options in self.providers(candidate, None, building=False)],
            "session_config": {NO_CPU: "1"},
            "sessions": (candidate.streams or 1) if captured else 1,
            "concurrent_runs": candidate.streams,
            "io_binding": captured,
        }

    def providers(self, candidate: Candidate, folder: Path | None, *, building: bool) -> list[tuple[str, Options]]:
        """The providers in their order, with options. `folder`: where the engine's files lie, if they lie anywhere."""
        raise NotImplementedError("a provider's own class says what it asks for")

    def _cap(self, candidate: Candidate) -> str:
        if candidate.memory_pool_mib is None:
            return ""
        sessions = n_sessions(candidate)
        shared = f", shared by {sessions} sessions" if sessions > 1 else ""
        return f"memory_pool_mib={candidate.memory_pool_mib}{shared}"

    def _session(self, folder: Path, candidate: Candidate, *, building: bool) -> OnnxRuntimeSession:
        import onnxruntime as ort

        cap = self._cap(candidate)
        session = self._created(ort.SessionOptions(), folder, candidate, cap, building=building)
        return OnnxRuntimeSession(session, candidate.streams or 1, cap)

    def _created(self, options: Any, folder: Path, candidate: Candidate, cap: str, *, building: bool) -> Any:
        """An InferenceSession on the GPU alone."""
        load_gpu_libraries()
        options.log_severity_level = 3
        options.add_session_config_entry(NO_CPU, "1")
        asked = self.providers(candidate, folder, building=building)
        stage = "engine" if building else "open"
        try:
            return create_session(folder / MODEL, options, asked, stage=stage, cap=cap)
        except Unsupported as exc:
            if FELL_TO_CPU not in str(exc):
                raise
            named = self._nodes_on_cpu(folder, candidate, building=building)
            raise Unsupported(f"{self.provider} does not take {named}, which would run on the CPU", stage=stage) from exc

    def _nodes_on_cpu(self, folder: Path, candidate: Candidate, *, building: bool) -> str:
        """What the CPU would compute, of which ONNX Runtime only says that there is some: a session that may use it tells."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(RECORD, "1")
        asked = self.providers(replace(candidate, cuda_graph="off"), folder, building=building)
        placed = placements(create_session(folder / MODEL, options, asked, stage="open"))
        named = "" if placed is None else on_cpu(placed)
        return named or "some nodes (an onnxruntime before 1.24 does not tell which)"


def n_sessions(candidate: Candidate) -> int:
    """How many InferenceSessions a candidate is: one, or one per stream where each captures its graph."""
    return (candidate.streams or 1) if candidate.cuda_graph == "on" else 1


def load_gpu_libraries() -> None:
    """CUDA, cuDNN and TensorRT from their Python packages are loaded, where they are there; ONNX Runtime then finds them."""
    from importlib import import_module
    from importlib.util import find_spec

    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):  # since 1.21
        ort.preload_dlls()
    if find_spec("tensorrt_libs") is not None:
        import_module("tensorrt_libs")
