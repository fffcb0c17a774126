"""Power and energy per item, from the difference of an energy counter over the measured span."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.records import Estimate, Series

_MIN_SPAN_S = 2.0
"""NVML's counter and RAPL's step about every 100 ms or faster: below 2 s the ends alone would cost more than 5 %."""
_REFRESH_S = 0.1
_COUNTERS = {"gpu_energy_j": "NVML energy counter difference", "cpu_energy_j": "RAPL counter difference"}
"""Counters in the order in which they count: where a GPU was measured, its energy is meant, and never the host's instead."""


def power_estimate(series: Sequence[Series], warmup_s: float) -> Estimate | None:
    """Mean power of the measured device in watts, after the warm-up; None below 2 s or without a counter.

    The interval is the counter's resolution against the span: one refresh at either end.
    """
    by_metric = {s.metric: s for s in series}
    counter = next((metric for metric in _COUNTERS if metric in by_metric), None)
    if counter is None:
        return None
    energy = by_metric[counter]
    points = [(t, j) for t, j in zip(energy.t_s, energy.values, strict=True) if t >= warmup_s]
    if len(points) < 2 or points[-1][0] - points[0][0] < _MIN_SPAN_S:
        return None
    (t0, j0), (t1, j1) = points[0], points[-1]
    watts = (j1 - j0) / (t1 - t0)
    slack = watts * _REFRESH_S / (t1 - t0)
    return Estimate(value=watts, low=watts - slack, high=watts + slack, n=len(points), method=_COUNTERS[counter])


def energy_per_item(power_w: Estimate | None, items_per_s: Estimate) -> Estimate | None:
    """Joules per item, idle power included; None without power or with a throughput that may be zero."""
    if power_w is None or items_per_s.low <= 0:
        return None
    return Estimate(
        value=power_w.value / items_per_s.value,
        low=power_w.low / items_per_s.high,
        high=power_w.high / items_per_s.low,
        n=power_w.n,
        method=f"{power_w.method} / items",
    )
