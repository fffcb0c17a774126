"""Builds beside a load: the turns they take, what the windows tell of them, and that none counts in which one ran."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from test_closed_loop import PLAN, batches, candidate

from autotune.bench.beside import BESIDE_BUILD, Evidence, ProcessGroup, Turns, Verdict
from autotune.bench.disturbance import Windows
from autotune.bench.load import run_closed_loop, summarize
from autotune.bench.scenario import Loadable, run_scenario
from autotune.engines.fake import FakeSession
from autotune.engines.protocol import Outputs
from autotune.records import Series


class ScriptedBuild:
    """A build that runs while it is let, uses a whole CPU of a clock of its own, and ends after so many switches."""

    def __init__(self, ends_after: int = 1000, busy: float = 1.0) -> None:
        self._left, self._busy, self._used_s = ends_after, busy, 0.0
        self.runs = True

    def _switched(self, runs: bool) -> bool:
        self._left -= 1
        self.runs = runs and self._left > 0
        return self._left > 0

    def stop(self) -> bool:
        return self._switched(False)

    def go_on(self) -> bool:
        return self._switched(True)

    def cpu_s(self) -> float:
        return self._used_s

    def pass_window(self) -> None:
        """A window of a second."""
        self._used_s += self._busy * self.runs


def turns(build: ScriptedBuild, n: int, seed: int = 0) -> Turns:
    """The turns of a build in a load of `n` windows of a second."""
    with Turns(build, 1.0, seed) as found:
        assert not build.runs  # the warm-up
        found.open_windows()
        for _ in range(n):
            build.pass_window()
            found.lap()
    return found


def test_a_build_runs_in_one_window_of_each_two() -> None:
    """In ten pairs once each, not always in the same place; afterwards it goes on."""
    build = ScriptedBuild()
    beside = turns(build, 20).beside
    assert [sum(beside[i : i + 2]) for i in range(0, 20, 2)] == [1] * 10
    assert 0 < sum(beside[::2]) < 10 and build.runs


def test_pairs_compare_the_window_with_the_build_to_the_one_without() -> None:
    """90 beside it and 100 alone are ln 0.9, wherever each stands; a pair that others disturbed is left out."""
    found = turns(ScriptedBuild(), 6)
    rates = [90.0 if b else 100.0 for b in found.beside]
    disturbed = [False, False, True, False, False, False]
    assert found.log_ratios(rates, disturbed) == ((0, pytest.approx(math.log(0.9))), (4, pytest.approx(math.log(0.9))))


def test_a_build_that_waits_shows_nothing() -> None:
    """It used less than half a CPU: whatever is measured beside it, it was not at work."""
    found = turns(ScriptedBuild(busy=0.4), 6)
    assert sum(found.beside) == 3 and found.log_ratios([1.0] * 6, [False] * 6) == ()


def test_after_a_build_has_ended_nothing_is_beside_it() -> None:
    """It ends while it is let: that window compares with none, and all later ones are alone."""
    build = ScriptedBuild(ends_after=4)
    found = turns(build, 12)
    assert sum(found.beside) == 1 and not any(found.beside[4:]) and len(found.log_ratios([1.0] * 12, [False] * 12)) <= 1


def test_windows_beside_a_build_never_count() -> None:
    """Four of eight do, and as many more are wanted; also where so few are left that disturbed ones count."""
    build = ScriptedBuild()
    with Turns(build, 1.0) as taken:
        windows = Windows(None, turns=taken)
        for _ in range(8):
            build.pass_window()
            windows.lap()
    alone = [not b for b in taken.beside]
    assert sum(alone) == 4 and windows.n_towards_the_end == 4
    assert windows.counted(at_least=3) == alone == windows.counted(at_least=6)


class SlowedSession(FakeSession):
    """Takes twice as long while a build runs."""

    build: ScriptedBuild

    def wait(self, slot: int) -> Outputs:
        found = super().wait(slot)
        if self.build.runs:
            time.sleep(0.05)
        return found


@pytest.fixture
def slowed() -> SlowedSession:
    session = SlowedSession(candidate(), None)
    session.build = ScriptedBuild(busy=1.0)
    session.build.cpu_s = lambda: time.monotonic() * session.build.runs  # type: ignore[method-assign]
    return session


def test_a_load_beside_a_build_reports_the_throughput_without(slowed: SlowedSession) -> None:
    """The engine makes 96 items in 50 ms alone and in 100 ms beside the build: the estimate is that of the windows alone."""
    plan = PLAN.model_copy(update={"window_s": 0.2, "max_s": 2.0})
    loadable = Loadable(session=slowed, pool=batches(96), batch_size=96, build=slowed.build)
    found = run_scenario(loadable, plan)
    assert found.throughput_items_per_s.value == pytest.approx(1920, rel=0.15)
    assert found.beside is not None and found.beside.metric == BESIDE_BUILD and found.figures is not None
    assert found.figures.n_repeated_windows == 0
    assert np.median(found.beside.values) == pytest.approx(math.log(0.5), abs=0.25)
    assert slowed.build.runs


def test_without_a_build_nothing_is_said_of_one(slowed: SlowedSession) -> None:
    """As ever."""
    slowed.build.runs = False
    trace = run_closed_loop(slowed, batches(96), 96, PLAN)
    assert trace.n_beside == 0 and summarize(trace, PLAN).beside is None


def evidence(*log_ratios: float) -> Evidence:
    found = Evidence()
    found.add([Series(metric="cpu_percent", unit="%", values=(50.0,))])
    found.add([Series(metric=BESIDE_BUILD, unit="ln(ratio)", values=log_ratios)])
    return found


@pytest.mark.parametrize(
    ("centre", "spread", "n", "verdict"),
    [
        (0.0, 0.01, 7, "unknown"),  # too few, however well they agree
        (0.0, 0.002, 20, "harmless"),
        (0.0, 0.03, 20, "unknown"),
        (0.0, 0.03, 400, "harmless"),
        (-0.03, 0.01, 40, "disturbs"),
        (0.03, 0.01, 40, "disturbs"),  # faster beside a build is another machine, too
        (-0.012, 0.03, 1200, "disturbs"),  # no certain harm, and never shown to be harmless
    ],
)
def test_builds_are_harmless_only_when_that_was_shown(centre: float, spread: float, n: int, verdict: Verdict) -> None:
    """Within 1 % with an interval half as wide again as that of 95 %. Log ratios at the quantiles of a normal distribution."""
    from statistics import NormalDist

    at = [NormalDist(centre, spread).inv_cdf((i + 0.5) / n) for i in range(n)]
    assert evidence(*at).verdict == verdict


def test_few_wild_windows_do_not_hide_what_the_others_show() -> None:
    """One pair in twenty is off by 30 %, in either direction, as on a machine that pauses now and then."""
    usual = [0.004 * math.sin(i) for i in range(38)]
    assert evidence(*usual, 0.3, -0.3).verdict == "harmless"


def test_a_group_of_processes_is_stopped_and_goes_on() -> None:
    """With its children; once it has ended, that is told."""
    spins = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'while True: pass'])\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", spins], start_new_session=True)
    group = ProcessGroup(process.pid)
    try:
        for _ in range(100):
            if group.cpu_s() > 0.05 and psutil.Process(process.pid).children():
                break
            time.sleep(0.1)
        assert group.stop()
        time.sleep(0.1)
        used = group.cpu_s()
        time.sleep(0.3)
        assert group.cpu_s() == used > 0
        everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        assert len(everything) == 2 and {p.status() for p in everything} == {psutil.STATUS_STOPPED}
        assert group.go_on()
        time.sleep(0.3)
        assert group.cpu_s() > used
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for _ in range(100):  # its child is init's to wait for
        if not group.stop():
            break
        time.sleep(0.1)
    assert not group.go_on() and group.cpu_s() == 0
