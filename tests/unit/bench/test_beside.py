"""Builds beside a load: the turns they take, what the windows tell of them, and that none counts in which one ran."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from statistics import NormalDist

import numpy as np
import psutil
import pytest
from test_closed_loop import MS, PLAN, batches, candidate

from autotune.bench import beside
from autotune.bench.beside import COUNTED_BESIDE, LOG_RATIO, Evidence, ProcessGroup, Turns, Verdict, was_disturbed
from autotune.bench.disturbance import Windows
from autotune.bench.load import LoadTrace, run_closed_loop, summarize
from autotune.bench.scenario import Loadable, run_scenario
from autotune.engines.fake import FakeSession
from autotune.engines.protocol import Outputs
from autotune.records import Series
from autotune.spec.model import LoadSpec


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
        found.open_windows(0.1)
        for _ in range(n):
            build.pass_window()
            found.lap()
    return found


def test_a_build_runs_in_one_window_of_each_two() -> None:
    """In ten pairs once each, not always in the same place; afterwards it goes on."""
    build = ScriptedBuild()
    ran = turns(build, 20).beside
    assert [sum(ran[i : i + 2]) for i in range(0, 20, 2)] == [1] * 10
    assert 0 < sum(ran[::2]) < 10 and build.runs


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
    found, taken = windows_beside(build, 8)
    alone = [not b for b in taken.beside]
    assert sum(alone) == 4 and found.n_towards_the_end == 4
    assert found.counted(at_least=3) == alone == found.counted(at_least=6)


def test_windows_beside_a_harmless_build_count_like_all_others() -> None:
    """None is repeated for it."""
    found, taken = windows_beside(ScriptedBuild(), 8, harmless=True)
    assert sum(taken.beside) == 4 and found.n_towards_the_end == 8 and found.counted(at_least=3) == [True] * 8


def windows_beside(build: ScriptedBuild, n: int, *, harmless: bool = False) -> tuple[Windows, Turns]:
    with Turns(build, 1.0, harmless=harmless) as taken:
        taken.open_windows(0.1)
        windows = Windows(None, turns=taken)
        for _ in range(n):
            build.pass_window()
            windows.lap()
    return windows, taken


def test_requests_that_are_long_for_a_window_let_no_build_run() -> None:
    """They lie in both windows of a pair, which would look alike whatever the build does."""
    for request_s in (0.11, 0.0):  # and where none was done in the warm-up
        build = ScriptedBuild()
        with Turns(build, 1.0) as found:
            found.open_windows(request_s)
            for _ in range(6):
                build.pass_window()
                found.lap()
        assert found.beside == [False] * 6 and found.log_ratios([1.0] * 6, [False] * 6) == () and build.runs


class SlowedSession(FakeSession):
    """Takes twice as long while a build runs."""

    build: ScriptedBuild

    def wait(self, slot: int) -> Outputs:
        found = super().wait(slot)
        if self.build.runs:
            time.sleep(0.05)
        return found


PLAN_BESIDE = PLAN.model_copy(update={"window_s": 0.5, "min_windows": 3, "max_s": 2.0, "precision": 0.1})


@pytest.fixture
def slowed(monkeypatch: pytest.MonkeyPatch) -> SlowedSession:
    monkeypatch.setattr(beside, "_LONGEST_REQUEST", 0.5)  # of a window, so that the test takes seconds and not minutes
    session = SlowedSession(candidate(), None)
    session.build = ScriptedBuild(busy=1.0)
    session.build.cpu_s = lambda: time.monotonic() * session.build.runs  # type: ignore[method-assign]
    return session


def test_a_load_beside_a_build_reports_the_throughput_without(slowed: SlowedSession) -> None:
    """The engine makes 96 items in 50 ms alone and in 100 ms beside the build: the estimate is that of the windows alone."""
    found = run_scenario(Loadable(session=slowed, pool=batches(96), batch_size=96, build=slowed.build), PLAN_BESIDE)
    assert found.throughput_items_per_s.value == pytest.approx(1920, rel=0.15)
    assert found.beside is not None and found.beside.metric == LOG_RATIO and found.figures is not None
    assert found.figures.n_repeated_windows == 0 and COUNTED_BESIDE not in found.flags
    assert np.median(found.beside.values) == pytest.approx(math.log(0.5), abs=0.25)
    assert slowed.build.runs


def test_a_load_that_takes_a_build_for_harmless_says_so(slowed: SlowedSession) -> None:
    """It counts both windows of a pair, and its own pairs tell that it should not have."""
    loadable = Loadable(session=slowed, pool=batches(96), batch_size=96, build=slowed.build, build_is_harmless=True)
    found = run_scenario(loadable, PLAN_BESIDE.model_copy(update={"min_windows": 12, "max_s": 6.0}))
    assert found.throughput_items_per_s.value < 1750 and COUNTED_BESIDE in found.flags
    assert found.beside is not None and was_disturbed([found.beside])


def test_latency_beside_a_build_does_not_lose_the_long_requests() -> None:
    """Requests of 0.9 s begin 0.5 s into each window of 1 s, which end in the next: those count that began in a counted one."""
    began = np.arange(0, 20_000, 1000, dtype=np.int64) * MS + 500 * MS
    left = tuple(i % 2 == 1 for i in range(20))
    trace = LoadTrace(
        started_ns=began,
        done_ns=began + 900 * MS,
        batch_size=1,
        begin_ns=0,
        end_ns=20_000 * MS,
        warmup_s=0.0,
        counted=tuple(not x for x in left),
        left_to_build=left,
        beside=(),
    )
    found = summarize(trace, LoadSpec(window_s=1.0))
    assert found.n_requests == 10 and found.figures is not None and found.figures.n_repeated_windows == 0


def test_without_a_build_nothing_is_said_of_one(slowed: SlowedSession) -> None:
    """As ever."""
    slowed.build.runs = False
    trace = run_closed_loop(slowed, batches(96), 96, PLAN)
    assert trace.beside is None and summarize(trace, PLAN).beside is None


def load_of(*log_ratios: float) -> list[Series]:
    """The telemetry of one load."""
    return [
        Series(metric="cpu_percent", unit="%", values=(50.0,)),
        Series(metric=LOG_RATIO, unit="ln(ratio)", values=log_ratios),
    ]


def evidence(*loads: float) -> Evidence:
    """Of loads whose pairs all show this."""
    found = Evidence()
    for log_ratio in loads:
        found.add(load_of(log_ratio, log_ratio))
    return found


@pytest.mark.parametrize(
    ("centre", "spread", "n", "verdict"),
    [
        (0.0, 0.001, 7, "unknown"),  # too few, however well they agree
        (0.0, 0.002, 10, "harmless"),
        (0.0, 0.03, 20, "unknown"),
        (0.0, 0.03, 400, "harmless"),
        (-0.03, 0.01, 40, "disturbs"),
        (0.03, 0.01, 40, "disturbs"),  # faster beside a build is another machine, too
        (-0.012, 0.03, 400, "unknown"),
    ],
)
def test_builds_are_harmless_only_when_that_was_shown(centre: float, spread: float, n: int, verdict: Verdict) -> None:
    """Within 1 % with an interval half as wide again as that of 95 %. Loads at the quantiles of a normal distribution."""
    at = [NormalDist(centre, spread).inv_cdf((i + 0.5) / n) for i in range(n)]
    assert evidence(*random.Random(0).sample(at, n)).verdict == verdict


@pytest.mark.parametrize(("effect", "at_most"), [(-0.01, 0.05), (-0.015, 0.01)])
def test_looking_after_every_load_calls_few_that_disturb_harmless(effect: float, at_most: float) -> None:
    """300 studies of 60 loads whose values spread by 1 % around an effect at the bound, and one beyond it."""
    draws = np.random.default_rng(3).normal(effect, 0.01, size=(300, 60))

    def is_ever_harmless(loads: list[float]) -> bool:
        found = Evidence()
        for value in loads:
            found.add(load_of(value, value))
            if found.verdict == "harmless":
                return True
        return False

    assert np.mean([is_ever_harmless(row) for row in draws.tolist()]) <= at_most


def test_one_load_in_eight_that_suffers_is_enough_to_doubt() -> None:
    """No outlier: a candidate that a build costs a fifth of its throughput."""
    assert evidence(*[0.0, 0.001] * 4).verdict == "harmless"
    assert evidence(*[0.0, 0.001] * 4, -0.2).verdict == "unknown"


def test_a_wild_window_in_a_load_does_not_hide_what_the_others_show() -> None:
    """One pair in ten is off by 30 %, as on a machine that pauses now and then."""
    found = Evidence()
    for i in range(10):
        found.add(load_of(*[0.001 * (-1) ** i] * 9, 0.3))
    assert found.verdict == "harmless"


def test_a_load_knows_that_it_was_disturbed() -> None:
    """Ten pairs at −20 % ± 2 % tell; three do not, nor do ten that may as well be nothing."""
    certain = [-0.2 + 0.02 * math.sin(i) for i in range(10)]
    assert was_disturbed(load_of(*certain)) and not was_disturbed(load_of(*certain[:3]))
    assert not was_disturbed(load_of(*[0.1, -0.12] * 5)) and not was_disturbed([])


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
