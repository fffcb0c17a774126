"""Clients: the threads that drive a session's slots, which end with an engine's error or when they are told to.

A thread drives one slot, or several of a session that lets fewer threads drive it: it then submits on all of its slots before
it waits for the one that was submitted first, and a request's latency ends when its thread came to see that it was done.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from autotune.bench.lanes import Lane
from autotune.engines.protocol import Inputs, Session, driving_threads


class SlotThreads:
    """Threads of which each runs `drive` with the slots that are its own; what one raises ends them all.

    `n_slots`: so many of the session's slots are used, by as many threads or by fewer where the session wants fewer. A subclass
    sets up what `drive` needs, then calls `start`.
    """

    lanes: Sequence[Lane]

    def __init__(self, session: Session, n_slots: int) -> None:
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self.is_stopped = self._stop.is_set
        n_threads = min(n_slots, driving_threads(session))
        owned = [range(first, n_slots, n_threads) for first in range(n_threads)]
        self._threads = [threading.Thread(target=self._guarded, args=(slots,), daemon=True) for slots in owned]

    def start(self) -> None:
        """Every thread is under way."""
        for thread in self._threads:
            thread.start()

    def drive(self, slots: Sequence[int]) -> None:
        """The work of one thread until `is_stopped`; nothing of it is in flight afterwards."""
        raise NotImplementedError

    def stop(self) -> None:
        """The threads end after the request that each is at."""
        self._stop.set()

    def _guarded(self, slots: Sequence[int]) -> None:
        try:
            self.drive(slots)
        except BaseException as exc:
            self.errors.append(exc)
            self.stop()

    def sleep(self, seconds: float) -> None:
        """Returns after `seconds`, at once when a client failed; then raises what it raised."""
        self._stop.wait(seconds)
        if self.errors:
            raise self.errors[0]

    def calls(self) -> int:
        """Requests that are done."""
        return sum(len(lane.done_ns) for lane in self.lanes)

    def wait_for_stop(self) -> None:
        """Returns when they were told to end, or one failed."""
        self._stop.wait()

    def finish(self) -> None:
        """Every thread has ended. Raises what a client raised."""
        self.stop()
        self.join()
        if self.errors:
            raise self.errors[0]

    def join(self) -> None:
        """Every thread has ended, by itself."""
        for thread in self._threads:
            thread.join()


class ClosedLoop(SlotThreads):
    """Each thread submits the next batch on a slot when the last one there is done."""

    def __init__(self, session: Session, batches: Sequence[Inputs], clock: Callable[[], int]) -> None:
        super().__init__(session, session.slots)
        self.lanes = [Lane() for _ in range(session.slots)]
        self._session, self._batches, self._clock = session, batches, clock
        self.start()

    def drive(self, slots: Sequence[int]) -> None:
        """Batches in turn; the slots begin at different ones."""
        batches, clock, stopped, n = self._batches, self._clock, self.is_stopped, len(self._batches)
        submit, wait = self._session.submit, self._session.wait
        turns = [slot * n // self._session.slots for slot in range(self._session.slots)]
        begun = [lane.started_ns.append for lane in self.lanes]
        ended = [lane.done_ns.append for lane in self.lanes]
        flying = deque(slots)
        for slot in slots:
            begun[slot](clock())
            submit(batches[turns[slot] % n], slot)
        while flying:
            slot = flying.popleft()
            wait(slot)
            ended[slot](clock())
            if not stopped():
                turns[slot] += 1
                flying.append(slot)
                begun[slot](clock())
                submit(batches[turns[slot] % n], slot)
