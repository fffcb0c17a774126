"""When samples arrive: at random at a rate, or as they were recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spec.arrival_file import RecordedArrivals

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Requests in order of time: `due_ns` from the load's begin and the `samples` of each, both shape (n_requests,).

    `items_per_s`: the rate that it was made for.
    """

    due_ns: Times
    samples: Times
    items_per_s: float

    def sample_due_ns(self) -> Times:
        """When each sample is due, shape (n_samples,)."""
        return np.repeat(self.due_ns, self.samples)

    def first_samples(self) -> Times:
        """The index of each request's first sample, shape (n_requests,)."""
        return np.cumsum(self.samples) - self.samples


def poisson_schedule(items_per_s: float, duration_s: float, seed: int) -> Schedule:
    """Single samples whose gaps are exponential, for so long; the same for the same seed."""
    rng = np.random.default_rng(seed)
    expected = items_per_s * duration_s
    n = int(expected + 6 * np.sqrt(expected) + 10)
    due = np.cumsum(rng.exponential(1e9 / items_per_s, n))
    due = due[due < duration_s * 1e9]
    return Schedule(due_ns=due.astype(np.int64), samples=np.ones(len(due), dtype=np.int64), items_per_s=items_per_s)


def recorded_schedule(recorded: RecordedArrivals, duration_s: float) -> Schedule:
    """The trace for so long, begun again each of its periods where it is shorter."""
    n_times = max(1, int(np.ceil(duration_s / recorded.period_s)))
    once = np.array(recorded.second)
    due = (once[None, :] + recorded.period_s * np.arange(n_times)[:, None]).ravel()
    samples = np.tile(np.array(recorded.samples, dtype=np.int64), n_times)
    kept = due < duration_s
    return Schedule(due_ns=(due[kept] * 1e9).astype(np.int64), samples=samples[kept], items_per_s=recorded.items_per_s)
