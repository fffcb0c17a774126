"""What others took of the CPUs, from a /proc/stat written by hand. 100 ticks are a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.telemetry.contention import HostCpu, host_cpu


class Host:
    """Two CPUs and a third that is not ours; columns: user nice system idle iowait irq softirq steal guest guest_nice."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "stat"
        self.now = self.own = 0.0
        self.user, self.steal = [0, 0, 0], [0, 0, 0]

    def write(self) -> None:
        lines = [f"cpu{i} {u} 0 0 500 0 0 0 {s} 0 0" for i, (u, s) in enumerate(zip(self.user, self.steal, strict=True))]
        self._file.write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 1 2 3"]))

    def meter(self, usable: int = 2) -> HostCpu:
        self.write()
        return HostCpu(
            self._file, own_s=lambda: self.own, clock=lambda: self.now, cpus=frozenset({0, 1}), usable=usable, ticks_per_s=100
        )

    def passes(self, seconds: float, own_s: float, busy_s: tuple[float, ...], steal_s: tuple[float, ...] = (0, 0, 0)) -> None:
        self.now += seconds
        self.own += own_s
        self.user = [u + round(100 * b) for u, b in zip(self.user, busy_s, strict=True)]
        self.steal = [u + round(100 * s) for u, s in zip(self.steal, steal_s, strict=True)]
        self.write()


def test_alone_on_the_machine(tmp_path: Path) -> None:
    """Both CPUs were busy for 2 s and all of it was ours."""
    host = Host(tmp_path)
    meter = host.meter()
    host.passes(2, own_s=4, busy_s=(2, 2, 0))
    assert meter.lap() == 0.0


def test_a_foreign_process(tmp_path: Path) -> None:
    """Of 4 CPU seconds in 2 s ours had 3 and somebody else 1: a quarter. What runs on the third CPU is none of ours."""
    host = Host(tmp_path)
    meter = host.meter()
    host.passes(2, own_s=3, busy_s=(2, 2, 2))
    assert meter.lap() == pytest.approx(0.25) and meter.lap() == 0.0


def test_steal_counts_like_a_neighbour(tmp_path: Path) -> None:
    """The hypervisor took 0.2 s of 2 CPU seconds."""
    host = Host(tmp_path)
    meter = host.meter()
    host.passes(1, own_s=1.8, busy_s=(0.9, 0.9, 0), steal_s=(0.1, 0.1, 0.5))
    assert meter.lap() == pytest.approx(0.1)


def test_under_a_quota_only_what_is_left_matters(tmp_path: Path) -> None:
    """One of two CPUs may be used: a neighbour on the other takes nothing away; one on both takes what he takes of the last."""
    host = Host(tmp_path)
    meter = host.meter(usable=1)
    host.passes(1, own_s=1, busy_s=(1, 1, 0))
    assert meter.lap() == 0.0
    host.passes(1, own_s=0.6, busy_s=(1, 1, 0))
    assert meter.lap() == pytest.approx(0.4)


def test_rounding_never_makes_a_negative_share(tmp_path: Path) -> None:
    """Ticks of 10 ms may show less than the process's own clock does."""
    host = Host(tmp_path)
    meter = host.meter()
    host.passes(1, own_s=2.01, busy_s=(1, 1, 0))
    assert meter.lap() == 0.0


@pytest.mark.parametrize(("usable", "limit"), [(2, 0.05), (10, 0.05), (64, 0.5 / 64)])
def test_the_limit_is_a_share_and_half_a_cpu(tmp_path: Path, usable: int, limit: float) -> None:
    """5 % on few CPUs; on many, half of one, which an engine's slowest thread would wait for."""
    assert Host(tmp_path).meter(usable).limit == limit


def test_this_host_has_a_meter_or_says_so_with_none() -> None:
    """On Linux a share between 0 and 1."""
    meter = host_cpu()
    assert meter is None or 0 <= meter.lap() <= 1
