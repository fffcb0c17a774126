"""A double of libnvidia-ml.so.1: functions that fill the real package's own structures, so all of nvidia-ml-py's code runs.

`nvidia-ml-py` finds a C function by name and calls it with ctypes arguments. Here `pynvml.nvmlLib` is an object whose methods
have those names. A function that is not defined here is one that the driver lacks: the package then
raises FunctionNotFound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pynvml
import pytest

OK, NOT_SUPPORTED, NOT_FOUND, TOO_SMALL = (
    pynvml.NVML_SUCCESS,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_INSUFFICIENT_SIZE,
)


@dataclass(kw_only=True)
class FakeGpu:
    """One GPU; tests change its fields between calls. `lacks`: C functions that answer NOT_SUPPORTED on it."""

    uuid: str = "GPU-aaaa"
    name: str = "Tesla V100-SXM2-16GB"
    capability: tuple[int, int] = (7, 0)
    memory: int = 16384 << 20
    used: int = 512 << 20
    power_mw: int = 250_000
    limit_mw: int = 300_000
    energy_mj: int = 1_000_000
    sm_clock: int = 1380
    memory_clock: int = 877
    temperature: int = 55
    events: int = 0
    processes: list[int] = field(default_factory=list)
    mig_uuids: list[str] = field(default_factory=list)
    lacks: frozenset[str] = frozenset()


class FakeLibrary:
    """The C library with these GPUs. `init`: what nvmlInit returns; `missing`: functions that this driver does not have."""

    def __init__(self, *gpus: FakeGpu, init: int = OK, missing: frozenset[str] = frozenset()) -> None:
        self._gpus, self._init, self._missing = gpus, init, missing

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "_missing"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    # Handles are numbers: 1000 times the GPU's place, plus the place of a MIG instance in it.

    def _of(self, handle: Any) -> FakeGpu:
        return self._gpus[_number(handle) // 1000 - 1]

    def _fill(self, function: str, handle: Any, target: Any, name: str) -> int:
        return self._answer(function, handle, lambda gpu: setattr(target._obj, "value", getattr(gpu, name)))

    def _answer(self, function: str, handle: Any, fill: Callable[[FakeGpu], None]) -> int:
        gpu = self._of(handle)
        if function in gpu.lacks:
            return NOT_SUPPORTED
        fill(gpu)
        return OK

    def nvmlInitWithFlags(self, flags: int) -> int:
        return self._init

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return OK

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        return _point(handle, 1000 * (index.value + 1))

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:
        for i, gpu in enumerate(self._gpus):
            known = [gpu.uuid, *gpu.mig_uuids]
            if uuid.value.decode() in known:
                return _point(handle, 1000 * (i + 1) + known.index(uuid.value.decode()))
        return NOT_FOUND

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, size: Any) -> int:
        gpu, part = self._of(handle), _number(handle) % 1000
        text.value = (gpu.mig_uuids[part - 1] if part else gpu.uuid).encode()
        return OK

    def nvmlDeviceGetName(self, handle: Any, text: Any, size: Any) -> int:
        text.value = self._of(handle).name.encode()
        return OK

    def nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int:
        gpu = self._of(handle)
        if gpu.capability < (8, 0):
            return NOT_SUPPORTED
        current._obj.value = pending._obj.value = bool(gpu.mig_uuids)
        return OK

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        count._obj.value = 7
        return OK

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, instance: Any) -> int:
        number = int(getattr(index, "value", index))
        if number >= len(self._of(handle).mig_uuids):
            return NOT_FOUND
        return _point(instance, _number(handle) + 1 + number)

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = self._of(handle).capability
        return OK

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        def fill(gpu: FakeGpu) -> None:
            memory._obj.total, memory._obj.used, memory._obj.free = gpu.memory, gpu.used, gpu.memory - gpu.used

        return self._answer("nvmlDeviceGetMemoryInfo", handle, fill)

    def nvmlSystemGetDriverVersion(self, text: Any, size: Any) -> int:
        text.value = b"550.54.15"
        return OK

    def nvmlSystemGetCudaDriverVersion(self, version: Any) -> int:
        version._obj.value = 12040
        return OK

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, limit: Any) -> int:
        return self._fill("nvmlDeviceGetEnforcedPowerLimit", handle, limit, "limit_mw")

    def nvmlDeviceGetPowerUsage(self, handle: Any, watts: Any) -> int:
        return self._fill("nvmlDeviceGetPowerUsage", handle, watts, "power_mw")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, energy: Any) -> int:
        return self._fill("nvmlDeviceGetTotalEnergyConsumption", handle, energy, "energy_mj")

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: Any, clock: Any) -> int:
        which = "sm_clock" if kind.value == pynvml.NVML_CLOCK_SM else "memory_clock"
        return self._fill("nvmlDeviceGetClockInfo", handle, clock, which)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: Any, celsius: Any) -> int:
        return self._fill("nvmlDeviceGetTemperature", handle, celsius, "temperature")

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any, bits: Any) -> int:
        return self._fill("nvmlDeviceGetCurrentClocksEventReasons", handle, bits, "events")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any, bits: Any) -> int:
        return self._fill("nvmlDeviceGetCurrentClocksThrottleReasons", handle, bits, "events")

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        def fill(gpu: FakeGpu) -> None:
            rates._obj.gpu, rates._obj.memory = 97, 40

        return self._answer("nvmlDeviceGetUtilizationRates", handle, fill)

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle: Any, generation: Any) -> int:
        generation._obj.value = 3
        return OK

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: Any, width: Any) -> int:
        width._obj.value = 16
        return OK

    def nvmlDeviceGetPcieThroughput(self, handle: Any, counter: Any, kb_per_s: Any) -> int:
        kb_per_s._obj.value = 2_500_000 if counter.value == pynvml.NVML_PCIE_UTIL_RX_BYTES else 100_000
        return OK

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: Any, counter: Any, count: Any) -> int:
        count._obj.value = 3 if kind.value == pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED else 0
        return OK

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, found: Any) -> int:
        processes = self._of(handle).processes
        room = count._obj.value
        count._obj.value = len(processes)
        if found is None or room < len(processes):
            return TOO_SMALL if processes else OK
        for i, pid in enumerate(processes):
            found[i].pid = pid
        return OK


def _number(handle: Any) -> int:
    """A handle is a pointer to an opaque structure; its address is the number."""
    import ctypes

    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)


def _point(target: Any, number: int) -> int:
    """The handle that `target` refers to points at `number`."""
    import ctypes

    ctypes.cast(ctypes.pointer(target._obj), ctypes.POINTER(ctypes.c_void_p))[0] = number
    return OK


def install(monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu, init: int = OK, missing: frozenset[str] = frozenset()) -> None:
    """nvidia-ml-py talks to a driver with these GPUs, and no GPU is selected yet."""
    from autotune.devices import gpu, nvml

    monkeypatch.setattr(pynvml, "nvmlLib", FakeLibrary(*gpus, init=init, missing=missing))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(nvml, "_initialized_by", None)
    for name in ("CUDA_VISIBLE_DEVICES", "AUTOTUNE_VISIBLE_BEFORE"):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(gpu, "_all_gpus_once", lru_cache(gpu._all_gpus_once.__wrapped__))
