"""PyTorch on an NVIDIA GPU: eager, captured as CUDA graphs, or compiled by Inductor and then captured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from autotune.candidate import Candidate, Scalar
from autotune.devices.gpu import Gpu, selected_gpu
from autotune.devices.precision import refused_precisions
from autotune.engines.layers import LayerReport
from autotune.engines.protocol import Capabilities, Engine, Inputs
from autotune.engines.torch_computation import (
    MODEL,
    REFUSALS,
    Computation,
    as_function,
    compiled_function,
    loaded_module,
    output_names,
    write_checked_model,
)
from autotune.engines.torch_cuda_session import TorchCudaSession
from autotune.engines.torch_profile import COMPILED, as_replayed, profiled_layers
from autotune.errors import EnvironmentProblem, Unsupported
from autotune.fingerprint import library_version
from autotune.variants.graph import model_inputs
from autotune.variants.outline import outline_of
from autotune.variants.variant import ModelVariant, QuantScheme

_PRECISIONS = ("fp32", "tf32", "fp16", "amp-fp16", "bf16", "amp-bf16")
_DEVICE = "cuda:0"
_DOCS = {
    "precision": "fp32, tf32, fp16, bf16 (weights and activations), amp-fp16, amp-bf16 (autocast); no Q/DQ graphs",
    "batch_size": "first dimension of the tensors, fixed while a session is open",
    "streams": "CUDA streams, each with pinned host buffers and, where captured, a CUDA graph of its own",
    "memory_pool_mib": "cap of the caching allocator (weights, activations, graphs; not the CUDA context)",
}


class TorchCuda:
    """The eager engine: kernels are launched one by one, by the thread that submits."""

    name = "torch-cuda"
    captured: ClassVar[bool] = False
    compiled: ClassVar[bool] = False
    build_knobs: frozenset[str] = frozenset()
    run_knobs = frozenset({"batch_size", "streams", "memory_pool_mib"})
    preload: tuple[str, ...] = ("torch",)

    def capabilities(self) -> Capabilities:
        """Available where this torch was compiled for the GPU that is selected."""
        lacking = [d for d in ("torch", "onnx2torch") if library_version(d) is None]
        if lacking:
            return self._unavailable(f"the package {lacking[0]} is not installed", "pip install 'autotune[torch]'")
        try:
            gpu = selected_gpu()
        except EnvironmentProblem as exc:
            return self._unavailable(str(exc).partition(" Try: ")[0].rstrip("."), exc.remedy)
        if gap := _gap(gpu):
            return self._unavailable(*gap)
        refused = {**refused_precisions(_PRECISIONS, gpu.compute_capability), **REFUSALS}
        return Capabilities(
            available=True,
            device="cuda",
            precisions=tuple(p for p in _PRECISIONS if p not in refused),
            refused=refused,
            limits={"streams": (1, 32), "memory_pool_mib": (1, gpu.memory_mib)},
            distributions=("torch", "onnx2torch"),
            knob_docs=_DOCS,
            offered="by default" if self.captured else "only by name",
        )

    def _unavailable(self, missing: str, remedy: str) -> Capabilities:
        return Capabilities(available=False, device="cuda", missing=missing, remedy=remedy, knob_docs=_DOCS)

    def scheme(self, precision: str) -> QuantScheme:
        """The default; this engine takes no integer graphs."""
        return QuantScheme()

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One stream, an allocator without a cap."""
        return {"batch_size": 1, "streams": 1, "memory_pool_mib": None}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """The graph, after torch's form of it has given the graph's own answers on the CPU."""
        write_checked_model(variant, folder)

    def open(self, engine: Engine, candidate: Candidate) -> TorchCudaSession:
        """The module on the GPU with a stream per slot; compiled and captured for the candidate's batch as the engine does."""
        _set_options(candidate)
        compute = as_function(loaded_module(engine.folder), candidate.precision, _DEVICE)
        return _session(compiled_function(compute) if self.compiled else compute, engine, candidate, captured=self.captured)

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """The nodes of the graph as torch's operations, with the times of their kernels. Raises Unsupported where compiled.

        A captured graph replays the kernels that the eager module launches, so that module is profiled, and the time of a
        whole execution is the replay's.
        """
        if self.compiled:
            raise Unsupported(COMPILED, stage="profile")
        _set_options(candidate)
        module = loaded_module(engine.folder)
        compute = as_function(module, candidate.precision, _DEVICE)
        with _session(compute, engine, candidate, captured=False) as session:
            report = profiled_layers(session, module, outline_of(engine.folder / MODEL), batches, n_runs, on_gpu=True)
        if not self.captured:
            return report
        with _session(compute, engine, candidate, captured=True) as session:
            return as_replayed(report, session, batches)

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """What a program sets to run the module in the same way."""
        return {
            "compile": {"dynamic": False} if self.compiled else None,
            "cuda_graph": self.captured,
            "autocast": candidate.precision.removeprefix("amp-") if candidate.precision.startswith("amp-") else None,
            "dtype": "fp32" if candidate.precision.startswith(("amp-", "tf32")) else candidate.precision,
            "allow_tf32": candidate.precision == "tf32",
            "memory_format": "channels_last",
            "cudnn_benchmark": True,
            "streams": candidate.streams,
            "memory_limit_mib": candidate.memory_pool_mib,
        }


