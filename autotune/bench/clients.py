"""Clients: a thread per slot of a session, which ends with an engine's error or when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from autotune.bench.lanes import Lane
from autotune.engines.protocol import Inputs, Session


class SlotThreads:
    """A thread for each of `slots`, which runs `drive(slot)` until `is_stopped`; what one raises ends them all.

    A subclass sets up what `drive` needs, then calls `start`.
    """

    lanes: Sequence[Lane]

    def __init__(self, slots: int) -> None:
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self.is_stopped = self._stop.is_set
        self._threads = [threading.Thread(target=self._guarded, args=(slot,), daemon=True) for slot in range(slots)]

    def start(self) -> None:
        """Every thread is under way."""
        for thread in self._threads:
            thread.start()

    def drive(self, slot: int) -> None:
        """One slot's work until `is_stopped`."""
        raise NotImplementedError

    def stop(self) -> None:
        """The threads end after the request that each is at."""
        self._stop.set()

    def _guarded(self, slot: int) -> None:
        try:
            self.drive(slot)
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
    """Each thread submits the next batch when its last one is done."""

    def __init__(self, session: Session, batches: Sequence[Inputs], clock: Callable[[], int]) -> None:
        super().__init__(session.slots)
        self.lanes = [Lane() for _ in range(session.slots)]
        self._session, self._batches, self._clock = session, batches, clock
        self.start()

    def drive(self, slot: int) -> None:
        """Batches in turn; the slots begin at different ones."""
        batches, clock, stopped = self._batches, self._clock, self.is_stopped
        submit, wait, n = self._session.submit, self._session.wait, len(self._batches)
        begun, ended = self.lanes[slot].started_ns.append, self.lanes[slot].done_ns.append
        turn = slot * n // self._session.slots
        while not stopped():
            begun(clock())
            submit(batches[turn % n], slot)
            wait(slot)
            ended(clock())
            turn += 1
