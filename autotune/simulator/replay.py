"""replay: one search of one strategy on a table, from its reference to the end of its time, on the virtual clock."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from autotune.candidate import Candidate
from autotune.errors import SpecError
from autotune.records import TrialRecord
from autotune.simulator.table import SweepTable
from autotune.simulator.truth import Truth
from autotune.simulator.virtual_device import VirtualDevice
from autotune.space.sampling import nearest_in
from autotune.study.giving_up import rivals
from autotune.study.plan import StudyPlan
from autotune.study.proposer import Proposal, Proposer
from autotune.study.under_way import reference_scores
from autotune.trial.request import Rival, TrialRequest

BOOKKEEPING_S = 0.1
"""What a study on SQLite spends on a trial beside stages and sampler: ask 26 ms, constraints 16, tell 11, our own rows."""
Overhead = Callable[[str, int, float], float]
"""Seconds that a proposal takes: by the strategy's name, the number of finished trials, and what it took here and now."""

_GP_S = ((0, 0.0), (9, 0.0), (10, 1.65), (100, 1.97), (150, 2.3))
_TPE_S = ((0, 0.0), (9, 0.0), (10, 0.024), (100, 0.055), (1000, 0.351), (10000, 2.349))


def modelled_overhead(strategy: str, n_finished: int, measured_s: float) -> float:
    """Seconds per proposal as they were measured once for Optuna's samplers on two cores; others take what they take now.

    Six parameters and three constraints, in-memory storage; interpolated between the numbers of trials that were timed.
    """
    known = {"gp": _GP_S if n_finished < 150 else _TPE_S, "tpe": _TPE_S, "nsga2": ((0, 5e-4),), "random": ((0, 3e-4),)}
    steps = known.get(strategy)
    return BOOKKEEPING_S + (measured_s if steps is None else _interpolated(steps, n_finished))


def measured_overhead(strategy: str, n_finished: int, measured_s: float) -> float:
    """What the proposal took on this machine."""
    return BOOKKEEPING_S + measured_s


def constant_overhead(seconds: float) -> Overhead:
    """The same for every proposal of every strategy, so that a replay gives the same numbers everywhere."""
    return partial(_constant, seconds)


def _constant(seconds: float, strategy: str, n_finished: int, measured_s: float) -> float:
    # No closure: a process that replays beside others is sent it.
    return seconds