class TorchCudaGraph(TorchCuda):
    """The eager module captured once per stream: the whole forward pass is one launch."""

    name = "torch-cuda-graph"
    captured = True


class TorchCudaCompile(TorchCuda):
    """The module compiled by Inductor, then captured once per stream. Opening takes half a minute and more."""

    name = "torch-cuda-compile"
    captured = True
    compiled = True


def _set_options(candidate: Candidate) -> None:
    """torch computes on the GPU in the candidate's precision and memory."""
    import torch

    # torch lets convolutions use TF32 unless told otherwise: an fp32 candidate would then be a TF32 one.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = candidate.precision == "tf32"
    torch.backends.cudnn.benchmark = True  # shapes are fixed, so trying cuDNN's algorithms pays once
    if candidate.memory_pool_mib is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, candidate.memory_pool_mib / _total_mib()), 0)


def _session(compute: Computation, engine: Engine, candidate: Candidate, *, captured: bool) -> TorchCudaSession:
    return TorchCudaSession(
        compute,
        model_inputs(engine.folder / MODEL),
        output_names(engine.folder / MODEL),
        slots=candidate.streams or 1,
        batch_size=candidate.batch_size,
        captured=captured,
        device=_DEVICE,
    )


def _gap(gpu: Gpu) -> tuple[str, str] | None:
    """What this torch lacks for the GPU, and the line that helps; None where it has what it needs."""
    version = library_version("torch")
    if "+cpu" in (version or ""):
        return f"torch {version} was compiled for CPUs only", _reinstall(gpu)
    try:
        import torch
    except (ImportError, OSError) as exc:
        return f"torch {version} does not load: {exc}", _reinstall(gpu)
    if torch.version.cuda is None:
        return f"torch {version} was compiled without CUDA", _reinstall(gpu)
    if not torch.cuda.is_available():
        return f"torch {version} with CUDA {torch.version.cuda} finds no usable GPU under driver {gpu.driver}", _reinstall(gpu)
    if not _has_code_for(gpu, torch.cuda.get_arch_list()):
        known = ", ".join(torch.cuda.get_arch_list())
        return f"torch {version} has no code for {gpu.sm}: it has {known}", _reinstall(gpu)
    return None


def _has_code_for(gpu: Gpu, architectures: list[str]) -> bool:
    """Machine code runs on its own major capability from its minor one on; PTX (compute_…) on all that came later."""
    wanted = gpu.compute_capability
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = digits.rstrip("af")
        found = (int(number[:-1]), int(number[-1]))
        if found <= wanted and (kind == "compute" or found[0] == wanted[0]):
            return True
    return False


def _reinstall(gpu: Gpu) -> str:
    index = "cu126" if gpu.compute_capability < (7, 5) else "cu130" if int(gpu.cuda.partition(".")[0]) >= 13 else "cu126"
    return f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{index}"


def _total_mib() -> float:
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory) / 2**20
