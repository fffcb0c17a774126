"""Supervision: who died is started again, a few times; who said that it is in vain is not; a stop reaches everybody once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.fleet.launcher import LOST, WorkerOrder
from autotune.fleet.supervision import FleetResult, Supervisor


@dataclass
class Worker:
    """Ends with the code that the script says, so many polls after it was placed; asked to stop it ends with 130."""

    code: int
    after: int
    asked: int = 0
    killed: bool = False
    where: str = "here"

    def exit_code(self) -> int | None:
        if self.killed:
            return LOST
        if self.asked:
            return 130
        self.after -= 1
        return self.code if self.after < 0 else None

    def ask_to_stop(self) -> None:
        self.asked += 1

    def kill(self) -> None:
        self.killed = True


@dataclass
class Launcher:
    """Places workers whose ends are scripted by name."""

    script: dict[str, list[tuple[int, int]]]
    placed: dict[str, list[Worker]] = field(default_factory=dict)

    def orders(self) -> tuple[WorkerOrder, ...]:
        return tuple(WorkerOrder(name=n, device="fake:0", words=(), log_path=Path(n)) for n in self.script)

    def place(self, order: WorkerOrder) -> Worker:
        code, after = self.script[order.name].pop(0)
        self.placed.setdefault(order.name, []).append(worker := Worker(code, after))
        return worker

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *details: object) -> None:
        return None


def supervised(
    script: dict[str, list[tuple[int, int]]], presses: Sequence[int] = ()
) -> tuple[FleetResult, Launcher, list[float]]:
    """The result, the launcher, and the clock's readings; `presses`: how often a stop was asked for, by poll."""
    launcher, clock, notes = Launcher(script), [0.0], list[str]()

    def asked() -> int:
        return presses[min(int(clock[-1] / 0.5), len(presses) - 1)] if presses else 0

    made: Any = launcher
    supervisor = Supervisor(
        launcher=made, presses=asked, note=notes.append, clock=lambda: clock[-1], sleep=lambda s: clock.append(clock[-1] + s)
    )
    return supervisor.run(launcher.orders()), launcher, clock


def test_who_died_is_started_again() -> None:
    """A signal, a bug (1) and a lost database (4) are worth another start; done (0) ends it."""
    result, launcher, _ = supervised({"a": [(-9, 1), (1, 1), (4, 1), (0, 1)], "b": [(0, 0)]})
    assert result.codes == {"a": 0, "b": 0} and result.restarts == {"a": 3, "b": 0}
    assert len(launcher.placed["a"]) == 4 and result.exit_code(all_needed=True) == 0


def test_restarts_are_bounded_and_wait_longer_each_time() -> None:
    """Five restarts, after 1, 2, 4, 8 and 16 s: 31 s at least, and then it stays away."""
    result, _, clock = supervised({"a": [(-11, 0)] * 6})
    assert result.codes == {"a": -11} and result.restarts == {"a": 5}
    assert 31 <= clock[-1] <= 40
    assert result.exit_code(all_needed=False) == 1


def test_a_worker_that_ran_long_has_all_its_restarts_again() -> None:
    """Ten minutes are 1200 polls: seven such ends are no failing start."""
    result, _, _ = supervised({"a": [(-9, 1300)] * 7 + [(0, 0)]})
    assert result.restarts == {"a": 7} and result.codes == {"a": 0}


def test_wrong_input_is_not_started_again() -> None:
    """2 and 3 would be said again; others finish the study; that is well unless each had a part of its own."""
    result, _, _ = supervised({"a": [(2, 0)], "b": [(0, 3)]})
    assert result.restarts == {"a": 0, "b": 0} and result.failed == {"a": 2}
    assert result.exit_code(all_needed=False) == 0
    assert result.exit_code(all_needed=True) == 2


def test_a_stop_is_passed_on_once_per_press() -> None:
    """Each press reaches each worker once; nobody who is away is started again; the fleet leaves with 130."""
    result, launcher, _ = supervised({"a": [(0, 50)], "b": [(-9, 0)]}, presses=[0, 0, 1])
    assert launcher.placed["a"][0].asked == 1
    assert result.stopped and result.exit_code(all_needed=False) == 130
    assert result.restarts["b"] == 0


def test_the_third_press_kills() -> None:
    """Whoever does not listen is not waited for."""
    launcher = Launcher({"a": [(0, 10**6)]})
    deaf = Worker(0, 10**6)
    deaf.ask_to_stop = lambda: None  # type: ignore[method-assign]
    launcher.place = lambda order: deaf  # type: ignore[method-assign]
    made: Any = launcher
    result = Supervisor(launcher=made, presses=lambda: 3, note=lambda t: None, sleep=lambda s: None).run(launcher.orders())
    assert deaf.killed and result.codes == {"a": 130}
