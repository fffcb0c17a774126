"""The device that a study runs on, and the engines that it gets there."""

from __future__ import annotations

from autotune.cuda.select import name_runtime, runtime_name
from autotune.devices.build_target import build_target
from autotune.devices.gpu import select_gpu, selected_gpu
from autotune.devices.simulated import select_simulated, simulated_number
from autotune.engines.build import load_backend
from autotune.engines.protocol import Backend, Capabilities
from autotune.errors import EnvironmentProblem, SpecError, SpecProblem
from autotune.registry import ENGINES
from autotune.spec.model import StudySpec

Engines = dict[str, tuple[Backend, Capabilities]]
_FOR_EVERYTHING = {
    "cpu": "pip install 'autotune[cpu]'",
    "cuda": "pip install 'autotune[cuda]', or 'autotune[v100]' for Volta",
    "fake": "engines: [fake], the only one that runs on a simulated device",
}


def engines_here(spec: StudySpec) -> tuple[str, Engines]:
    """The kind of the study's device, "cpu", "cuda" or "fake", and its engines: those it names, or all of ours that run there.

    While engines are built for GPUs that are not there, the device is one of these; else a GPU, and the library that drives it,
    are selected for this process and those it starts. Raises EnvironmentProblem naming what is missing, SpecError where a named
    engine belongs to the other kind of device.
    """
    name_runtime(spec.cuda_runtime)
    select_simulated(spec.device)
    if spec.device.startswith("cuda") and build_target() is None:
        select_gpu(spec.device)
    found = {name: _with_capabilities(name) for name in spec.engines or ENGINES.own_names()}
    kind = _kind(spec, found)
    if kind == "cuda" and spec.cuda_runtime != "auto" and build_target() is None:
        runtime_name()  # raises where its library is missing
    if spec.engines is None:
        return kind, _offered(found, kind)
    for i, (name, (_, able)) in enumerate(found.items()):
        _require_available(name, able)
        if able.device != kind:
            allowed = f"an engine for the device {spec.device}, which is {kind} here; or device: {able.device}"
            raise SpecError([SpecProblem(key=f"engines[{i}]", found=f"{name!r}, which runs on {able.device}", allowed=allowed)])
    return kind, found


def lock_name(kind: str) -> str:
    """What `study.lock.device_lock` calls the device: measurements on one GPU take turns, those on two do not.

    A build for a GPU that is elsewhere keeps the CPU busy and no GPU.
    """
    if kind == "fake":
        return f"fake-{simulated_number()}"
    return "cpu" if kind == "cpu" or build_target() is not None else f"cuda-{selected_gpu().uuid}"


def _with_capabilities(name: str) -> tuple[Backend, Capabilities]:
    backend = load_backend(name)
    return backend, backend.capabilities()


def _kind(spec: StudySpec, found: Engines) -> str:
    """ "auto" is the first GPU where an engine can use it that the study would get, else the CPU."""
    if build_target() is not None:
        return "cuda"
    if spec.device != "auto":
        return spec.device.partition(":")[0]
    usable = [able for _, able in found.values() if able.available and able.device == "cuda"]
    if not any(spec.engines is not None or able.offered != "only by name" for able in usable):
        return "cpu"
    select_gpu("cuda")
    return "cuda"


def _offered(found: Engines, kind: str) -> Engines:
    """The engines of this kind that a study gets without naming them."""
    here = {name: pair for name, pair in found.items() if pair[1].available and pair[1].device == kind}
    for manner in ("by default", "if nothing else runs"):
        chosen = {name: pair for name, pair in here.items() if pair[1].offered == manner}
        if chosen:
            return chosen
    missing = [
        f"{name}: {able.missing} ({able.remedy})"
        for name, (_, able) in found.items()
        if not able.available and able.device == kind
    ]
    where = {"cpu": "this machine", "fake": "a simulated device"}.get(kind) or f"this machine's {selected_gpu().name}"
    raise EnvironmentProblem(f"no inference engine can run on {where}. " + "; ".join(missing), remedy=_FOR_EVERYTHING[kind])


def _require_available(name: str, able: Capabilities) -> None:
    if not able.available:
        raise EnvironmentProblem(f"the study asks for the engine {name}: {able.missing}.", remedy=able.remedy)
