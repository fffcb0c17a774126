"""Which sampler proposes next. A strategy is one function here, or elsewhere, and one line in `registry.STRATEGIES`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from autotune.registry import STRATEGIES
from autotune.study.plan import StudyPlan

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler

GP_UNTIL_TRIALS = 150
"""Beyond about 150 finished trials a GP's proposal takes longer than it saves (3.5 s at 300, 15 s at 1,000; two cores)."""
STARTUP_TRIALS = 10


class Ahead(Protocol):
    """Of a strategy that knows which stages its trials share, as `CostAwareSampler` does."""

    def to_prepare(self, study: optuna.Study, stages: Collection[str]) -> dict[str, Any]:
        """The most promising candidate, were these stages done, of those that lack one; empty where there is none."""
        ...

    def note_preparing(self, params: Mapping[str, Any] | None, stages: Collection[str]) -> None:
        """These stages are being done for it; None: no more."""
        ...

    def note_prepared(self, params: Mapping[str, Any], stages: Collection[str]) -> None:
        """These stages were done for it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How a study searches; made once for it, so that a sampler may remember what it learnt.

    `sampler`: for the next proposal, by the number of finished trials and a fresh seed. `weighs_priors`: it was told the plan's
    priors and tries them when they promise most; otherwise all are tried first. `ahead`: where it can tell what it may soon
    want to have built.
    """

    sampler: Callable[[int, int], BaseSampler]
    weighs_priors: bool = False
    ahead: Ahead | None = None


def strategy_named(name: str, plan: StudyPlan) -> Strategy:
    """The strategy of that name for a study. Raises SpecError naming those there are."""
    made: Strategy = STRATEGIES.load(name)(plan)
    return made


def fresh_seed(base: int, worker_id: str, n_trials: int) -> int:
    """A seed that no earlier start of this study had: with the same one a restarted sampler would repeat its first draws."""
    text = f"{base}/{worker_id}/{n_trials}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


def gaussian_processes(plan: StudyPlan) -> Strategy:
    """GP below GP_UNTIL_TRIALS where torch and scipy are installed, else TPE; both multi-objective and with constraints."""
    otherwise = parzen_estimators(plan)

    def sampler(n_finished: int, seed: int) -> BaseSampler:
        import optuna

        if n_finished < GP_UNTIL_TRIALS and find_spec("torch") and find_spec("scipy"):
            # Only the pool, which OpenVINO lacks, is drawn at random; a warning for each trial would tell the user nothing.
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=STARTUP_TRIALS, deterministic_objective=False, warn_independent_sampling=False
            )
        return otherwise.sampler(n_finished, seed)

    return Strategy(sampler=sampler)


def parzen_estimators(plan: StudyPlan) -> Strategy:
    """Optuna's TPE as it comes."""

    def sampler(n_finished: int, seed: int) -> BaseSampler:
        import optuna

        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)

    return Strategy(sampler=sampler)


def genetic(plan: StudyPlan) -> Strategy:
    """Optuna's NSGA-II as it comes; its first 50 trials are drawn at random."""

    def sampler(n_finished: int, seed: int) -> BaseSampler:
        import optuna

        return optuna.samplers.NSGAIISampler(seed=seed)

    return Strategy(sampler=sampler)


def uniform(plan: StudyPlan) -> Strategy:
    """Every candidate is as likely as any other, whatever was measured."""

    def sampler(n_finished: int, seed: int) -> BaseSampler:
        import optuna

        return optuna.samplers.RandomSampler(seed=seed)

    return Strategy(sampler=sampler)
