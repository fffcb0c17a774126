"""The sampler and its probes: each metric degrades alone, and what could not be read is absent with the reason."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from autotune.telemetry.host import FunctionProbe, RaplEnergy, host_probes
from autotune.telemetry.sampler import PERIOD_S, Sampler


def sampled(*probes: FunctionProbe, n_samples: int = 2) -> dict[str, tuple[tuple[float, ...], str | None]]:
    """Values and reasons by metric, once the last probe has so many samples: a busy machine takes them late."""
    with Sampler(probes) as sampler:
        deadline = time.monotonic() + 20
        while n_samples and len(sampler.series()[-1].values) < n_samples and time.monotonic() < deadline:
            time.sleep(PERIOD_S / 2)
    return {s.metric: (s.values, s.absent) for s in sampler.series()}


def test_samples_come_at_most_ten_times_a_second_with_rising_times() -> None:
    """Times are seconds since the block began, the first after one period."""
    began = time.monotonic()
    with Sampler([FunctionProbe("one", "1", lambda: 1.0)]) as sampler:
        while len(sampler.series()[0].values) < 4 and time.monotonic() < began + 20:
            time.sleep(PERIOD_S / 2)
    took = time.monotonic() - began
    (series,) = sampler.series()
    assert 4 <= len(series.values) <= took / PERIOD_S and set(series.values) == {1.0}
    assert series.t_s[0] >= PERIOD_S and list(series.t_s) == sorted(set(series.t_s)) and series.t_s[-1] < took
    assert (series.metric, series.unit, series.absent) == ("one", "1", None)


def test_a_probe_that_blocks_is_read_rarely() -> None:
    """Of a load of a few samples the first alone; constructing the probe reads it once more."""
    n_reads = 0

    def read() -> float:
        nonlocal n_reads
        n_reads += 1
        return float(n_reads)

    found = sampled(FunctionProbe("slow", "1", read, every=1000), FunctionProbe("one", "1", lambda: 1.0))
    assert found["slow"][0] == (2.0,) and len(found["one"][0]) >= 2


def test_a_probe_that_cannot_be_read_is_absent_from_the_start() -> None:
    """The reason is what the system said; the others go on."""

    def refused() -> float:
        raise PermissionError("energy_uj: permission denied")

    found = sampled(FunctionProbe("energy", "J", refused), FunctionProbe("one", "1", lambda: 1.0))
    assert found["energy"] == ((), "PermissionError: energy_uj: permission denied")
    assert found["one"][1] is None and found["one"][0]


def test_a_probe_that_fails_midway_keeps_what_it_gave() -> None:
    """Three reads work (the first is the constructor's), then the driver goes away: two values stay."""
    reads = iter([0.0, 1.0, 2.0])

    def read() -> float:
        value = next(reads, None)
        if value is None:
            raise RuntimeError("driver gone")
        return value

    found = sampled(FunctionProbe("flaky", "1", read), FunctionProbe("one", "1", lambda: 1.0))
    assert found["flaky"][0] == (1.0, 2.0)
    assert len(found["one"][0]) >= 2


def test_a_long_load_is_sampled_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full series loses every second sample, the first stays, and later ones come half as often."""
    monkeypatch.setattr("autotune.telemetry.sampler.MOST_SAMPLES", 6)
    sampler = Sampler([FunctionProbe("one", "1", lambda: 1.0), FunctionProbe("gone", "1", lambda: 1.0)])
    sampler._seen = {"one": ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "gone": ([0.1, 0.2], [7.0, 8.0])}
    sampler._bound()
    one, gone = sampler.series()
    assert (one.t_s, one.values) == ((0.1, 0.3, 0.5), (1.0, 3.0, 5.0)) and gone.values == (7.0,)
    assert sampler._period_s == 2 * PERIOD_S
    sampler._bound()
    assert sampler._period_s == 2 * PERIOD_S


def test_a_load_shorter_than_a_period_says_so() -> None:
    """No sample is not the same as no probe."""
    assert sampled(FunctionProbe("one", "1", lambda: 1.0), n_samples=0)["one"] == ((), "the load ended before the first sample")


def test_host_probes_read_this_process() -> None:
    """Resident memory of this process is between 10 MiB and all there is; cpu time is a share; each has a unit."""
    probes = {p.metric: p for p in host_probes(os.getpid())}
    assert probes["process_rss_mib"].absent is None and 10 < probes["process_rss_mib"].read() < 1 << 20
    assert probes["cpu_percent"].absent is None and 0 <= probes["cpu_percent"].read() <= 100
    assert all(p.unit for p in probes.values())


def powercap(root: Path, **packages: int) -> None:
    """A powercap folder as Linux shows it: packages with a counter in microjoules, and a sub-zone that must not count twice."""
    for name, energy in packages.items():
        zone = root / name.replace("_", "-", 1).replace("_", ":")
        zone.mkdir(exist_ok=True)
        (zone / "energy_uj").write_text(str(energy))
        (zone / "max_energy_range_uj").write_text("1000000")


def test_rapl_adds_packages_and_leaves_subzones_out(tmp_path: Path) -> None:
    """Two packages gain 0.3 J and 0.2 J: 0.5 J; the core sub-zone intel-rapl:0:0 is part of package 0 already."""
    powercap(tmp_path, intel_rapl_0=100_000, intel_rapl_1=0, intel_rapl_0_0=0)
    energy = RaplEnergy(tmp_path)
    assert energy.read_j() == 0
    powercap(tmp_path, intel_rapl_0=400_000, intel_rapl_1=200_000, intel_rapl_0_0=900_000)
    assert energy.read_j() == pytest.approx(0.5)


def test_rapl_counters_wrap(tmp_path: Path) -> None:
    """From 0.9 J past the wrap at 1 J to 0.1 J is 0.2 J gained, not 0.8 J lost."""
    powercap(tmp_path, intel_rapl_0=900_000)
    energy = RaplEnergy(tmp_path)
    energy.read_j()
    powercap(tmp_path, intel_rapl_0=100_000)
    assert energy.read_j() == pytest.approx(0.2)


def test_without_rapl_the_reason_is_told(tmp_path: Path) -> None:
    """A virtual machine has no counter: the probe is absent, and says why."""
    probe = FunctionProbe("cpu_energy_j", "J", RaplEnergy(tmp_path).read_j)
    assert probe.absent is not None and "no RAPL counter" in probe.absent
