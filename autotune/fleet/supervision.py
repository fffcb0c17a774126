"""supervise: the workers of a fleet run until the study is done or stopped; one that died is started again, a few times.

A worker that says that the study, the machine or the file is wrong would say so again, and is not started again. What it was
measuring when it died is put back by the others, or by itself when it returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from autotune.fleet.launcher import Launcher, PlacedWorker, WorkerOrder

POLL_S = 0.5
_AT_MOST_RESTARTS = 5
_SOUND_S = 600.0
"""A worker that ran so long was no failed start: it has all its restarts again."""
_BACK_OFF_S, _LONGEST_BACK_OFF_S = 1.0, 60.0
_STOPPED, _DATABASE = 130, 4
_FINAL = frozenset({0, 2, 3, 5, _STOPPED})
"""Exit codes that another start would only repeat: done, the input, the machine, a bundle, or stopped by somebody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetResult:
    """How the workers of a fleet ended: the last exit code and the number of restarts of each, by name."""

    codes: Mapping[str, int]
    restarts: Mapping[str, int]
    stopped: bool

    @property
    def failed(self) -> dict[str, int]:
        """The workers that did not end well."""
        return {name: code for name, code in self.codes.items() if code not in (0, _STOPPED)}

    def exit_code(self, *, all_needed: bool) -> int:
        """130 when the fleet was stopped; 0 when a worker saw the study done, or all did where each has a part of its own."""
        if self.stopped or (self.codes and set(self.codes.values()) == {_STOPPED}):
            return _STOPPED
        if self.failed and (all_needed or 0 not in self.codes.values()):
            code = next(iter(self.failed.values()))
            return code if code > 0 else 1
        return 0


@dataclass(slots=True, kw_only=True)
class _Post:
    """A worker of the fleet over all its starts."""

    order: WorkerOrder
    worker: PlacedWorker | None
    began: float
    restarts: int = 0
    in_a_row: int = 0
    due: float = 0.0
    code: int | None = None


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Watches workers. `presses`: how often a stop was asked for; `note` hears what happens; clock and sleep are arguments."""

    launcher: Launcher
    presses: Callable[[], int]
    note: Callable[[str], None]
    tick: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _posts: list[_Post] = field(default_factory=list)
    _heard: int = 0

    def run(self, orders: Sequence[WorkerOrder]) -> FleetResult:
        """Every worker has ended for good."""
        for order in orders:
            self._posts.append(_Post(order=order, worker=self._placed(order), began=self.clock()))
        while any(post.code is None for post in self._posts):
            self._pass_on_presses()
            for post in self._posts:
                if post.code is None:
                    self._look_after(post)
            self.tick()
            self.sleep(POLL_S)
        return FleetResult(
            codes={p.order.name: p.code or 0 for p in self._posts},
            restarts={p.order.name: p.restarts for p in self._posts},
            stopped=self.presses() > 0,
        )

    def _pass_on_presses(self) -> None:
        """The first press asks every worker to finish or put back its trial; the second has them drop it; the third kills."""
        while self._heard < self.presses():
            self._heard += 1
            for post in self._posts:
                if post.code is None and post.worker is not None:
                    post.worker.kill() if self._heard > 2 else post.worker.ask_to_stop()

    def _look_after(self, post: _Post) -> None:
        now = self.clock()
        if post.worker is None:
            if self._heard:
                post.code = _STOPPED
            elif now >= post.due:
                post.worker, post.began, post.restarts = self._placed(post.order), now, post.restarts + 1
            return
        code = post.worker.exit_code()
        if code is None:
            return
        if code in _FINAL or self._heard:
            self._end(post, code)
            return
        post.in_a_row = 1 if now - post.began >= _SOUND_S else post.in_a_row + 1
        if post.in_a_row > _AT_MOST_RESTARTS:
            self._end(post, code)
            return
        wait_s = min(_LONGEST_BACK_OFF_S, _BACK_OFF_S * 2 ** (post.in_a_row - 1))
        post.worker, post.due = None, now + wait_s
        tries = f"{post.in_a_row} of {_AT_MOST_RESTARTS}"
        self.note(f"{post.order.name} ({post.order.device}) {_how(code)}; it is started again in {wait_s:.0f} s, {tries}")

    def _end(self, post: _Post, code: int) -> None:
        # Stopped, a worker may also end by a signal that reached it before it could listen.
        post.code = _STOPPED if self._heard and code < 0 else code
        if post.code not in (0, _STOPPED):
            self.note(f"{post.order.name} ({post.order.device}) {_how(code)}, and stays away; log: {post.order.log_path}")

    def _placed(self, order: WorkerOrder) -> PlacedWorker:
        worker = self.launcher.place(order)
        self.note(f"{order.name} on {order.device}: {worker.where}; log: {order.log_path}")
        return worker


def _how(code: int) -> str:
    if code < 0:
        return f"died by signal {-code}"
    return "lost its database" if code == _DATABASE else f"ended with {code}"
