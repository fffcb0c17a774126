"""The NVIDIA GPUs of this machine, and the one that this process and its children use.

A study selects its GPU by UUID through CUDA_VISIBLE_DEVICES before any CUDA library is loaded. So every engine sees exactly one
device, number 0, and no engine needs to be told which: CUDA, NVML and `nvidia-smi` count GPUs in different orders.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from autotune.devices.build_target import build_target
from autotune.devices.nvml import ask, ask_or_none, handle_of
from autotune.devices.simulated import NAME, simulated_number
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import DeviceFingerprint, cpu_fingerprint

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_VISIBLE_BEFORE = "AUTOTUNE_VISIBLE_BEFORE"
"""What CUDA_VISIBLE_DEVICES said before a GPU was selected; set exactly when one was ("*": it said nothing)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One CUDA device: a whole GPU or a MIG instance. `cuda`: the newest CUDA version that the driver runs."""

    uuid: str
    name: str
    compute_capability: tuple[int, int]
    memory_mib: int
    driver: str
    cuda: str
    power_limit_w: int | None = None
    mig: bool = False

    @property
    def sm(self) -> str:
        """The compute capability as compilers write it, such as "sm_70"."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"

    def __str__(self) -> str:
        limit = f", {self.power_limit_w} W" if self.power_limit_w else ""
        return f"{self.name} ({'MIG instance, ' if self.mig else ''}{self.sm}, {self.memory_mib} MiB{limit})"


def all_gpus() -> tuple[Gpu, ...]:
    """Every CUDA device in the order of the PCI bus; a GPU in MIG mode stands as its instances. Raises EnvironmentProblem."""
    handles = [ask("nvmlDeviceGetHandleByIndex", i) for i in range(ask("nvmlDeviceGetCount"))]
    return tuple(_gpu(device, whole) for whole in handles for device in _instances(whole))


def visible_gpus() -> tuple[Gpu, ...]:
    """The devices that a user of this process may choose from: CUDA_VISIBLE_DEVICES as it was before one was selected.

    CUDA's rules: numbers or UUIDs, which may be shortened; the list ends at the first that does not exist. Raises
    EnvironmentProblem where NVML does not start.
    """
    before = os.environ.get(_VISIBLE_BEFORE)
    wanted = os.environ.get(_VISIBLE) if before is None else None if before == "*" else before
    return _visible(wanted)


def select_gpu(device: str) -> Gpu:
    """The GPU that `device`, "cuda" or "cuda:N", means is the only one for this process and for those that it starts.

    Raises EnvironmentProblem saying what is missing.
    """
    number = int(device.partition(":")[2] or 0)
    try:
        found = visible_gpus()
    except EnvironmentProblem as exc:
        what = str(exc).partition(" Try: ")[0]
        raise EnvironmentProblem(f"device: {device}: {what}", remedy=f"{exc.remedy}; or set device: cpu") from exc
    if number >= len(found):
        visible = os.environ.get(_VISIBLE_BEFORE, os.environ.get(_VISIBLE, "*"))
        limited = "" if visible == "*" else f" (CUDA_VISIBLE_DEVICES={visible})"
        there = "; ".join(f"cuda:{i} {gpu}" for i, gpu in enumerate(found)) or "none"
        raise EnvironmentProblem(
            f"device: {device}: this machine has no such GPU{limited}. Found: {there}.", remedy="nvidia-smi"
        )
    os.environ.setdefault(_VISIBLE_BEFORE, os.environ.get(_VISIBLE, "*"))
    os.environ[_VISIBLE] = found[number].uuid
    return found[number]


def selected_gpu() -> Gpu:
    """The device that CUDA libraries see first in this process. Raises EnvironmentProblem where they see none."""
    found = _visible(os.environ.get(_VISIBLE))
    if not found:
        hidden = os.environ.get(_VISIBLE)
        why = "this machine has none" if hidden is None else f"CUDA_VISIBLE_DEVICES={hidden!r} names none that exists"
        raise EnvironmentProblem(f"no NVIDIA GPU is visible: {why}.", remedy="nvidia-smi -L")
    return found[0]


def is_gpu_selected() -> bool:
    """True when this process, or one that started it, has selected a GPU."""
    return _VISIBLE_BEFORE in os.environ


def device_kind() -> str:
    """ "cuda" where a GPU is selected or built for, "fake" where a simulated device is, else "cpu"."""
    if simulated_number() is not None:
        return "fake"
    return "cuda" if is_gpu_selected() or build_target() is not None else "cpu"


def device_fingerprint(kind: str, distributions: tuple[str, ...] = ()) -> DeviceFingerprint:
    """The device of `kind`, "cpu", "cuda" or "fake", that this process uses or builds for, with the libraries' versions."""
    host = cpu_fingerprint(distributions)
    if kind == "cpu":
        return host
    if kind == "fake":
        return replace(host, device=NAME, kind=kind, instructions=())
    if (target := build_target()) is not None:
        name, system = f"built ahead of time for {target}", f"{host.system}, {host.device}"
        return replace(host, device=name, kind=kind, system=system, instructions=())
    gpu = selected_gpu()
    return DeviceFingerprint(
        device=str(gpu),
        kind=kind,
        cores=host.cores,
        memory_mib=gpu.memory_mib,
        system=f"{host.system}, {host.device}",
        versions={**host.versions, "nvidia-driver": gpu.driver, "cuda-driver": gpu.cuda},
    )


def _visible(wanted: str | None) -> tuple[Gpu, ...]:
    present = _all_gpus_once(os.getpid())
    if wanted is None:
        return present
    chosen: list[Gpu] = []
    for word in (w.strip() for w in wanted.split(",")):
        found = [g for i, g in enumerate(present) if (word.isdigit() and i == int(word)) or (word and g.uuid.startswith(word))]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return tuple(chosen)


@lru_cache(maxsize=1)
def _all_gpus_once(pid: int) -> tuple[Gpu, ...]:
    """`all_gpus`, asked once in each process: none is plugged in while a study runs."""
    return all_gpus()


def _instances(whole: Any) -> list[Any]:
    """The GPU itself, or its MIG instances where it is in MIG mode."""
    mode = ask_or_none("nvmlDeviceGetMigMode", whole)
    if not mode or not mode[0]:
        return [whole]
    slots = range(ask_or_none("nvmlDeviceGetMaxMigDeviceCount", whole) or 0)
    return [found for i in slots if (found := ask_or_none("nvmlDeviceGetMigDeviceHandleByIndex", whole, i)) is not None]


def _gpu(handle: Any, whole: Any) -> Gpu:
    cuda = int(ask("nvmlSystemGetCudaDriverVersion"))
    limit_mw = ask_or_none("nvmlDeviceGetEnforcedPowerLimit", whole)
    return Gpu(
        uuid=str(ask("nvmlDeviceGetUUID", handle)),
        name=str(ask("nvmlDeviceGetName", handle)),
        compute_capability=tuple(ask("nvmlDeviceGetCudaComputeCapability", whole)),  # an instance has its GPU's
        memory_mib=int(ask("nvmlDeviceGetMemoryInfo", handle).total) >> 20,
        driver=str(ask("nvmlSystemGetDriverVersion")),
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
        power_limit_w=None if limit_mw is None else round(limit_mw / 1000),
        mig=handle is not whole,
    )


def gpu_handle(gpu: Gpu) -> Any:
    """NVML's handle of `gpu`. Raises NvmlProblem or EnvironmentProblem."""
    return handle_of(gpu.uuid)
