"""Probes of the NVIDIA GPU that is measured on, through NVML, and what its telemetry says about a measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autotune.devices.gpu import Gpu, gpu_handle
from autotune.devices.nvml import NvmlProblem, ask, nvml
from autotune.errors import EnvironmentProblem
from autotune.records import Series
from autotune.telemetry.host import FunctionProbe
from autotune.telemetry.sampler import Probe

_CLOCK_SHARE = 0.9
"""A window whose SM clock falls below nine tenths of what the same load reached was not measured on one machine."""


def gpu_probes(gpu: Gpu, own_processes: OwnProcesses | None = None) -> tuple[Probe, ...]:
    """Probes of `gpu`; each that the driver, a container, MIG or vGPU does not give is absent with NVML's reason.

    `own_processes` tells foreign processes on the GPU from those of the trial; without it they are not counted.
    """
    try:
        handle, pynvml = gpu_handle(gpu), nvml()
    except (NvmlProblem, EnvironmentProblem) as exc:
        reason = str(exc)
        return tuple(_unreadable(metric, unit, reason) for metric, unit, _ in (*_READERS, *_BLOCKING))
    probes = [FunctionProbe(metric, unit, _bound(read, pynvml, handle)) for metric, unit, read in _READERS]
    if own_processes is not None:
        probes.append(FunctionProbe("gpu_foreign_processes", "1", own_processes.n_foreign))
    probes += [FunctionProbe(metric, unit, _bound(read, pynvml, handle), every=_RARELY) for metric, unit, read in _BLOCKING]
    return tuple(probes)


def _unreadable(metric: str, unit: str, reason: str) -> FunctionProbe:
    def refuse() -> float:
        raise RuntimeError(reason)

    return FunctionProbe(metric, unit, refuse)


def _bound(read: Callable[[Any, Any], float], pynvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: float(read(pynvml, handle))


def _temperature_c(p: Any, handle: Any) -> float:
    """The older call is deprecated, the newer one unknown to drivers before R555."""
    try:
        return float(ask("nvmlDeviceGetTemperatureV", handle, p.NVML_TEMPERATURE_GPU))
    except NvmlProblem:
        return float(ask("nvmlDeviceGetTemperature", handle, p.NVML_TEMPERATURE_GPU))


def _events(p: Any, handle: Any) -> float:
    """The clock-event bits. Drivers before R535 know them as throttle reasons."""
    try:
        return float(ask("nvmlDeviceGetCurrentClocksEventReasons", handle))
    except NvmlProblem:
        return float(ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle))


def _ecc_errors(handle: Any, kind: int, p: Any) -> float:
    """Since the driver was loaded."""
    return float(ask("nvmlDeviceGetTotalEccErrors", handle, kind, p.NVML_VOLATILE_ECC))


def _pcie_mb_per_s(p: Any, handle: Any, counter: int) -> float:
    """NVML gives KB/s over the last 20 ms, and blocks for as long (nvml.h: nvmlDeviceGetPcieThroughput)."""
    return float(ask("nvmlDeviceGetPcieThroughput", handle, counter)) / 1000


_READERS: tuple[tuple[str, str, Callable[[Any, Any], float]], ...] = (
    ("gpu_energy_j", "J", lambda p, h: ask("nvmlDeviceGetTotalEnergyConsumption", h) / 1000),
    ("gpu_power_w", "W", lambda p, h: ask("nvmlDeviceGetPowerUsage", h) / 1000),
    ("gpu_sm_clock_mhz", "MHz", lambda p, h: ask("nvmlDeviceGetClockInfo", h, p.NVML_CLOCK_SM)),
    ("gpu_memory_clock_mhz", "MHz", lambda p, h: ask("nvmlDeviceGetClockInfo", h, p.NVML_CLOCK_MEM)),
    ("gpu_temperature_c", "°C", _temperature_c),
    ("gpu_utilization_percent", "%", lambda p, h: ask("nvmlDeviceGetUtilizationRates", h).gpu),
    ("gpu_memory_utilization_percent", "%", lambda p, h: ask("nvmlDeviceGetUtilizationRates", h).memory),
    ("gpu_memory_used_mib", "MiB", lambda p, h: ask("nvmlDeviceGetMemoryInfo", h).used / 2**20),
    ("gpu_clock_events", "bits", _events),
    ("gpu_pcie_generation", "1", lambda p, h: ask("nvmlDeviceGetCurrPcieLinkGeneration", h)),
    ("gpu_pcie_width", "lanes", lambda p, h: ask("nvmlDeviceGetCurrPcieLinkWidth", h)),
    ("gpu_ecc_corrected", "1", lambda p, h: _ecc_errors(h, p.NVML_MEMORY_ERROR_TYPE_CORRECTED, p)),
    ("gpu_ecc_uncorrected", "1", lambda p, h: _ecc_errors(h, p.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, p)),
)
"""Metric, unit, and how it is read ten times a second."""
_BLOCKING: tuple[tuple[str, str, Callable[[Any, Any], float]], ...] = (
    ("gpu_pcie_to_host_mb_per_s", "MB/s", lambda p, h: _pcie_mb_per_s(p, h, p.NVML_PCIE_UTIL_TX_BYTES)),
    ("gpu_pcie_to_gpu_mb_per_s", "MB/s", lambda p, h: _pcie_mb_per_s(p, h, p.NVML_PCIE_UTIL_RX_BYTES)),
)
"""The same, for what is read once a second and last, because reading waits 20 ms."""
_RARELY = 10


def used_memory_mib(gpu: Gpu) -> float | None:
    """Memory of the device that is in use now, by whomever; None where NVML does not say."""
    try:
        return float(ask("nvmlDeviceGetMemoryInfo", gpu_handle(gpu)).used) / 2**20
    except (NvmlProblem, EnvironmentProblem):
        return None


class OwnProcesses:
    """Which processes on the GPU are the trial's: those that appeared while its session was opened.

    NVML gives process ids of the host, which in a container are not ours, so they are told apart by when they came.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._before = self._now()
        self._own: frozenset[int] = frozenset()

    def opened(self) -> None:
        """The trial's session is open: whatever came since construction is its own."""
        self._own = self._now() - self._before

    def n_foreign(self) -> float:
        """Processes that compute on the GPU and are not the trial's. Raises NvmlProblem."""
        return float(len(_process_ids(self._gpu) - self._own))

    def _now(self) -> frozenset[int]:
        try:
            return _process_ids(self._gpu)
        except (NvmlProblem, EnvironmentProblem):
            return frozenset()  # the probe then says why


