"""Small studies of Optuna's with a known front, whose trials say what they would have cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna

from autotune.search.history import OUTCOME, Stage, outcome

optuna.logging.set_verbosity(optuna.logging.ERROR)

PRECISIONS = ("full", "half", "broken")
BUILD_S, LOAD_S = 5.0, 1.0
STAGES = (Stage(name="build", parameters=("precision",), decides=(0, "accuracy")),)
ACCURACY = {"full": 0.90, "half": 0.88, "broken": 0.10}


def speed(precision: str, batch: int, streams: int) -> float:
    """Best at batch 16 and three streams, twice as fast with half precision."""
    return (2.0 if precision != "full" else 1.0) * 100 / (1 + 0.1 * abs(batch - 4)) / (1 + 0.2 * abs(streams - 3))


BEST = {"full": 100.0, "half": 200.0}


class Deployment:
    """accuracy and speed by precision, log2 batch 0…7 and streams 1…6; `spent_s` counts what a real device would have taken."""

    def __init__(self) -> None:
        self.built: set[str] = set()
        self.spent_s = 0.0
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, trial: optuna.Trial) -> tuple[float, float]:
        precision = trial.suggest_categorical("precision", PRECISIONS)
        batch, streams = trial.suggest_int("log2_batch", 0, 7), trial.suggest_int("streams", 1, 6)
        self.asked.append((precision, batch, streams))
        seconds = {} if precision in self.built else {"build": BUILD_S}
        self.built.add(precision)
        ok = ACCURACY[precision] > 0.5
        seconds |= {"load": LOAD_S} if ok else {}
        self.spent_s += sum(seconds.values())
        trial.set_constraint("accuracy", (0.5 - ACCURACY[precision]) / 0.5)
        trial.set_user_attr(OUTCOME, outcome(seconds, unmeasured=() if ok else (1,)))
        return ACCURACY[precision], speed(precision, batch, streams) if ok else 0.0


def study(sampler: optuna.samplers.BaseSampler, n: int = 2) -> optuna.Study:
    return optuna.create_study(directions=["maximize"] * n, sampler=sampler)


def found(of: optuna.Study) -> dict[str, float]:
    """The best speed of each feasible precision."""
    best: dict[str, float] = {}
    for trial in of.trials:
        if trial.values and ACCURACY[trial.params["precision"]] > 0.5:
            name = trial.params["precision"]
            best[name] = max(best.get(name, 0.0), trial.values[1])
    return best


def run(sampler: optuna.samplers.BaseSampler, n: int, until: Callable[[optuna.Study], bool] = lambda s: False) -> Deployment:
    """The problem after n trials, or as soon as `until` holds."""
    problem, of = Deployment(), study(sampler)
    for _ in range(n):
        of.optimize(problem, n_trials=1)
        if until(of):
            break
    return problem
