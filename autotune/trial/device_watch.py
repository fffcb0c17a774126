"""What is watched of the device while a candidate is measured, and whether the measurement was disturbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from autotune.bench.disturbance import CpuMeter
from autotune.bench.measure import Measurement
from autotune.devices.gpu import selected_gpu
from autotune.engines.protocol import CountsPool, Session
from autotune.telemetry.contention import host_cpu
from autotune.telemetry.gpu import DISTURBED, OwnProcesses, gpu_flags, gpu_probes, used_memory_mib
from autotune.telemetry.host import host_probes
from autotune.telemetry.sampler import Probe


class DeviceWatch:
    """The probes of a trial's device. Construct it before the engine is built, and call `opened` when it is."""

    def __init__(self, device: str) -> None:
        self._on_cpu = device == "cpu"
        self._gpu = selected_gpu() if device == "cuda" else None
        self._own = OwnProcesses(self._gpu) if self._gpu else None
        self._pool: CountsPool | None = None
        self._idle_mib = used_memory_mib(self._gpu) if self._gpu else None

    def opened(self, session: Session) -> None:
        """What the session brought to the device is the trial's own."""
        self._pool = session if isinstance(session, CountsPool) else None
        if self._own is not None:
            self._own.opened()

    def cpu_meter(self) -> CpuMeter | None:
        """What tells the windows that others on the host disturbed, where the CPU is what is measured."""
        return host_cpu() if self._on_cpu else None

    def measured(self, measure: Callable[[Sequence[Probe]], Measurement]) -> tuple[Measurement, tuple[str, ...]]:
        """What `measure` gave, and the flags of what the device did meanwhile.

        A disturbed measurement is made once more; a neighbour that stays would disturb every repetition.
        """
        found, flags = self._once(measure)
        if DISTURBED.intersection(flags):
            found, flags = self._once(measure)
            flags = (*flags, "repeated_after_disturbance")
        return found, flags

    def _once(self, measure: Callable[[Sequence[Probe]], Measurement]) -> tuple[Measurement, tuple[str, ...]]:
        found = measure(self._probes())
        if self._gpu is None:
            return found, ()
        return replace(found, peak_memory_mib=self._peak_mib(found)), gpu_flags(found.telemetry, found.load.warmup_s)

    def _probes(self) -> tuple[Probe, ...]:
        return (*host_probes(), *(gpu_probes(self._gpu, self._own) if self._gpu else ()))

    def _peak_mib(self, found: Measurement) -> float | None:
        """The most that the device held, less what it held before the engine was built; the host's memory is not meant.

        At least what the session's own pool counted: the device is asked ten times a second, and a short peak lies between.
        """
        used = next((s.values for s in found.telemetry if s.metric == "gpu_memory_used_mib"), ())
        if not used or self._idle_mib is None:
            return None
        counted = self._pool.pool_peak_mib() if self._pool is not None else None
        return max(counted or 0.0, max(used) - self._idle_mib)
