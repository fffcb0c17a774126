"""Between Optuna's parameters and candidates: the only place outside `study` that knows Optuna."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotune.candidate import KNOBS, Candidate, Choices, Domain, Range, Scalar
from autotune.space.capability import SHARED_KNOBS, SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

PAIR = "engine/precision"
"""The parameter that draws engine and precision together, with values such as "openvino/int8"."""


def distribution(knob: str, domain: Domain) -> BaseDistribution:
    """Optuna's form of a knob's domain. Choices that are evenly spaced numbers become a stepped range, so that order counts."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    whole = KNOBS[knob].kind == "int"
    if isinstance(domain, Choices):
        step = _even_step(domain.values)
        if step is None:
            return CategoricalDistribution(domain.values)
        low, high = min(domain.values), max(domain.values)
        if whole:
            return IntDistribution(int(low), int(high), step=round(step))
        return FloatDistribution(float(low), float(high), step=step)
    if whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def suggest(trial: BaseTrial, space: SearchSpace) -> Candidate:
    """The candidate that the trial's sampler proposes; knobs that the drawn engine lacks are not asked for."""
    engine, _, precision = str(_draw(trial, PAIR, _pair_distribution(space))).partition("/")
    values: dict[str, Any] = {"engine": engine, "precision": precision}
    for knob in SHARED_KNOBS:
        if space.has(engine, knob):
            values[knob] = _tidy(knob, _draw(trial, knob, distribution(knob, space.domains[knob])))
        else:
            values[knob] = None
    return Candidate.from_json(values)


def params_from_candidate(candidate: Candidate, space: SearchSpace) -> dict[str, Scalar] | None:
    """Optuna's parameters for a candidate, moved to the nearest point of the space.

    None where its engine cannot run its precision in this space.
    """
    if (candidate.engine, candidate.precision) not in space.pairs:
        return None
    params: dict[str, Scalar] = {PAIR: f"{candidate.engine}/{candidate.precision}"}
    for knob in SHARED_KNOBS:
        if space.has(candidate.engine, knob):
            params[knob] = _nearest(knob, space.domains[knob], getattr(candidate, knob))
    return params


def candidate_from_params(params: Mapping[str, Any]) -> Candidate:
    """The candidate behind Optuna's parameters; knobs that are missing read None."""
    engine, _, precision = str(params[PAIR]).partition("/")
    shared = {knob: _tidy(knob, params[knob]) if knob in params else None for knob in SHARED_KNOBS}
    return Candidate.from_json({"engine": engine, "precision": precision, **shared})


def random_candidate(space: SearchSpace, rng: random.Random) -> Candidate:
    """A uniform draw from the space (log-uniform where the knob is)."""
    from optuna.samplers import RandomSampler
    from optuna.study import create_study

    study = create_study(sampler=RandomSampler(seed=rng.randrange(2**31)))
    return suggest(study.ask(), space)


def _draw(trial: BaseTrial, name: str, domain: BaseDistribution) -> Any:
    """The sampler's value for a parameter of any distribution."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, CategoricalDistribution):
        return trial.suggest_categorical(name, domain.choices)
    if isinstance(domain, IntDistribution):
        return trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
    if isinstance(domain, FloatDistribution):
        return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
    raise TypeError(f"no way to draw from {domain}")


def _pair_distribution(space: SearchSpace) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution

    return CategoricalDistribution([f"{engine}/{precision}" for engine, precision in space.pairs])


def _even_step(values: tuple[Scalar, ...]) -> float | None:
    """The step between sorted numbers when it is the same throughout, else None."""
    numbers = [v for v in values if isinstance(v, int | float)]
    if len(numbers) < 2 or len(numbers) != len(values):
        return None
    numbers.sort()
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    return round(steps[0], 12) if max(steps) - min(steps) < 1e-9 else None


def _nearest(knob: str, domain: Domain, value: Scalar | None) -> Scalar:
    """The value of the domain closest to `value`; its largest for None, which means "as much as there is"."""
    if isinstance(domain, Choices):
        if value in domain.values:
            return value
        numbers = [v for v in domain.values if isinstance(v, int | float)]
        if not numbers:
            return domain.values[0]
        return min(numbers, key=lambda v: abs(v - value)) if isinstance(value, int | float) else max(numbers)
    wanted = domain.high if not isinstance(value, int | float) else min(max(value, domain.low), domain.high)
    return _tidy(knob, _on_step(domain, wanted))


def _on_step(domain: Range, value: float) -> float:
    if not domain.step:
        return value
    n_steps = int((domain.high - domain.low) / domain.step + 1e-9)
    return domain.low + min(n_steps, round((value - domain.low) / domain.step)) * domain.step


def _tidy(knob: str, value: Any) -> Scalar:
    """Whole knobs as int; fractions without the dust of binary steps (0.30000000000000004)."""
    kind = KNOBS[knob].kind
    if kind == "int":
        return int(value)
    return round(float(value), 9) if kind == "float" else str(value)
