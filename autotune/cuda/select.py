"""Which library drives the GPU: the one that is named, or the first that is there.

A study names it (`cuda_runtime: torch`), or the environment does (AUTOTUNE_CUDA_RUNTIME=torch, for scripts and for studies that
name none). Otherwise it is the first usable of DETECTED. Nothing here initialises CUDA except `selected_runtime`, which is for
the process that measures: trials are forks, and CUDA does not survive one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from autotune.cuda.runtime import DeviceRuntime, LibraryGap
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import library_version
from autotune.registry import RUNTIMES

VARIABLE = "AUTOTUNE_CUDA_RUNTIME"
DETECTED = ("cuda-core", "torch", "pycuda")
"""The order of detection: wheels of NVIDIA's that bring nothing else; what is often there; what must be compiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeChoice:
    """One of the runtimes on this machine. `gap` says why it cannot be used; None where it can be tried."""

    name: str
    versions: dict[str, str]
    gap: LibraryGap | None
    selected: bool = False


def name_runtime(name: str) -> None:
    """This process and those it starts use the runtime of this name; "auto" leaves it to the environment, and to detection."""
    if name != "auto":
        os.environ[VARIABLE] = name


def runtime_name() -> str:
    """The runtime that `selected_runtime` would make. Raises EnvironmentProblem, or SpecError for a name that nobody has."""
    wanted = os.environ.get(VARIABLE, "").strip()
    if wanted not in ("", "auto"):
        if gap := RUNTIMES.load(wanted).gap():
            raise EnvironmentProblem(f"the CUDA runtime {wanted}: {gap.missing}.", remedy=gap.remedy)
        return wanted
    gaps = {}
    for name in DETECTED:
        gap = RUNTIMES.load(name).gap()
        if gap is None:
            return name
        gaps[name] = gap.missing
    found = "; ".join(f"{name}: {missing}" for name, missing in gaps.items())
    raise EnvironmentProblem(f"no library here drives CUDA from Python ({found}).", remedy="pip install 'autotune[cuda-core]'")


def runtime_distributions() -> tuple[str, ...]:
    """The packages of the runtime that would be made, whose versions belong to what is measured with it. Raises as above."""
    found: tuple[str, ...] = RUNTIMES.load(runtime_name()).distributions
    return found


def selected_runtime() -> DeviceRuntime:
    """A new runtime on the selected GPU. Raises EnvironmentProblem where the library or the driver is missing."""
    made: DeviceRuntime = RUNTIMES.load(runtime_name())()
    return made


def runtime_choices() -> tuple[RuntimeChoice, ...]:
    """Every runtime that can be detected, in that order, with its versions and what it lacks."""
    try:
        chosen = runtime_name()
    except EnvironmentProblem:
        chosen = ""
    found = []
    for name in DETECTED:
        kind = RUNTIMES.load(name)
        versions = {d: version for d in kind.distributions if (version := library_version(d)) is not None}
        found.append(RuntimeChoice(name=name, versions=versions, gap=kind.gap(), selected=name == chosen))
    return tuple(found)
