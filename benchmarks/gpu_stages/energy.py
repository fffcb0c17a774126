"""Stage energy: joules per inference by two ways of NVML's, and peak memory by NVML and by the engine's own pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from autotune.bench.lanes import window_rates
from autotune.bench.load import run_closed_loop
from autotune.devices.gpu import selected_gpu
from autotune.engines.build import load_backend
from autotune.engines.protocol import Inputs, Session
from autotune.records import Series, TrialRecord
from autotune.spec.model import LoadSpec
from autotune.study.lock import device_lock
from autotune.telemetry.gpu import gpu_probes
from autotune.telemetry.sampler import Probe, Sampler
from autotune.trial.isolation import TrialProcess
from autotune.trial.materialize import materialize
from autotune.trial.stages import bound_split, load_batches
from gpu_stages.bench import Bench
from gpu_stages.candidates import candidate_for, chosen, told, trial
from gpu_stages.models import resnet50_plan
from gpu_stages.rounds import in_rounds

_SPAN_S = 12.0
"""The counter steps about every 100 ms: over 12 s that is 1 % of the difference."""
_AVERAGED_S = 1.0
"""NVML's power is the mean of the last second on Hopper and most of Ampere: what it says in the first second after the warm-up
is of the warm-up."""
_METRICS = ("gpu_energy_j", "gpu_power_w")


def run(bench: Bench) -> dict[str, Any]:
    """J per inference from the energy counter against the integral of the power readings; peak memory against NVML.

    Memory is a trial's, in a fresh process. Energy is of a load in this one, where every request's end is known; it comes last,
    for it leaves a CUDA context here.
    """
    plan = resnet50_plan(bench)
    candidate = chosen(bench, lambda: candidate_for(plan))
    load = load_of(bench)
    head: dict[str, Any] = {"candidate": candidate.as_json()}
    with device_lock(plan.lock_name):
        with TrialProcess(plan.preload) as process:

            def remembered(_: str) -> dict[str, Any]:
                record = trial(plan, process, candidate, load)
                reported = {"reported_j_per_item": record.as_json()["energy_j_per_item"]}
                return told(record) | reported | {"memory": memory_both_ways(record)}

            head["energy"] = bench.before.get("energy", {})
            rounds, whole = in_rounds(bench, head, "rounds", ("trial",), remembered)
        head["rounds"] = rounds
        if not whole:
            return {**head, "unfinished": True}
        engine = materialize(plan.spec, candidate, plan.cache).engine
        batches = load_batches(bound_split(plan.spec, plan.spec.data.validation, plan.cache), candidate.batch_size)
        with load_backend(candidate.engine).open(engine, candidate) as session:

            def loaded(_: str) -> dict[str, Any]:
                return loaded_energy(session, batches, candidate.batch_size, load, gpu_probes(selected_gpu()))

            found, whole = in_rounds(bench, head, "energy", ("load",), loaded)
    return {**head, "energy": found, "unfinished": not whole}


def load_of(bench: Bench) -> LoadSpec:
    """Windows over the whole span, however narrow the interval is before."""
    if bench.quick:
        return bench.load
    return LoadSpec(window_s=0.5, min_windows=int(_SPAN_S / 0.5), max_s=_SPAN_S, warmup_s=2.0, precision=0.001)


def loaded_energy(
    session: Session, batches: Sequence[Inputs], batch_size: int, load: LoadSpec, probes: Sequence[Probe]
) -> dict[str, Any]:
    """Energy of one load of this session, and of the items that were done in the very span that it is of."""
    wanted = [probe for probe in probes if probe.metric in _METRICS]
    began_ns = time.monotonic_ns()
    with Sampler(wanted) as sampler:
        trace = run_closed_loop(session, batches, batch_size, load)

    def items_per_s(begin_s: float, end_s: float) -> float:
        edges = began_ns + (np.array([begin_s, end_s]) * 1e9).astype(np.int64)
        return float(window_rates(trace.started_ns, trace.done_ns, edges, batch_size)[0])

    warm_s, end_s = ((ns - began_ns) / 1e9 for ns in (trace.begin_ns, trace.end_ns))
    return energy_both_ways(sampler.series(), warm_s, end_s, items_per_s)


def energy_both_ways(
    telemetry: Sequence[Series], warm_s: float, end_s: float, items_per_s: Callable[[float, float], float]
) -> dict[str, Any]:
    """Watts and J per item by the counter and by the trapezoid of the power readings over the same span, and their ratio.

    The span begins `_AVERAGED_S` after the warm-up, which ended at `warm_s`, and lies before `end_s`, seconds of the telemetry.
    `items_per_s`: of a span.
    """
    counter, power = (_series(telemetry, metric) for metric in _METRICS)
    if len(counter) < 2 or len(power) < 2:
        why = {s.metric: s.absent for s in telemetry if s.metric in _METRICS}
        return {"absent": why or "the load left no telemetry"}
    begin = max(counter[0][0], power[0][0], warm_s + _AVERAGED_S)
    end = min(counter[-1][0], power[-1][0], end_s)
    counted, read = ([(t, v) for t, v in points if begin <= t <= end] for points in (counter, power))
    if len(counted) < 2 or len(read) < 2:
        return {"absent": f"the load ended {max(0.0, end_s - warm_s):.1f} s after its warm-up, too early for two readings"}
    by_counter_w = (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])
    by_power_w = mean_of_trapezoids(read)
    items = items_per_s(counted[0][0], counted[-1][0])
    return {
        "span_s": counted[-1][0] - counted[0][0],
        "items_per_s": items,
        "counter_w": by_counter_w,
        "power_w": by_power_w,
        "power_against_counter": by_power_w / by_counter_w if by_counter_w else None,
        "counter_j_per_item": by_counter_w / items if items else None,
        "power_j_per_item": by_power_w / items if items else None,
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
