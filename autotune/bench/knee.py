"""The knee: the highest arrival rate at which the SLO is kept, found by bisection of loads that end once they are decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from autotune.bench.statistics import CONFIDENCE
from autotune.records import Estimate

_FIRST = 0.8
"""Where the search begins, as a part of the peak: a loose SLO is kept at nearly all of it, a tight one far below."""
_HOPELESS = 1e-3
"""Below this part of the peak there is no rate worth finding: the SLO is shorter than the service."""
_MOST_LOADS = 20
_NOBODY = 0.02
"""Of requests that queued: so few change no percentile that an SLO may be about by more than its own last digit."""

Verdict = Literal["kept", "missed", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One load at one rate: the share of requests within the SLO, and what was to be reached.

    `overloaded`: the queue grew. `queued_share`: of requests that found every stream busy.
    """

    items_per_s: float
    within: Estimate
    wanted: float
    overloaded: bool = False
    queued_share: float | None = None

    @property
    def is_hopeless(self) -> bool:
        """True when the SLO is missed although nobody queued: no lower rate would keep it."""
        return self.verdict == "missed" and self.queued_share is not None and self.queued_share < _NOBODY

    @property
    def verdict(self) -> Verdict:
        """What the interval says; "undecided" where it holds the share that was to be reached."""
        if self.overloaded or self.within.high < self.wanted:
            return "missed"
        return "kept" if self.within.low >= self.wanted else "undecided"

    @property
    def is_kept(self) -> bool:
        """The verdict, and where there is none the value."""
        return self.verdict == "kept" or (self.verdict == "undecided" and self.within.value >= self.wanted)


@dataclass(slots=True, kw_only=True)
class Bracket:
    """What is known of the knee: the SLO is kept at `low` and missed at `high`, for certain at `sure_low` and `sure_high`."""

    low: float
    high: float
    sure_low: float
    sure_high: float
    kept: list[float] = field(default_factory=list)
    n_loads: int = 0

    def learn(self, probe: Probe) -> None:
        """The bracket after one more load."""
        rate = probe.items_per_s
        self.n_loads += 1
        if probe.is_kept:
            self.low = max(self.low, rate)
            self.kept.append(rate)
            if probe.verdict == "kept":
                self.sure_low = max(self.sure_low, rate)
            return
        self.high = min(self.high, rate)
        self.kept = [k for k in self.kept if k < rate]
        self.low = max(self.kept, default=0.0)
        self.sure_low = min(self.sure_low, self.low)
        if probe.verdict == "missed":
            self.sure_high = min(self.sure_high, rate)

    def estimate(self) -> Estimate:
        """The knee: the highest rate that was kept, between the highest that surely was and the lowest that surely was not."""
        method = f"bisection of the arrival rate, {self.n_loads} loads, {CONFIDENCE:.0%} intervals of the share within the SLO"
        return Estimate(value=self.low, low=self.sure_low, high=self.sure_high, n=self.n_loads, method=method)


def find_knee(
    probe: Callable[[float], Probe],
    peak: Estimate,
    resolution: float,
    is_over: Callable[[], bool],
    give_up_below: float = 0.0,
    bracket: Bracket | None = None,
) -> Bracket:
    """The bracket around the knee, no wider than `resolution` of it, or as far as it came until `is_over`.

    `probe(items_per_s)` runs one load. `peak`: of the closed loop at full load, beyond which every queue grows. Ends early when
    the knee lies below `give_up_below` for certain, or below a thousandth of the peak. `bracket`: the one to go on with.
    """
    bracket = bracket or Bracket(low=0.0, high=peak.high, sure_low=0.0, sure_high=peak.high)
    while not is_over() and bracket.n_loads < _MOST_LOADS:
        if bracket.high - bracket.low <= resolution * bracket.high or bracket.high <= _HOPELESS * peak.high:
            break
        if bracket.low > 0 and bracket.sure_high < give_up_below:
            break
        rate = _FIRST * bracket.high if bracket.n_loads == 0 else (bracket.low + bracket.high) / 2
        found = probe(rate)
        bracket.learn(found)
        if found.is_hopeless and bracket.low == 0.0:
            break
    return bracket
