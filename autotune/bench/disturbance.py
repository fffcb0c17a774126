"""Windows of a load that others on the host disturbed: left out and repeated up to a bound, else told."""

from __future__ import annotations

from typing import Protocol

from autotune.bench.beside import Turns

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
    """The windows of one load, each with the share that others took of the CPUs in it; without a meter none is disturbed.

    `turns`: a build runs in some of them. Unless it is harmless these never count, and are repeated without a bound.
    """

    def __init__(self, meter: CpuMeter | None, most_repeats: int = MOST_REPEATS, turns: Turns | None = None) -> None:
        self._meter, self._most_repeats, self._turns = meter, most_repeats, turns
        self.shares: list[float] = []
        self._share()

    def lap(self) -> None:
        """One more window has ended."""
        if self._turns is not None:
            self._turns.lap()
        self.shares.append(self._share())

    def _share(self) -> float:
        return 0.0 if self._meter is None else self._meter.lap()

    @property
    def left_to_build(self) -> list[bool]:
        """For each window whether it does not count because a build ran in it."""
        if self._turns is None or self._turns.harmless:
            return [False] * len(self.shares)
        return self._turns.beside

    @property
    def disturbed(self) -> list[bool]:
        """For each window whether it was."""
        limit = 1.0 if self._meter is None else self._meter.limit
        return [share > limit for share in self.shares]

    @property
    def n_repeats(self) -> int:
        """Windows by which the load may be longer because of those that do not count."""
        left = self.left_to_build
        return min(self._most_repeats, sum(d and not b for d, b in zip(self.disturbed, left, strict=True))) + sum(left)

    @property
    def n_towards_the_end(self) -> int:
        """Windows so far, without those that are to be repeated: what a rule about the least or the most windows counts."""
        return len(self.shares) - self.n_repeats

    def counted(self, at_least: int) -> list[bool]:
        """For each window whether it counts: the undisturbed ones, or all where fewer than `at_least` were left.

        None that was left to a build.
        """
        alone = [not b for b in self.left_to_build]
        kept = [a and not d for a, d in zip(alone, self.disturbed, strict=True)]
        return kept if sum(kept) >= at_least else alone

    def foreign_share(self, counted: list[bool]) -> float | None:
        """The mean share that others took in the windows that count; None without a meter."""
        kept = [share for share, keep in zip(self.shares, counted, strict=True) if keep]
        return None if self._meter is None or not kept else sum(kept) / len(kept)
