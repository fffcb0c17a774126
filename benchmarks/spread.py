"""How the figures of several rounds are told: their median and range, and the median's interval."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from autotune.bench.statistics import percentile_estimate


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of at least one value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread_with_interval(values: Sequence[float]) -> dict[str, float]:
    """Median, range, and from six values on the median's 95 % interval, by order statistics."""
    interval = percentile_estimate(np.array(values), 50)
    return spread(values) | ({} if interval is None else {"low": interval.low, "high": interval.high})
