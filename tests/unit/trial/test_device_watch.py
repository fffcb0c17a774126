"""DeviceWatch: what a GPU did during a load becomes peak memory and flags, and a disturbed load is measured once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")

from assets.fake_nvml import FakeGpu, install

from autotune.bench.load import LoadResult
from autotune.bench.measure import Measurement
from autotune.records import Estimate, LatencySummary, Series
from autotune.telemetry.sampler import Probe
from autotune.trial.device_watch import DeviceWatch

RATE = Estimate(value=10.0, low=9.0, high=11.0, n=5, method="")


class NoPool:
    """A session without a pool of its own."""

    slots = 1


def read_thrice(probes: Sequence[Probe], before_each: Any = lambda i: None) -> Measurement:
    """A load of 3 s that reads every probe once a second; the first second is warm-up."""
    values: dict[str, list[float]] = {p.metric: [] for p in probes}
    for i in range(3):
        before_each(i)
        for probe in probes:
            if probe.absent is None:
                values[probe.metric].append(probe.read())
    series = tuple(
        Series(metric=p.metric, unit=p.unit, t_s=(0.0, 1.0, 2.0)[: len(values[p.metric])], values=tuple(values[p.metric]),
               absent=p.absent)
        for p in probes
    )  # fmt: skip
    load = LoadResult(
        throughput_items_per_s=RATE, latency_ms=LatencySummary(), n_requests=9, window_rates=(10.0,), measured_s=2.0,
        warmup_s=1.0, flags=(),
    )  # fmt: skip
    return Measurement(load=load, peak_memory_mib=99.0, energy_j_per_item=None, power_w=None, telemetry=series)


def test_peak_memory_is_the_devices_above_what_was_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 MiB were in use, 812 at most during the load: 300; the host's 99 MiB are not meant."""
    card = FakeGpu(used=512 << 20)
    install(monkeypatch, card)
    watch = DeviceWatch("cuda")
    card.used, card.processes = 700 << 20, [77]
    watch.opened(NoPool())  # type: ignore[arg-type]

    def grow(i: int) -> None:
        card.used = (700, 812, 750)[i] << 20

    found, flags = watch.measured(lambda probes: read_thrice(probes, grow))
    assert found.peak_memory_mib == 300.0 and flags == ()
    assert {"gpu_energy_j", "cpu_percent", "gpu_foreign_processes"} <= {s.metric for s in found.telemetry}


def test_a_peak_between_two_samples_is_what_the_engines_pool_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML saw 300 MiB at its tenths of a second; the pool had handed out 350 at once, and knows it exactly."""
    card = FakeGpu(used=512 << 20)
    install(monkeypatch, card)
    watch = DeviceWatch("cuda")
    card.used = 812 << 20

    class Counting(NoPool):
        def pool_peak_mib(self) -> float:
            return 350.0

    watch.opened(Counting())  # type: ignore[arg-type]
    found, _ = watch.measured(read_thrice)
    assert found.peak_memory_mib == 350.0


def test_a_disturbance_that_passes_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process was there the first time only: the second measurement counts, and says that it is one."""
    card = FakeGpu()
    install(monkeypatch, card)
    watch = DeviceWatch("cuda")
    watch.opened(NoPool())  # type: ignore[arg-type]
    calls: list[int] = []

    def measure(probes: Sequence[Probe]) -> Measurement:
        card.processes = [] if calls else [12]
        calls.append(1)
        return read_thrice(probes)

    assert watch.measured(measure)[1] == ("repeated_after_disturbance",) and len(calls) == 2


def test_a_disturbance_that_stays_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two measurements, not more; a power cap alone repeats nothing."""
    card = FakeGpu(events=0x20)
    install(monkeypatch, card)
    watch = DeviceWatch("cuda")
    watch.opened(NoPool())  # type: ignore[arg-type]
    assert watch.measured(read_thrice)[1] == ("gpu_thermal_slowdown", "repeated_after_disturbance")
    card.events = 0x4
    assert watch.measured(read_thrice)[1] == ("gpu_power_cap",)


def test_on_the_cpu_nothing_is_asked_of_a_gpu() -> None:
    """The measurement is as it was, and no probe is NVML's."""
    found, flags = DeviceWatch("cpu").measured(read_thrice)
    assert found.peak_memory_mib == 99.0 and flags == ()
    assert not [s.metric for s in found.telemetry if s.metric.startswith("gpu_")]


def test_a_device_without_memory_figures_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that was not measured is absent, and not the host's."""
    install(monkeypatch, FakeGpu())
    from autotune.devices.gpu import selected_gpu

    selected_gpu()  # found while its memory could be read
    monkeypatch.setattr("autotune.trial.device_watch.used_memory_mib", lambda gpu: None)
    watch = DeviceWatch("cuda")
    watch.opened(NoPool())  # type: ignore[arg-type]
    assert watch.measured(read_thrice)[0].peak_memory_mib is None


def test_windows_are_watched_where_the_cpu_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A meter of the host's CPUs for CPU engines; on a GPU its own telemetry says what disturbed it."""
    meter = DeviceWatch("cpu").cpu_meter()
    assert meter is None or 0 <= meter.lap() <= 1
    install(monkeypatch, FakeGpu())
    assert DeviceWatch("cuda").cpu_meter() is None