def _process_ids(gpu: Gpu) -> frozenset[int]:
    return frozenset(int(p.pid) for p in ask("nvmlDeviceGetComputeRunningProcesses", gpu_handle(gpu)))


DISTURBED = frozenset({"gpu_thermal_slowdown", "gpu_power_brake", "gpu_hardware_slowdown", "gpu_clock_drop", "gpu_shared"})
"""Flags after which a measurement is repeated: what was measured was not the candidate alone."""

EVENT_FLAGS: Mapping[int, str] = {
    0x20: "gpu_thermal_slowdown",
    0x40: "gpu_thermal_slowdown",
    0x80: "gpu_power_brake",
    0x08: "gpu_hardware_slowdown",
    0x04: "gpu_power_cap",
}
"""Clock-event bit (nvml.h: nvmlClocksEventReason… and nvmlClocksThrottleReason…, the same numbers) → flag.
The power cap is how a GPU works at its limit: told, but no reason to repeat."""


def gpu_flags(series: Sequence[Series], warmup_s: float) -> tuple[str, ...]:
    """What happened to the GPU after the warm-up, as flags of the trial; empty where nothing did or nothing could be read."""
    values = {s.metric: [v for t, v in zip(s.t_s, s.values, strict=True) if t >= warmup_s] for s in series}
    flags: list[str] = []
    if events := values.get("gpu_clock_events"):
        seen = 0
        for bits in events:
            seen |= int(bits)
        flags += [flag for bit, flag in EVENT_FLAGS.items() if seen & bit]
    capped = "gpu_power_cap" in flags  # lowers the clock, and would do so in every repetition
    if not capped and (clocks := values.get("gpu_sm_clock_mhz")) and min(clocks) < _CLOCK_SHARE * max(clocks):
        flags.append("gpu_clock_drop")
    if any(values.get("gpu_foreign_processes", ())):
        flags.append("gpu_shared")
    return tuple(dict.fromkeys(flags))
