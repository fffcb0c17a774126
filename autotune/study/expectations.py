"""What a search expects of candidates before it has measured any: how knobs usually change throughput, what variants lose.

The constants are round numbers; docs/search-settings.md says how they were chosen. They come from two cores of a CPU with ONNX
Runtime and OpenVINO. On a GPU nothing was measured, so nothing is expected of throughput there. Expectations give way to
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from autotune.search.encoding import Params
from autotune.search.history import Response
from autotune.space.sampling import knob_value, pair_of
from autotune.spec.model import CLASS_METRICS
from autotune.study.plan import StudyPlan
from autotune.study.scoring import drop_violation

EFFECTS = {
    "openvino": 0.2,
    "int8": 0.6,
    "doubled_batch": 0.1,
    "doubled_streams": 0.1,
    "doubled_cores": 0.4,
    "crowded": -0.2,
    "pruned": 0.8,
}
"""By how much the natural logarithm of throughput changes with what `amounts` counts.

Round numbers near the fits of benchmarks/expectations.py to tables of two cores with up to four streams; "openvino" is what its
fastest settings gain there, "doubled_cores" and "pruned" were chosen by replays.
"""
PRUNING_LOSS = 0.02
"""Accuracy lost to a pruning ratio r with recovery, over r²."""
INT8_LOSS = {"int8": 0.001, "int8-tensor": 0.002}
"""Accuracy lost to a precision."""
_BUSY: dict[str, Callable[[float, float], float]] = {
    "onnxruntime": lambda threads, streams: threads + streams - 1,
    "torch": max,
    "torch-compile": max,
}
"""Cores at work by an engine's threads and streams, as its knobs say; of other engines the threads are those of all streams."""


def expectations_of(plan: StudyPlan) -> dict[Response, Callable[[Params], float]]:
    """By objective's number or constraint's name what is expected of a candidate, as `CostAwareSampler` takes it.

    Of throughput, and of cost, which is its reciprocal, where no given rate of arrivals bounds it; of accuracy where it is the
    share of right answers.
    """
    spec, found = plan.spec, dict[Response, Callable[[Params], float]]()
    on_cpu, flat_out = plan.fingerprint.kind == "cpu", not spec.load.arrivals or spec.load.searches_rate
    is_share, recovers = spec.data.metric in CLASS_METRICS, spec.recovery.epochs > 0
    for i, name in enumerate(spec.objectives):
        if name == "accuracy" and is_share:
            found[i] = lambda params: -accuracy_loss(params, recovers)
        elif name == "throughput" and on_cpu and flat_out:
            found[i] = lambda params: throughput_factor(params, plan.fingerprint.cores)
        elif name == "cost" and on_cpu and flat_out:
            found[i] = lambda params: 1 / throughput_factor(params, plan.fingerprint.cores)
    limit = spec.constraints.accuracy_drop
    if limit is not None and is_share:
        found["accuracy_drop"] = lambda params: drop_violation(accuracy_loss(params, recovers), limit)
    return found


def throughput_factor(params: Params, cores: int) -> float:
    """Throughput on this many cores over that of fp32 on ONNX Runtime, unpruned, in batches of one, one stream, on one core."""
    return math.exp(sum(EFFECTS[name] * amount for name, amount in amounts(params, cores).items()))


def amounts(params: Params, cores: int) -> dict[str, float]:
    """How much there is in a candidate of all that has an effect on its throughput, by the names of EFFECTS.

    "openvino", "int8": 1 with that engine, or with 8-bit integers, else 0. "doubled_…": how often a batch of one, one stream
    and one core at work were doubled, cores up to those there are, streams up to two for each. "crowded": how often the threads
    at work were doubled beyond the cores. "pruned": −ln(1 − r), where the share r of the channels is gone.
    """
    engine, precision = pair_of(params)
    batch, streams = (float(knob_value(params, knob) or 1) for knob in ("batch_size", "streams"))
    threads = float(knob_value(params, "worker_threads") or cores)
    busy = _BUSY[engine](threads, streams) if engine in _BUSY else threads
    return {
        "openvino": float(engine == "openvino"),
        "int8": float(precision.startswith("int8")),
        "doubled_batch": math.log2(batch),
        "doubled_streams": math.log2(min(streams, 2 * cores)),
        "doubled_cores": math.log2(max(1.0, min(busy, cores))),
        "crowded": math.log2(max(1.0, busy / cores)),
        "pruned": -math.log1p(-_pruning_ratio(params)),
    }


def accuracy_loss(params: Params, recovers: bool = True) -> float:
    """What the share of right answers loses against the unmodified model. Nothing is expected of pruning without recovery."""
    _, precision = pair_of(params)
    pruning = PRUNING_LOSS * _pruning_ratio(params) ** 2 if recovers else 0.0
    return pruning + INT8_LOSS.get(precision, 0.0)


def _pruning_ratio(params: Params) -> float:
    return float(knob_value(params, "pruning_ratio") or 0.0)
