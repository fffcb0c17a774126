"""measure_load: how large the pool of inputs is, peak memory, and energy from a counter."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest

from autotune.bench import measure, memory
from autotune.bench.measure import measure_load, pool_size
from autotune.bench.scenario import Loadable
from autotune.data.dataset import Dataset
from autotune.engines.protocol import Inputs, Outputs
from autotune.spec.model import LoadSpec
from autotune.telemetry.host import FunctionProbe

PLAN = LoadSpec(window_s=0.1, min_windows=3, max_s=0.4, warmup_s=0.1, precision=0.5)


def dataset(n: int, sample_bytes: int) -> Dataset:
    """n samples of so many bytes."""
    arrays = {"x": np.broadcast_to(np.zeros((), np.uint8), (n, sample_bytes))}
    return Dataset(arrays=arrays, labels=None, preprocess=None, digest="zeros")


@pytest.mark.parametrize(
    ("n", "sample_bytes", "batch", "expected"),
    [
        (10_000, 1 << 20, 1, 64),  # 33 samples exceed the cache of 32 MiB; at least 64
        (10_000, 100 << 10, 1, 512),  # 1 + 32 MiB/100 KiB = 328, rounded up to a power of two
        (200, 1 << 10, 1, 256),  # there are only 200 different samples; repeating them further gains nothing
        (10, 1 << 10, 100, 256),  # two batches of 100
        (10_000, 64 << 20, 1, 8),  # at most 512 MiB
        (10_000, 64 << 20, 16, 16),  # but never less than a batch
    ],
)
def test_pool_is_larger_than_the_cache_where_there_is_data(
    monkeypatch: pytest.MonkeyPatch, n: int, sample_bytes: int, batch: int, expected: int
) -> None:
    """With a last-level cache of 32 MiB, by the rules in the docstring of pool_size."""
    monkeypatch.setattr(measure, "last_level_cache_bytes", lambda: 32 << 20)
    assert pool_size(dataset(n, sample_bytes), batch) == expected


class Hoarding:
    """A session whose first answer touches `mib` of memory, which it gives back with `close`."""

    slots = 1

    def __init__(self, mib: int) -> None:
        self._mib = mib
        self._held: Any = None

    def submit(self, inputs: Inputs, slot: int) -> None:
        if self._held is None:
            self._held = np.ones(self._mib << 20, dtype=np.uint8)

    def wait(self, slot: int) -> Outputs:
        time.sleep(0.002)
        return {}


def hoarding(mib: int) -> Loadable:
    """Such a session with a pool of one sample."""
    return Loadable(session=Hoarding(mib), pool=[{"x": np.zeros((1, 1))}], batch_size=1)  # type: ignore[arg-type]


def test_peak_memory_is_what_the_load_added() -> None:
    """A session that touches 96 MiB under load peaks at 96 MiB above the idle process; 16 MiB are left to Python's own."""
    idle = memory.resident_mib()
    found = measure_load(hoarding(96), PLAN, (), idle)
    assert found.peak_memory_mib == pytest.approx(96, abs=16)


def test_peak_memory_is_absent_where_it_was_not_asked_for() -> None:
    """Without the idle figure there is nothing to subtract: None and not zero."""
    found = measure_load(hoarding(1), PLAN, (), None)
    assert found.peak_memory_mib is None


def test_energy_is_counter_difference_over_items() -> None:
    """A counter that gains 2 J each 0.1 s is 20 W; energy per item is power over throughput, interval ends crossed."""
    begin = time.monotonic()
    probe = FunctionProbe("cpu_energy_j", "J", lambda: 20 * (time.monotonic() - begin))
    plan = LoadSpec(window_s=0.5, min_windows=5, max_s=2.5, warmup_s=0.1, precision=0.5)
    found = measure_load(hoarding(1), plan, (probe,), None)
    assert found.power_w is not None and found.energy_j_per_item is not None
    assert found.power_w.value == pytest.approx(20, rel=0.01)
    assert found.power_w.low < found.power_w.value < found.power_w.high
    rate = found.load.throughput_items_per_s
    assert found.energy_j_per_item.value == pytest.approx(found.power_w.value / rate.value)
    assert found.energy_j_per_item.low == pytest.approx(found.power_w.low / rate.high)


@pytest.mark.parametrize("why", ["short", "absent"])
def test_energy_is_absent_where_it_cannot_be_known(why: str) -> None:
    """Below 2 s of readings, or without a counter, there is no power: None and not zero."""
    counter = itertools.count()

    def read() -> float:
        if why == "absent":
            raise PermissionError("energy_uj")
        return float(next(counter))

    probe = FunctionProbe("cpu_energy_j", "J", read)
    found = measure_load(hoarding(1), PLAN, (probe,), None)
    assert found.power_w is None and found.energy_j_per_item is None


def test_resetting_the_peak_forgets_what_was_freed() -> None:
    """64 MiB that are touched, freed and forgotten no longer count after reset_peak."""
    block = np.ones(64 << 20, dtype=np.uint8)
    before = memory.peak_mib()
    del block
    memory.resident_mib()
    memory.reset_peak()
    assert memory.peak_mib() < before - 48
