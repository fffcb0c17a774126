"""measure_load: one session under full load with telemetry beside it, as estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.bench import memory
from autotune.bench.energy import energy_per_item, power_estimate
from autotune.bench.load import LoadResult
from autotune.bench.scenario import Loadable, run_scenario
from autotune.data.dataset import Dataset
from autotune.records import Estimate, Series
from autotune.spec.model import LoadSpec
from autotune.telemetry.sampler import Probe, Sampler

_MIN_POOL_SAMPLES = 64
_MAX_POOL_BYTES = 512 << 20
_FALLBACK_CACHE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one load gave: throughput and latency, memory, energy where it can be read, and the telemetry beside it."""

    load: LoadResult
    peak_memory_mib: float | None
    energy_j_per_item: Estimate | None
    power_w: Estimate | None
    telemetry: tuple[Series, ...]


def pool_size(dataset: Dataset, batch_size: int) -> int:
    """How many samples the loop cycles through: at least 64 and two batches, together larger than the last-level cache.

    A power of two, so that candidates share pools; where the dataset is too small its samples repeat. At most 512 MiB, but
    never less than one batch.
    """
    sample_bytes = max(1, sum(a.nbytes for a in dataset.batch(0, 1).values()))
    useful = max(len(dataset), 2 * batch_size, _MIN_POOL_SAMPLES)
    wanted = max(_MIN_POOL_SAMPLES, 2 * batch_size, min(useful, 1 + last_level_cache_bytes() // sample_bytes))
    most = max(batch_size, _MAX_POOL_BYTES // sample_bytes)
    return max(batch_size, min(most, 1 << (wanted - 1).bit_length()))


def last_level_cache_bytes() -> int:
    """Size of the largest cache that CPU 0 sees, from sysfs; 32 MiB where sysfs does not say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return max(sizes, default=_FALLBACK_CACHE_BYTES)


def measure_load(
    on: Loadable, plan: LoadSpec, probes: Sequence[Probe], idle_mib: float | None, give_up_below: float = 0.0
) -> Measurement:
    """The session's throughput, latency and peak memory under the plan's scenario.

    `idle_mib`: resident memory before the engine was opened. `give_up_below`: items/s that the session must reach, or its load
    ends early.
    """
    if idle_mib is not None:
        memory.resident_mib()
        memory.reset_peak()
    with Sampler(probes) as sampler:
        load = run_scenario(on, plan, give_up_below)
    peak = None if idle_mib is None else max(0.0, memory.peak_mib() - idle_mib)
    series = (*sampler.series(), *([load.beside] if load.beside else []))
    power = power_estimate(series, load.warmup_s)
    per_item = energy_per_item(power, load.completed_items_per_s or load.throughput_items_per_s)
    return Measurement(load=load, peak_memory_mib=peak, energy_j_per_item=per_item, power_w=power, telemetry=series)
