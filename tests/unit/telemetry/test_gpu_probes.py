"""GPU probes: each metric degrades alone with NVML's reason, and what happened to the GPU becomes flags."""

from __future__ import annotations

import pytest

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'autotune[nvml]'")

from assets.fake_nvml import FakeGpu, install  # noqa: E402

from autotune.devices.gpu import selected_gpu  # noqa: E402
from autotune.records import Series  # noqa: E402
from autotune.telemetry import gpu as telemetry  # noqa: E402


def readings(own: telemetry.OwnProcesses | None = None) -> tuple[dict[str, float], dict[str, str]]:
    """Values of the metrics that are there, and reasons of those that are not."""
    probes = telemetry.gpu_probes(selected_gpu(), own)
    return {p.metric: p.read() for p in probes if p.absent is None}, {p.metric: p.absent for p in probes if p.absent}


def test_every_metric_comes_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML gives mJ, mW, bytes and KB/s; the series are J, W, MiB and MB/s."""
    install(monkeypatch, FakeGpu(events=0x4))
    values, absent = readings()
    assert absent == {}
    assert values == {
        "gpu_energy_j": 1000.0,
        "gpu_power_w": 250.0,
        "gpu_sm_clock_mhz": 1380.0,
        "gpu_memory_clock_mhz": 877.0,
        "gpu_temperature_c": 55.0,
        "gpu_utilization_percent": 97.0,
        "gpu_memory_utilization_percent": 40.0,
        "gpu_memory_used_mib": 512.0,
        "gpu_clock_events": 4.0,
        "gpu_pcie_generation": 3.0,
        "gpu_pcie_width": 16.0,
        "gpu_ecc_corrected": 3.0,
        "gpu_ecc_uncorrected": 0.0,
        "gpu_pcie_to_host_mb_per_s": 100.0,
        "gpu_pcie_to_gpu_mb_per_s": 2500.0,
    }


def test_what_blocks_is_read_last_and_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """PCIe throughput waits 20 ms: the other samples of its round come before it, and nine rounds go without."""
    install(monkeypatch, FakeGpu())
    probes = telemetry.gpu_probes(selected_gpu(), telemetry.OwnProcesses(selected_gpu()))
    assert [p.every for p in probes] == [1] * (len(probes) - 2) + [10, 10]
    assert [p.metric.startswith("gpu_pcie_to") for p in probes[-2:]] == [True, True]


def test_a_metric_that_the_driver_refuses_is_absent_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under MIG, where power and energy are the whole card's: NVML's own words, and the others go on."""
    install(monkeypatch, FakeGpu(lacks=frozenset({"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetUtilizationRates"})))
    values, absent = readings()
    assert set(absent) == {"gpu_energy_j", "gpu_utilization_percent", "gpu_memory_utilization_percent"}
    assert "nvmlDeviceGetTotalEnergyConsumption: Not Supported" in absent["gpu_energy_j"] and values["gpu_power_w"] == 250.0


def test_an_older_driver_is_asked_by_the_older_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C function that the library lacks is replaced by its predecessor."""
    install(monkeypatch, FakeGpu(events=0x20), missing=frozenset({"nvmlDeviceGetCurrentClocksEventReasons"}))
    assert readings()[0]["gpu_clock_events"] == 32.0


def test_without_a_driver_all_metrics_are_absent_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that was there and is gone fails nothing but its metrics."""
    install(monkeypatch, FakeGpu())
    gpu = selected_gpu()
    install(monkeypatch, init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    probes = telemetry.gpu_probes(gpu)
    assert len(probes) == 15 and all(p.absent and "modprobe" in p.absent for p in probes)


def test_a_process_is_foreign_unless_it_came_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are the host's, so only the moment of coming tells: 10 was there, 11 came with us, 12 came during the load."""
    card = FakeGpu(processes=[10])
    install(monkeypatch, card)
    own = telemetry.OwnProcesses(selected_gpu())
    card.processes = [11]
    own.opened()
    assert own.n_foreign() == 0
    card.processes = [10, 11, 12]
    assert readings(own)[0]["gpu_foreign_processes"] == 2


def series(metric: str, *values: float) -> Series:
    """A value each second from 0 on."""
    return Series(metric=metric, unit="1", t_s=tuple(map(float, range(len(values)))), values=values)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("ThrottleReasonHwThermalSlowdown", "gpu_thermal_slowdown"),
        ("EventReasonSwThermalSlowdown", "gpu_thermal_slowdown"),
        ("ThrottleReasonHwPowerBrakeSlowdown", "gpu_power_brake"),
        ("ThrottleReasonHwSlowdown", "gpu_hardware_slowdown"),
        ("EventReasonSwPowerCap", "gpu_power_cap"),
    ],
)
def test_clock_events_become_flags(name: str, flag: str) -> None:
    """By the package's own constants; an event before the warm-up ended does not count."""
    bit = float(getattr(pynvml, f"nvmlClocks{name}"))
    assert telemetry.gpu_flags([series("gpu_clock_events", 0, 0, bit)], 1.0) == (flag,)
    assert telemetry.gpu_flags([series("gpu_clock_events", bit, 0, 0)], 1.0) == ()
    assert (flag in telemetry.DISTURBED) == (flag != "gpu_power_cap")


def test_a_clock_below_nine_tenths_is_a_drop() -> None:
    """1241 of 1380 MHz is 0.8993; 1242 is exactly 0.9."""
    assert telemetry.gpu_flags([series("gpu_sm_clock_mhz", 300, 1380, 1241)], 1.0) == ("gpu_clock_drop",)
    assert telemetry.gpu_flags([series("gpu_sm_clock_mhz", 300, 1380, 1242)], 1.0) == ()


def test_the_power_cap_explains_a_lower_clock() -> None:
    """It is how a GPU works at its limit: told, but a repetition would meet it again."""
    clocks = series("gpu_sm_clock_mhz", 300, 1980, 1700)
    assert telemetry.gpu_flags([series("gpu_clock_events", 0, 0, 0x4), clocks], 1.0) == ("gpu_power_cap",)


def test_foreign_processes_are_flagged_and_nothing_read_flags_nothing() -> None:
    """An absent metric is no evidence."""
    assert telemetry.gpu_flags([series("gpu_foreign_processes", 0, 0, 1)], 1.0) == ("gpu_shared",)
    assert telemetry.gpu_flags([Series(metric="gpu_clock_events", unit="bits", absent="Not Supported")], 0.0) == ()
