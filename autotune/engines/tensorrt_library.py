"""TensorRT and TensorRT for RTX: which release is installed, and whether it can serve the GPU at hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from autotune.devices.build_target import BuildTarget
from autotune.devices.gpu import Gpu
from autotune.engines.tensorrt_api import member
from autotune.engines.tensorrt_probe import why_current_fails
from autotune.fingerprint import library_version

Version = tuple[int, int]
Gap = tuple[str, str]
"""What is missing, and the command that helps."""

_LAST_WITH_VOLTA: Version = (10, 4)
"""TensorRT 10.5's release notes: "Volta … support has been removed"."""
_FIRST_TO_TRY: Version = (8, 0)
"""NVIDIA's own ONNX Runtime provider takes GPUs from Ampere on; below, what has no name has no code."""
CURRENT = "CURRENT"
"""The member of ComputeCapability that means the GPU that is here."""
_V100 = "pip install 'autotune[v100]', whose TensorRT 10.4 was the last with code for sm_70"


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """One of the two. `modules`: the names that its distributions give it. Releases from `first` to before `too_new` are known.

    `ahead_of_time`: it builds for GPUs that are not there, those in its ComputeCapability only; for one that is, it is asked.
    """

    title: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    install: str
    first: Version
    too_new: Version
    ahead_of_time: bool

    def version(self) -> Version | None:
        """Major and minor of the installed release; None where it is not installed, or not as a Python distribution."""
        found = next(filter(None, map(library_version, self.distributions)), None)
        match = re.match(r"(\d+)\.(\d+)", found or "")
        return (int(match[1]), int(match[2])) if match else None

    def module_name(self) -> str | None:
        """The module that can be imported; None where there is none."""
        return next((name for name in self.modules if _is_there(name)), None)

    def gap(self) -> Gap | None:
        """Why the library cannot be used on any GPU; None where it can."""
        version = self.version()
        if version is None or self.module_name() is None:
            return f"the package {self.distributions[0]} is not installed", self.install
        if not self.first <= version < self.too_new:
            known = f"{_dotted(self.first)} to {self.too_new[0] - 1}"
            return f"{self.title} {_dotted(version)} is installed, and autotune knows {known}", self.install
        return None

    def gap_for_gpu(self, gpu: Gpu, module: Callable[[], Any]) -> Gap | None:
        """Why it cannot serve this GPU; None where it can."""
        capability, version = gpu.compute_capability, self.version() or self.first
        if self.ahead_of_time:
            gap = self._gap_for_name(_name_of(gpu), module, "pip install 'autotune[tensorrt]'")
            if gap is None or capability < _FIRST_TO_TRY:
                return gap
            why = why_current_fails(self.module_name() or "", version)
            return (f"{gap[0]}; tried on the GPU that is here: {why}", gap[1]) if why else None
        if capability < (7, 0):
            return f"{self.title} 10 and later has no code for {gpu.sm}", "a GPU since Volta (sm_70)"
        if capability < (7, 5) and version > _LAST_WITH_VOLTA:
            return f"{self.title} {_dotted(version)} has no code for {gpu.sm}", _V100
        return None

    def targets_for_gpu(self, gpu: Gpu, module: Callable[[], Any]) -> tuple[str, ...]:
        """The compute capabilities to name in a build for this GPU, which it serves; empty: those that it builds for anyway."""
        return (CURRENT,) if self.ahead_of_time and self._gap_for_name(_name_of(gpu), module, "") else ()

    def gap_for_target(self, target: BuildTarget, module: Callable[[], Any]) -> Gap | None:
        """Why it cannot build for GPUs that are not there; None where it can."""
        if not self.ahead_of_time:
            return f"{self.title} builds on the very GPU that an engine is for", "--set engine=tensorrt-rtx, which needs none"
        gaps = (self._gap_for_name(name, module, "another --compute-capability") for name in target.names)
        return next(filter(None, gaps), None)

    def _gap_for_name(self, name: str, module: Callable[[], Any], remedy: str) -> Gap | None:
        try:
            known = member(module(), "ComputeCapability")
        except (ImportError, OSError) as exc:
            return f"{self.title} cannot be imported: {exc}", self.install
        if member(known, name) is not None:
            return None
        names = ", ".join(n.replace("SM", "sm_") for n in dir(known) if re.fullmatch(r"SM\d+", n))
        return f"{self.title} builds for {names} only, and not for {name.replace('SM', 'sm_')}", remedy


TENSORRT = Library(
    title="TensorRT",
    modules=("tensorrt",),
    distributions=("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    install="pip install 'autotune[tensorrt]', or 'autotune[v100]' for Volta, 'autotune[cuda12]' under a driver for CUDA 12",
    first=(10, 0),
    too_new=(12, 0),
    ahead_of_time=False,
)
TENSORRT_RTX = Library(
    title="TensorRT for RTX",
    modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
    distributions=("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
    install="pip install 'autotune[tensorrt-rtx]'",
    first=(1, 4),
    too_new=(2, 0),
    ahead_of_time=True,
)


def _name_of(gpu: Gpu) -> str:
    """As TensorRT's ComputeCapability writes it, such as "SM89"."""
    return gpu.sm.replace("sm_", "SM")


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
