"""The sampler: a thread that reads probes ten times a second while a load runs, each metric degrading alone."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from autotune.records import Series

_log = logging.getLogger(__name__)
PERIOD_S = 0.1
"""10 Hz: NVML and RAPL refresh no faster than this matters, and a faster thread would disturb what it watches."""
MOST_SAMPLES = 1200
"""Of a series: two minutes. Of a longer load every second sample is dropped, and then they are taken half as often, so that a
trial's rows in the database are bounded. What stays was read at its time, so counters and their differences stay exact."""


class Probe(Protocol):
    """One metric of the machine. Constructing a probe finds out whether it can be read; `absent` says why not."""

    metric: str
    unit: str
    absent: str | None
    every: int
    """It is read at the first sample and then at every so-manieth: 1, unless reading blocks."""

    def read(self) -> float:
        """The metric now. May raise OSError or RuntimeError; the series then ends with that reason."""
        ...


class Sampler:
    """Context manager: inside it every present probe is read each PERIOD_S; afterwards `series()` has what was seen."""

    def __init__(self, probes: Sequence[Probe], clock: Callable[[], float] = time.monotonic) -> None:
        self._probes = probes
        self._clock = clock
        self._seen: dict[str, tuple[list[float], list[float]]] = {p.metric: ([], []) for p in probes}
        self._absent: dict[str, str | None] = {p.metric: p.absent for p in probes}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="telemetry", daemon=True)
        self._begin = 0.0
        self._period_s = PERIOD_S

    def __enter__(self) -> Self:
        self._begin = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        for tick in itertools.count():
            if self._stop.wait(self._period_s):
                return
            self._bound()
            now = self._clock() - self._begin
            for probe in self._probes:
                if self._absent[probe.metric] is not None or tick % probe.every:
                    continue
                try:
                    value = probe.read()
                except (OSError, RuntimeError, ValueError) as exc:
                    self._absent[probe.metric] = f"{type(exc).__name__}: {exc}"
                    continue
                times, values = self._seen[probe.metric]
                times.append(math.floor(now * 1000) / 1000)  # never later than it was
                values.append(value)

    def _bound(self) -> None:
        """No series is longer than MOST_SAMPLES after the next sample."""
        if all(len(times) < MOST_SAMPLES for times, _ in self._seen.values()):
            return
        self._period_s *= 2
        for times, values in self._seen.values():
            del times[1::2], values[1::2]

    def series(self) -> tuple[Series, ...]:
        """One Series per probe. A metric that failed midway keeps what it gave before."""
        found = []
        for probe in self._probes:
            times, values = self._seen[probe.metric]
            absent = None if values else self._absent[probe.metric] or "the load ended before the first sample"
            found.append(Series(metric=probe.metric, unit=probe.unit, t_s=tuple(times), values=tuple(values), absent=absent))
        return tuple(found)