def _interpolated(steps: tuple[tuple[int, float], ...], n: int) -> float:
    for (n0, s0), (n1, s1) in itertools.pairwise(steps):
        if n <= n1:
            return s0 + (s1 - s0) * (n - n0) / (n1 - n0)
    return steps[-1][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A strategy and what it is given.

    `caches`: artifacts are kept, no candidate is measured twice (the reference neither, which is told as the first trial), and
    slow ones are given up. Without them every trial makes everything anew, as a plain loop around Optuna does. `priors`: they
    are tried first, or weighed where the strategy does that; without them no strategy knows of any.
    """

    strategy: str
    caches: bool = True
    priors: bool = True

    @property
    def label(self) -> str:
        """What it is called in tables and pictures."""
        extras = [name for name, on in (("caches", self.caches), ("priors", self.priors)) if on]
        return f"{self.strategy} + {' + '.join(extras)}" if extras else f"{self.strategy} alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a search found over virtual time. The curves have an entry per finished trial, at the end of it.

    `hypervolume`: noise-free share of the exhaustive sweep's. `best`: truth of the best feasible one by throughput, items/s; 0
    before there is any. `spent_s`: virtual seconds by what they went into.
    """

    contestant: str
    seed: int
    times_s: tuple[float, ...]
    hypervolume: tuple[float, ...]
    best: tuple[float, ...]
    n_repeated: int
    spent_s: dict[str, float] = field(default_factory=dict)
    ended: str = ""

    def time_to(self, share: float) -> float:
        """Virtual seconds until the hypervolume was at least so much; infinite where it never was."""
        return next((t for t, h in zip(self.times_s, self.hypervolume, strict=True) if h >= share), math.inf)

    def at(self, seconds: float) -> float:
        """The hypervolume after so many virtual seconds."""
        return max((h for t, h in zip(self.times_s, self.hypervolume, strict=True) if t <= seconds), default=0.0)

    def best_at(self, seconds: float) -> float:
        """The best feasible throughput after so many virtual seconds, items/s."""
        return max((b for t, b in zip(self.times_s, self.best, strict=True) if t <= seconds), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a replay ends: virtual seconds, finished trials, or a hypervolume beyond which nobody looks."""

    seconds: float = math.inf
    trials: int = 100_000
    enough: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is the same for all contestants. `noise_sd` replaces the recorded spread between processes, of log throughput.

    `sections` replace those of the table's study, constraints for one. `first`: candidates that come before all others, as
    those of a warm start do.
    """

    limits: Limits
    overhead: Overhead = modelled_overhead
    noise_sd: float | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)
    first: tuple[Candidate, ...] = ()


def replay(table: SweepTable, contestant: Contestant, setting: Setting, *, seed: int) -> Replay:
    """A search of the table's grid.

    The search is a study's own: its Proposer and strategy, its priors, what it makes of rejections and of candidates that
    come twice, and its giving up. Canary and finalists, which cost every strategy alike, are left out. Raises SpecError for a
    table that is not complete, and where none of its points is feasible.
    """
    if table.missing:
        raise SpecError(
            f"the table {table.study!r} lacks {table.missing} points of its grid, so what a search finds there is not known; "
            "finish it: autotune sweep STUDY.yaml --out TABLE"
        )
    plan = table.plan(seed=seed, **setting.sections)
    search = _Search(table, plan if contestant.priors else replace(plan, priors=(), certain=()), contestant, setting)
    while search.ended(setting.limits) == "":
        search.one_trial()
    return search.result(seed, search.ended(setting.limits))


class _Search:
    """`study.loop` in small: ask → run → tell, without database, locks and other workers."""

    def __init__(self, table: SweepTable, plan: StudyPlan, contestant: Contestant, setting: Setting) -> None:
        import optuna

        self._contestant, self._plan, self._overhead = contestant, plan, setting.overhead
        self._truth = Truth(table, plan.spec)
        self._device = VirtualDevice(table, seed=plan.spec.seed, caches=contestant.caches, noise_sd=setting.noise_sd)
        storage = optuna.storages.InMemoryStorage()
        self._proposer = Proposer(plan, storage, "replay", contestant.strategy)
        self._reference = self._device.measure_reference()
        self._proposer.note_reference(self._reference)
        if contestant.caches and self._is_in_space(self._reference.candidate):
            self._proposer.enqueue_first([self._reference.candidate])
        self._proposer.enqueue_first(setting.first)
        if contestant.priors:
            self._proposer.enqueue_first(self._proposer.first_priors)
        self._records: list[TrialRecord] = []
        self._seen: dict[Any, TrialRecord] = {}
        self._n_points, self._n_repeated, self._exhausted = len(table.points), 0, False
        self._times: list[float] = []
        self._hypervolume: list[float] = []
        self._best: list[float] = []

    def ended(self, limits: Limits) -> str:
        """Why the search is over; empty while it goes on."""
        if self._hypervolume and self._hypervolume[-1] >= limits.enough:
            return "enough"
        if self._exhausted or (self._contestant.caches and len(self._seen) >= self._n_points):
            return "exhausted"
        if len(self._records) >= limits.trials:
            return "trials"
        return "hours" if self._device.now_s >= limits.seconds else ""

    def one_trial(self) -> None:
        """One more trial, or a candidate that came twice answered from memory and a new one asked for."""
        proposal = self._ask()
        twin = self._seen.get(proposal.candidate)
        if twin is not None and self._contestant.caches:
            self._n_repeated += 1
            self._proposer.tell(proposal.number, twin, self._records, {"duplicate_of": twin.number})
            self._exhausted = not self._proposer.enqueue_unseen(frozenset(self._seen))
            return
        record = self._measured(proposal)
        self._records.append(record)
        self._seen[proposal.candidate] = record
        self._proposer.tell(record.number, record, [self._reference, *self._records])
        self._note(record)

    def _is_in_space(self, candidate: Candidate) -> bool:
        return nearest_in(candidate, self._plan.space) == candidate

    def _measured(self, proposal: Proposal) -> TrialRecord:
        """The candidate's record; with caches, as in a study, the reference is not measured a second time."""
        if not self._contestant.caches:
            return self._device.run(self._request(proposal, ()))
        if proposal.candidate == self._reference.candidate:
            return replace(self._reference, number=proposal.number, role="search")
        return self._device.run(self._request(proposal, rivals(self._records, self._plan.spec, 1)))

    def _ask(self) -> Proposal:
        began = time.perf_counter()
        proposal = self._proposer.ask(len(self._records))
        seconds = self._overhead(self._contestant.strategy, len(self._records), time.perf_counter() - began)
        self._device.advance("search", seconds)
        return proposal

    def _request(self, proposal: Proposal, faster: tuple[Rival, ...]) -> TrialRequest:
        return TrialRequest(
            spec=self._plan.spec,
            number=proposal.number,
            role="search",
            candidate=proposal.candidate,
            cache_root=self._plan.cache_root,
            log_path=Path("replay.log"),
            reference_scores=reference_scores(self._reference),
            rivals=faster,
        )

    def _note(self, record: TrialRecord) -> None:
        """The curves have one more entry. What is found is what a trial ended with, also one that was given up."""
        self._times.append(self._device.now_s)
        grown = record.candidate in self._truth.values
        before = self._hypervolume[-1] if self._hypervolume else 0.0
        self._hypervolume.append(self._truth.share(self._seen) if grown else before)
        rate = self._truth.rate.get(record.candidate, 0.0)
        self._best.append(max(rate, self._best[-1] if self._best else 0.0))

    def result(self, seed: int, ended: str) -> Replay:
        """The curves."""
        return Replay(
            contestant=self._contestant.label,
            seed=seed,
            times_s=tuple(self._times),
            hypervolume=tuple(self._hypervolume),
            best=tuple(self._best),
            n_repeated=self._n_repeated,
            spent_s=dict(self._device.spent_s),
            ended=ended,
        )
