"""What an open loop saw, and what it says: latency from the scheduled arrival, the share within the SLO, who was late."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.bench.arrivals import Schedule
from autotune.bench.lanes import Times, window_rates
from autotune.bench.statistics import correlation_inflation, share_estimate
from autotune.records import Estimate

LATE_LIMIT = 0.01
"""A load that hands over more than 1 % of its requests late is not the load that was asked for."""
_LATE_PART = 0.01
"""Of what latency is compared with: a request is late when the load itself delayed it by more than this part of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTrace:
    """An open loop, times in nanoseconds from its begin. Requests that were due up to `end_ns` count.

    `done_ns`: when each sample of the schedule was done, shape (n_samples,), 0 where it was not. Of each batch that was taken,
    in order: its `first` sample, the `number` of them, when the worker was `ready_ns`, when it `took_ns` them, and the `lag_ns`
    of the load itself. `skipped`: spans [begin, end) of arrivals that do not count, shape (n, 2).
    """

    schedule: Schedule
    end_ns: int
    done_ns: Times
    first: Times
    number: Times
    ready_ns: Times
    took_ns: Times
    lag_ns: Times
    skipped: Times
    overloaded: bool = False

    def latencies_ns(self, from_ns: int = 0, now_ns: int | None = None) -> Times:
        """Latency of each request that counts and was due from `from_ns` on, in order of arrival: up to its last sample.

        Requests that were never answered count with what they had waited by then: to leave them out would hide an overload. In
        the middle of a load, at `now_ns`, those under way are not known and stay out.
        """
        schedule = self.schedule
        n = int(np.searchsorted(schedule.due_ns, self.end_ns, side="right"))
        due, starts = schedule.due_ns[:n], schedule.first_samples()[:n]
        if n == 0:
            return np.empty(0, dtype=np.int64)
        done = self.done_ns[: int(starts[-1] + schedule.samples[n - 1])]
        answered = np.minimum.reduceat(done, starts) > 0
        waited = (self.end_ns if now_ns is None else now_ns) - due
        latency = np.where(answered, np.maximum.reduceat(done, starts) - due, waited)
        counts = (due >= from_ns) & ~_inside(due, self.skipped)
        if now_ns is not None:
            counts &= answered | (self._taken(starts) == 0)
        return np.asarray(latency[counts])

    def _taken(self, starts: Times) -> NDArray[np.int64]:
        """1 for each request whose first sample was taken."""
        n_taken = int(self.number.sum())
        return (starts < n_taken).astype(np.int64)

    def queued_share(self) -> float | None:
        """Share of samples that were due while every stream was busy."""
        if len(self.first) == 0:
            return None
        due = self.schedule.sample_due_ns()[: int(self.number.sum())]
        return float(np.mean(due < np.repeat(self.ready_ns, self.number)))

    def late_share(self, compared_ns: float) -> float | None:
        """Share of samples that the load itself delayed by more than 1 % of `compared_ns`, the latency they are judged by."""
        if len(self.first) == 0:
            return None
        late = self.lag_ns > _LATE_PART * compared_ns
        return float(self.number[late].sum() / self.number.sum())

    def mean_batch(self) -> float | None:
        """Samples that ran together, on average over the batches."""
        return float(self.number.mean()) if len(self.number) else None

    def completed_rates(self, window_ns: int) -> NDArray[np.float64]:
        """Samples per second by window of the load, shape (n_windows,), of the batches that came to their end."""
        edges = np.arange(self.end_ns // window_ns + 1, dtype=np.int64) * window_ns
        done = self.done_ns[self.first]
        answered = done > 0
        return window_rates(self.took_ns[answered], done[answered], edges, self.number[answered])


def _inside(due: Times, spans: Times) -> NDArray[np.bool_]:
    found = np.zeros(len(due), dtype=bool)
    for begin, end in spans:
        found |= (due >= begin) & (due < end)
    return found


def share_within(latency_ns: Times, slo_ms: float) -> Estimate:
    """Share of these latencies, in order of arrival, that keep to the SLO; with as many independent ones as they are worth.

    Raises ValueError where there are none.
    """
    kept = latency_ns <= slo_ms * 1e6
    return share_estimate(int(kept.sum()), len(kept), correlation_inflation(kept.astype(np.float64)))
