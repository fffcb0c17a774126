"""Stage energy: joules per inference by two ways of NVML's, and peak memory by NVML and by the engine's own pool."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from autotune.records import Series, TrialRecord
from autotune.spec.model import LoadSpec
from autotune.study.lock import device_lock
from autotune.trial.isolation import TrialProcess
from gpu_stages.bench import Bench
from gpu_stages.candidates import candidate_for, chosen, told, trial
from gpu_stages.models import resnet50_plan
from gpu_stages.rounds import in_rounds

_SPAN_S = 12.0
"""The counter steps about every 100 ms: over 12 s that is 1 % of the difference."""


def run(bench: Bench) -> dict[str, Any]:
    """J per inference from the energy counter against the integral of the power readings; peak memory against NVML."""
    plan = resnet50_plan(bench)
    candidate = chosen(bench, lambda: candidate_for(plan))
    load = bench.load
    if not bench.quick:
        load = LoadSpec(window_s=0.5, min_windows=int(_SPAN_S / 0.5), max_s=_SPAN_S, warmup_s=2.0, precision=0.001)
    head = {"candidate": candidate.as_json()}
    with device_lock(plan.lock_name), TrialProcess(plan.preload) as process:

        def measured(_: str) -> dict[str, Any]:
            record = trial(plan, process, candidate, load)
            return told(record) | {"energy": energy_both_ways(record), "memory": memory_both_ways(record)}

        rounds, whole = in_rounds(bench, head, "rounds", ("trial",), measured)
    return {**head, "rounds": rounds, "unfinished": not whole}


def energy_both_ways(record: TrialRecord) -> dict[str, Any]:
    """Watts and J per item by the counter and by the trapezoid of the power readings over the same span, and their ratio."""
    counter, power = _series(record.telemetry, "gpu_energy_j"), _series(record.telemetry, "gpu_power_w")
    if len(counter) < 2 or len(power) < 2:
        why = {s.metric: s.absent for s in record.telemetry if s.metric in ("gpu_energy_j", "gpu_power_w")}
        return {"absent": why or "the trial left no telemetry"}
    begin, end = max(counter[0][0], power[0][0]), min(counter[-1][0], power[-1][0])
    counted = [(t, v) for t, v in counter if begin <= t <= end]
    by_counter_w = (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])
    by_power_w = mean_of_trapezoids([(t, v) for t, v in power if begin <= t <= end])
    items = record.throughput_items_per_s
    return {
        "span_s": counted[-1][0] - counted[0][0],
        "counter_w": by_counter_w,
        "power_w": by_power_w,
        "power_against_counter": by_power_w / by_counter_w if by_counter_w else None,
        "counter_j_per_item": by_counter_w / items.value if items else None,
        "power_j_per_item": by_power_w / items.value if items else None,
        "reported": record.as_json()["energy_j_per_item"],
    }


def mean_of_trapezoids(points: Sequence[tuple[float, float]]) -> float:
    """The mean over time of values read at uneven times, joined by straight lines."""
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
    return area / (points[-1][0] - points[0][0])


def memory_both_ways(record: TrialRecord) -> dict[str, Any]:
    """What the device held beyond before (NVML), what the engine's pool handed out, and the rest: context, weights, code."""
    nvml, pool = record.peak_memory_mib, record.pool_peak_mib
    rest = None if nvml is None or pool is None else nvml - pool
    return {"nvml_peak_mib": nvml, "pool_peak_mib": pool, "nvml_beyond_pool_mib": rest, "model_bytes": record.model_bytes}


def _series(telemetry: Sequence[Series], metric: str) -> list[tuple[float, float]]:
    found = next((s for s in telemetry if s.metric == metric), None)
    return [] if found is None else list(zip(found.t_s, found.values, strict=True))
