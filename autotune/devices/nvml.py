"""NVML through nvidia-ml-py: one process-wide session, and every failure as a NvmlProblem that names the call."""

from __future__ import annotations

import os
from typing import Any

from autotune.errors import EnvironmentProblem
from autotune.fingerprint import library_version

_initialized_by: int | None = None


class NvmlProblem(RuntimeError):
    """NVML refused one call. The others may still work: containers, MIG, vGPU and old drivers each lack some."""


def nvml() -> Any:
    """The module pynvml of nvidia-ml-py, initialized in this process; a fork initializes it again.

    Raises EnvironmentProblem where the package, the driver or the permission is missing, with what helps.
    """
    global _initialized_by
    if library_version("nvidia-ml-py") is None:
        raise EnvironmentProblem("NVIDIA GPUs are found with nvidia-ml-py.", remedy="pip install 'autotune[nvml]'")
    import pynvml

    if _initialized_by == os.getpid():
        return pynvml
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        raise _no_driver(pynvml, exc) from exc
    _initialized_by = os.getpid()
    return pynvml


def _no_driver(pynvml: Any, exc: Exception) -> EnvironmentProblem:
    if isinstance(exc, pynvml.NVMLError_LibraryNotFound):
        return EnvironmentProblem(
            "no NVIDIA driver is visible on this machine (libnvidia-ml.so.1 was not found).",
            remedy="nvidia-smi, which the driver brings; in a container, start it with --gpus all",
        )
    if isinstance(exc, pynvml.NVMLError_DriverNotLoaded):
        return EnvironmentProblem("the NVIDIA driver is installed, but not loaded.", remedy="modprobe nvidia && nvidia-smi")
    if isinstance(exc, pynvml.NVMLError_LibRmVersionMismatch):
        return EnvironmentProblem("the NVIDIA driver was updated while it was loaded.", remedy="reboot, then nvidia-smi")
    return EnvironmentProblem(f"NVML does not start: {exc}.", remedy="nvidia-smi")


def ask(function: str, *arguments: Any) -> Any:
    """What NVML's `function` returns. Raises NvmlProblem naming the call; EnvironmentProblem where NVML does not start."""
    pynvml = nvml()
    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as exc:
        raise NvmlProblem(f"{function}: {exc}") from exc


def ask_or_none(function: str, *arguments: Any) -> Any:
    """As `ask`, but None where this driver or device refuses the call."""
    try:
        return ask(function, *arguments)
    except NvmlProblem:
        return None


def handle_of(uuid: str) -> Any:
    """NVML's handle of a GPU or of a MIG instance. Raises NvmlProblem where no device has this UUID."""
    return ask("nvmlDeviceGetHandleByUUID", uuid)
