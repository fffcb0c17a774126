"""Power and energy per item from a counter's difference; the counter is that of the device that was measured."""

from __future__ import annotations

from autotune.bench.energy import energy_per_item, power_estimate
from autotune.records import Estimate, Series


def series(metric: str, *values: float) -> Series:
    """Joules, one reading each second from 0 on."""
    return Series(metric=metric, unit="J", t_s=tuple(map(float, range(len(values)))), values=values)


def test_energy_per_item_is_the_gpus_counter_over_the_items() -> None:
    """500 J in the 2 s after the warm-up are 250 W ± one refresh of 0.1 s in 2 s; at 100 items/s 2.5 J each."""
    counter, host = series("gpu_energy_j", 0, 100, 350, 600), series("cpu_energy_j", 0, 1, 2, 3)
    power = power_estimate([host, counter], 1.0)
    assert power is not None and (power.value, power.low, power.high) == (250.0, 237.5, 262.5)
    rate = Estimate(value=100.0, low=95.0, high=105.0, n=9, method="")
    item = energy_per_item(power, rate)
    assert item is not None and (item.value, item.low, item.high) == (2.5, 237.5 / 105, 262.5 / 95)
    assert power_estimate([host, counter], 1.5) is None, "less than 2 s are left"


def test_the_hosts_energy_never_stands_for_the_gpus() -> None:
    """Where a GPU was measured and its counter cannot be read, there is no energy, although RAPL has a number."""
    absent = Series(metric="gpu_energy_j", unit="J", absent="Not Supported")
    assert power_estimate([series("cpu_energy_j", 0, 1, 2, 3), absent], 0.0) is None
    assert power_estimate([series("cpu_energy_j", 0, 10, 20, 30)], 0.0) is not None
