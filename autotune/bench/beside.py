"""Whether a build on other cores disturbs a load: it runs in one window of each pair and is stopped in the other."""

from __future__ import annotations

import math
import os
import random
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np

from autotune.bench.statistics import mean_estimate, trimmed_estimate
from autotune.records import Estimate, Series

LOG_RATIO = "beside_build_log_ratio"
"""Telemetry metric: throughput beside a build over throughput without, as a natural logarithm, of each pair of windows."""
COUNTED_BESIDE = "beside_a_build"
"""Flag of a load that counted windows in which a build ran, because such builds had been shown to be harmless."""
HARMLESS = 0.01
"""A build disturbs nothing when throughput beside it is certainly within 1 % of what it is without: the width to which a search
measures at best (`load: {precision: 0.01}`)."""
_LOOKS = 1.5
"""Half-widths of 95 % are taken so many times, because they are looked at after every load (test_beside.py simulates it)."""
_LEAST_LOADS = 8
_LEAST_PAIRS = 5
_CERTAIN = 2.0
"""A load's own half-width is taken so many times before it is certain that this load was disturbed: a study has many loads."""
_LONGEST_REQUEST = 0.1
"""Of a window. A request that lies in both windows of a pair makes them look alike, whatever the build does."""
_LEAST_CPUS = 0.5
"""A build that used less in a window was waiting for something, and what was measured beside it shows nothing."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Verdict = Literal["unknown", "harmless", "disturbs"]


class Evidence:
    """What the pairs of windows of all loads so far tell of builds beside them, each load as one value."""

    def __init__(self) -> None:
        self._loads: list[float] = []

    def add(self, telemetry: Iterable[Series]) -> None:
        """The pairs of one more load are taken in."""
        pairs = log_ratios_in(telemetry)
        if len(pairs) >= 2:
            self._loads.append(trimmed_estimate(np.array(pairs)).value)

    @property
    def effect(self) -> Estimate | None:
        """Throughput beside a build over throughput without, less 1, over loads; None for fewer than eight.

        The interval is wide enough to be looked at after every load.
        """
        if len(self._loads) < _LEAST_LOADS:
            return None
        found = mean_estimate(np.array(self._loads))
        half = _LOOKS * found.half_width
        low, high = math.expm1(found.value - half), math.expm1(found.value + half)
        return Estimate(value=math.expm1(found.value), low=low, high=high, n=found.n, method=found.method)

    @property
    def verdict(self) -> Verdict:
        """Whether builds may run while a throughput is counted; unknown until enough loads agree, and perhaps again later."""
        effect = self.effect
        if effect is None:
            return "unknown"
        if effect.low >= -HARMLESS and effect.high <= HARMLESS:
            return "harmless"
        return "disturbs" if effect.high < -HARMLESS or effect.low > HARMLESS else "unknown"


def log_ratios_in(telemetry: Iterable[Series]) -> tuple[float, ...]:
    """The pairs that a load's telemetry holds, as logarithms."""
    return next((s.values for s in telemetry if s.metric == LOG_RATIO), ())


def was_disturbed(telemetry: Iterable[Series]) -> bool:
    """True when a load's own pairs show that the build beside it changed its throughput by more than what is harmless."""
    pairs = log_ratios_in(telemetry)
    if len(pairs) < _LEAST_PAIRS:
        return False
    found = mean_estimate(np.array(pairs))
    return abs(found.value) - _CERTAIN * found.half_width > HARMLESS


class Build(Protocol):
    """A build that can be stopped at any moment and go on; `ProcessGroup` on a real host."""

    def stop(self) -> bool:
        """It does nothing any more. False when it had ended before."""
        ...

    def go_on(self) -> bool:
        """It continues. False when it had ended before."""
        ...

    def cpu_s(self) -> float:
        """The processor time that it has used so far, in seconds."""
        ...


class ProcessGroup:
    """The build that a process group of this user does, known by its number, which is that of its first process."""

    def __init__(self, group: int) -> None:
        self._group = group

    def stop(self) -> bool:
        """SIGSTOP, which no process can ignore."""
        return self._sent(signal.SIGSTOP)

    def go_on(self) -> bool:
        """SIGCONT."""
        return self._sent(signal.SIGCONT)

    def _sent(self, number: signal.Signals) -> bool:
        try:
            os.killpg(self._group, number)
        except (ProcessLookupError, PermissionError):  # gone, or its number is another user's by now
            return False
        return True

    def cpu_s(self) -> float:
        """User and system time of the first process, from /proc (proc(5)); 0 when it is gone."""
        try:
            fields = Path(f"/proc/{self._group}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class Turns:
    """Stops a build for the whole of a load, but for one window of each two, in an order drawn at random.

    A context manager around warm-up and windows, after which the build goes on; call `open_windows` when the first window
    begins and `lap` when one ends. `harmless`: the windows beside it count like the others.
    """

    def __init__(self, build: Build, window_s: float, seed: int = 0, *, harmless: bool = False) -> None:
        self._build, self._window_s, self._random = build, window_s, random.Random(seed)
        self.harmless = harmless
        self._first = False
        self._running = False
        self._over = False
        self._used_s = 0.0
        self.beside: list[bool] = []
        """For each window whether the build was allowed to run in it."""
        self._busy: list[bool] = []

    def __enter__(self) -> Self:
        self._over = not self._build.stop()
        return self

    def __exit__(self, *_: object) -> None:
        self._build.go_on()

    def open_windows(self, request_s: float) -> None:
        """The first window begins. `request_s`: what a request takes; in windows too short for it no build runs."""
        self._over = self._over or not 0 < request_s <= _LONGEST_REQUEST * self._window_s
        self._next()

    def lap(self) -> None:
        """A window has ended, and the next begins."""
        was_over = self._over
        used_s = self._build.cpu_s()
        if self._running:
            self._over = not self._build.stop()
        self.beside.append(self._running)
        self._busy.append(not was_over and not self._over and used_s - self._used_s >= _LEAST_CPUS * self._window_s)
        self._next()

    def _next(self) -> None:
        if len(self.beside) % 2 == 0:
            self._first = self._random.random() < 0.5
        wanted = not self._over and self._first == (len(self.beside) % 2 == 0)
        if wanted:
            self._over = not self._build.go_on()
        self._running = wanted and not self._over
        self._used_s = self._build.cpu_s()

    def log_ratios(self, rates: Sequence[float], disturbed: Sequence[bool]) -> tuple[tuple[int, float], ...]:
        """(index of its first window, logarithm of the rate beside the build over that without) of each pair that compares.

        That is one which nobody else `disturbed` and in which the build was at work. `rates` and `disturbed`: of each window.
        """
        found = []
        for i in range(0, len(self.beside) - 1, 2):
            pair = (i, i + 1)
            with_build = [k for k in pair if self.beside[k] and self._busy[k]]
            without = [k for k in pair if not self.beside[k]]
            if len(with_build) == len(without) == 1 and not any(disturbed[k] for k in pair) and min(rates[k] for k in pair) > 0:
                found.append((i, math.log(rates[with_build[0]] / rates[without[0]])))
        return tuple(found)
