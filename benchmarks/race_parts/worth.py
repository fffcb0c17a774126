"""What configurations are worth, and when a contender had one that was worth enough.

A load of a few seconds tells little of a configuration where the machine becomes faster and slower by a tenth within minutes:
who happens to load a good one in a fast moment seems to have found more than the best. So nobody is judged by loads of his own.
Everything that a contender held for its best at any time is measured afterwards, in turns: each once per turn, in random order,
in a fresh process. Compared are loads of the same turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from spread import spread_with_interval

from autotune.candidate import Candidate

SHARE = 0.95
"""A contender has arrived with the first configuration that it held for its best and that is worth this share of the best."""

HOPELESS = 0.5
"""What a contender held for its best is not measured where its own load was below this part of the contender's fastest."""

Turn = Mapping[Candidate, float]
"""What each configuration's load gave in one turn, items/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One trial of a contender: when it had ended, seconds since the contender began, and what its own load gave."""

    s: float
    items_per_s: float
    feasible: bool
    candidate: Candidate

    def as_json(self) -> dict[str, Any]:
        """For a result file; `from_json` reads it."""
        return {**asdict(self), "candidate": self.candidate.as_json()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `as_json` wrote."""
        return cls(**{**found, "candidate": Candidate.from_json(found["candidate"])})


def incumbents(trials: Sequence[Tried]) -> Iterator[Tried]:
    """The trials, in the order of time, after which the contender would have named another best: its fastest feasible."""
    fastest = 0.0
    for trial in sorted(trials, key=lambda t: t.s):
        if trial.feasible and trial.items_per_s > fastest:
            fastest = trial.items_per_s
            yield trial


def worth_measuring(contenders: Sequence[Sequence[Tried]]) -> set[Candidate]:
    """What any of the contenders held for its best, the hopeless left out."""
    found: set[Candidate] = set()
    for trials in contenders:
        held = list(incumbents(trials))
        found |= {t.candidate for t in held if t.items_per_s >= HOPELESS * held[-1].items_per_s}
    return found


def fastest_of(candidates: Sequence[Candidate], turns: Sequence[Turn]) -> Candidate:
    """Which of these is worth most: the highest median, over the turns, of its load over the mean of these in the turn."""

    def over_the_mean(candidate: Candidate) -> float:
        return statistics.median(turn[candidate] / statistics.fmean(turn[c] for c in candidates) for turn in turns)

    return max(candidates, key=over_the_mean)


def share_of(candidate: Candidate, best: Candidate, turns: Sequence[Turn]) -> dict[str, float]:
    """What it is worth, as a share of the best: the median over the turns with its range, and from six on its 95 % interval."""
    return spread_with_interval([turn[candidate] / turn[best] for turn in turns])


def arrival(trials: Sequence[Tried], best: Candidate, turns: Sequence[Turn], share: float = SHARE) -> Tried | None:
    """The trial with which a contender arrived; None: it never did."""
    measured = (t for t in incumbents(trials) if t.candidate in turns[0])
    return next((t for t in measured if share_of(t.candidate, best, turns)["median"] >= share), None)


def times_as_long(study: Tried | None, script: Tried | None, script_s: float) -> float:
    """At least so many times as long as the study the script took, from their arrivals and how long the script was given.

    That is 0, and tells nothing, where the study did not arrive.
    """
    return 0.0 if study is None else (script_s if script is None else script.s) / study.s
