"""Windows of a load that others on the host disturbed: left out and repeated up to a bound, else told."""

from __future__ import annotations

from typing import Protocol

CONTENDED = "contended"
"""Flag of a load in which too few windows were undisturbed, so that all of them count."""
MOST_REPEATS = 5
"""Windows of one load that may be repeated: a neighbour that stays would disturb every repetition."""


class CpuMeter(Protocol):
    """Tells what others took of the CPUs; `telemetry.contention.HostCpu` on a real host."""

    def lap(self) -> float:
        """Share of the usable CPU time since the last call that this process could not have had, 0…1."""
        ...

    limit: float
    """The share from which on a window counts as disturbed."""


class Windows:
    """The windows of one load, each with the share that others took of the CPUs in it; without a meter none is disturbed."""

    def __init__(self, meter: CpuMeter | None, most_repeats: int = MOST_REPEATS) -> None:
        self._meter, self._most_repeats = meter, most_repeats
        self.shares: list[float] = []
        self.lap()
        self.shares.clear()

    def lap(self) -> None:
        """One more window has ended."""
        self.shares.append(0.0 if self._meter is None else self._meter.lap())

    @property
    def disturbed(self) -> list[bool]:
        """For each window whether it was."""
        limit = 1.0 if self._meter is None else self._meter.limit
        return [share > limit for share in self.shares]

    @property
    def n_repeats(self) -> int:
        """Windows by which the load may be longer because of disturbed ones."""
        return min(self._most_repeats, sum(self.disturbed))

    @property
    def n_towards_the_end(self) -> int:
        """Windows so far, without those that are to be repeated: what a rule about the least or the most windows counts."""
        return len(self.shares) - self.n_repeats

    def counted(self, at_least: int) -> list[bool]:
        """For each window whether it counts: the undisturbed ones, or all where fewer than `at_least` were left."""
        kept = [not d for d in self.disturbed]
        return kept if sum(kept) >= at_least else [True] * len(kept)

    def foreign_share(self, counted: list[bool]) -> float | None:
        """The mean share that others took in the windows that count; None without a meter."""
        kept = [share for share, keep in zip(self.shares, counted, strict=True) if keep]
        return None if self._meter is None or not kept else sum(kept) / len(kept)
