"""Feeds: where the workers of a load get their samples from, and whom they tell when these are done.

The workers are the queue's servers. Who becomes free takes what waits, up to a batch; who finds nothing waits for the next
arrival itself, and the others wait for their turn behind it (leader and followers), so no thread hands requests to another.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

from autotune.bench.lanes import Lane

Work = tuple[int, int]
"""The index of the first sample and their number."""


class Feed(Protocol):
    """Gives out samples in order; both methods are called by many threads."""

    def take(self, wait: bool = True) -> Work | None:
        """The samples to run next, as soon as there are some; None when there will be none. Without `wait`: or none now."""
        ...

    def done(self, work: Work, at_ns: int) -> None:
        """What was taken is done."""
        ...

    def stop(self) -> None:
        """Whoever waits in `take` gets None."""
        ...


class QueryFeed:
    """Queries of so many samples, each issued when the one before is done; `lane` has when each began and ended."""

    def __init__(self, samples_per_query: int, batch_size: int, clock: Callable[[], int]) -> None:
        self.lane = Lane()
        self._n, self._batch_size, self._clock = samples_per_query, batch_size, clock
        self._turn = threading.Condition()
        self._stopped = False
        self._next = self._end = self._open = 0
        self._issue()

    def _issue(self) -> None:
        self._end, self._open = self._next + self._n, self._n
        self.lane.started_ns.append(self._clock())

    def take(self, wait: bool = True) -> Work | None:
        """A batch of the query's samples, or what is left of it."""
        with self._turn:
            while wait and self._next == self._end and not self._stopped:
                self._turn.wait()
            if self._stopped or self._next == self._end:
                return None
            first, n = self._next, min(self._batch_size, self._end - self._next)
            self._next += n
            return first, n

    def done(self, work: Work, at_ns: int) -> None:
        """With its last sample the query is answered, and the next one is issued."""
        with self._turn:
            self._open -= work[1]
            if self._open == 0:
                self.lane.done_ns.append(at_ns)
                self._issue()
                self._turn.notify_all()

    def stop(self) -> None:
        """No query is answered any more."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()


class ScheduleFeed:
    """Samples that become due at given times, whoever may be ready for them.

    `due_ns`: when, never falling. A worker takes all that are due, up to the batch size; with a `wait_ns` it lets a batch that
    is not full wait so long after its first sample. `sleep_until(ns)` returns then, or earlier when the load was stopped. A
    record of each taking: the `first` sample and `number` of them, when the worker was `ready`, and by how much the `lag` of
    the feed itself delayed it, which is the time since there was both a worker and something to take.
    """

    def __init__(
        self,
        due_ns: array[int],
        batch_size: int,
        wait_ns: int,
        clock: Callable[[], int],
        sleep_until: Callable[[int], None],
    ) -> None:
        self.due_ns = due_ns
        self.first, self.number, self.ready_ns, self.took_ns, self.lag_ns = (array("q") for _ in range(5))
        self._batch_size, self._wait_ns, self._clock, self._sleep_until = batch_size, wait_ns, clock, sleep_until
        self._leader = threading.Lock()
        self._next = 0
        self.limit = len(due_ns)

    def take(self, wait: bool = True) -> Work | None:
        """What is due, as soon as there is something; None beyond the limit."""
        clock = self._clock
        ready = clock()
        # Who does not wait finds the lead taken only by one who sleeps, so that nothing is due, or who takes it just now.
        if not self._leader.acquire(wait):
            return None
        try:
            first = self._next
            if first >= self.limit:
                return None
            trigger = self._trigger(first)
            now = clock()
            if now < trigger:
                if not wait:
                    return None
                self._sleep_until(trigger)
                now = clock()
                if first >= self.limit:
                    return None
            end = max(first + 1, bisect_right(self.due_ns, now, first, min(first + self._batch_size, self.limit)))
            self._next = end
            self.first.append(first)
            self.number.append(end - first)
            self.ready_ns.append(ready)
            self.took_ns.append(now)
            self.lag_ns.append(max(0, now - max(ready, trigger)))
            return first, end - first
        finally:
            self._leader.release()

    def _trigger(self, first: int) -> int:
        """When the batch that begins with this sample may be taken: it is full, or its first sample has waited long enough."""
        due = self.due_ns[first]
        if self._wait_ns == 0:
            return due
        full = first + self._batch_size - 1
        waited = due + self._wait_ns
        return min(waited, self.due_ns[full]) if full < self.limit else waited

    def done(self, work: Work, at_ns: int) -> None:
        """Nobody waits for an answer."""

    def stop(self) -> None:
        """Nothing more is given out, also of what is due."""
        self.limit = min(self.limit, self._next)

    def end_at(self, instant_ns: int) -> None:
        """What is due later is not given out any more."""
        self.limit = min(self.limit, max(self._next, bisect_right(self.due_ns, instant_ns)))

    def n_waiting(self, now_ns: int) -> int:
        """Samples that are due and not taken."""
        return max(0, bisect_right(self.due_ns, now_ns, self._next) - self._next)

    def oldest_wait_ns(self, now_ns: int) -> int:
        """How long the first sample that was not taken has been due; 0 where none is."""
        first = self._next
        return max(0, now_ns - self.due_ns[first]) if first < len(self.due_ns) else 0
