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


_LOG2 = "log2 "
"""Begins the name of a parameter that draws a knob's exponent: its choices are powers of two at even distances."""


def parameter_name(knob: str, domain: Domain) -> str:
    """What Optuna calls the parameter that draws the knob."""
    return knob if _exponents(knob, domain) is None else _LOG2 + knob


def distribution(knob: str, domain: Domain) -> BaseDistribution:
    """Optuna's form of a knob's domain.

    Choices that are evenly spaced numbers become a stepped range, and powers of two a range of their exponents, so that order
    counts.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    exponents = _exponents(knob, domain)
    if exponents is not None:
        return IntDistribution(exponents[0], exponents[-1], step=exponents[1] - exponents[0])
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


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Every parameter of the space, also those that only some engines have."""
    found = {PAIR: _pair_distribution(space)}
    return found | {parameter_name(k, d): distribution(k, d) for k, d in space.domains.items()}


def suggest(trial: BaseTrial, space: SearchSpace) -> Candidate:
    """The candidate that the trial's sampler proposes; knobs that the drawn engine lacks are not asked for."""
    engine, _, precision = str(_draw(trial, PAIR, _pair_distribution(space))).partition("/")
    values: dict[str, Any] = {"engine": engine, "precision": precision}
    for knob in SHARED_KNOBS:
        if space.has(engine, knob):
            domain = space.domains[knob]
            name = parameter_name(knob, domain)
            values[knob] = _knob_value(knob, name, _draw(trial, name, distribution(knob, domain)))
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
            domain = space.domains[knob]
            value, name = _nearest(knob, domain, getattr(candidate, knob)), parameter_name(knob, domain)
            params[name] = value if name == knob else int(value).bit_length() - 1
    return params


def pair_of(params: Mapping[str, Any]) -> tuple[str, str]:
    """The engine and the precision. Raises KeyError where the parameters have none."""
    engine, _, precision = str(params[PAIR]).partition("/")
    return engine, precision


def candidate_from_params(params: Mapping[str, Any]) -> Candidate:
    """The candidate behind Optuna's parameters; knobs that are missing read None."""
    engine, precision = pair_of(params)
    shared: dict[str, Scalar | None] = dict.fromkeys(SHARED_KNOBS)
    for name, value in params.items():
        if (knob := name.removeprefix(_LOG2)) in shared:
            shared[knob] = _knob_value(knob, name, value)
    return Candidate.from_json({"engine": engine, "precision": precision, **shared})


def nearest_in(candidate: Candidate, space: SearchSpace) -> Candidate | None:
    """The point of the space that is nearest to the candidate; None where the space has not its engine and precision."""
    params = params_from_candidate(candidate, space)
    return None if params is None else candidate_from_params(params)


def knob_value(params: Mapping[str, Any], knob: str) -> Scalar | None:
    """The knob's value behind Optuna's parameters; None where it is missing. Engine and precision: see PAIR."""
    for name in (knob, _LOG2 + knob):
        if name in params:
            return _knob_value(knob, name, params[name])
    return None


def knob_of(parameter: str) -> str:
    """The knob that Optuna's parameter draws; engine and precision have one in common, PAIR."""
    return parameter.removeprefix(_LOG2)


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


def _exponents(knob: str, domain: Domain) -> list[int] | None:
    """The exponents of at least three whole powers of two that lie at even distances but not the numbers themselves."""
    if not isinstance(domain, Choices) or KNOBS[knob].kind != "int" or _even_step(domain.values) is not None:
        return None
    numbers = [v for v in domain.values if isinstance(v, int) and v > 0 and v & (v - 1) == 0]
    exponents = sorted(n.bit_length() - 1 for n in numbers)
    even = len({b - a for a, b in itertools.pairwise(exponents)}) == 1
    return exponents if even and len(numbers) == len(domain.values) >= 3 else None


def _knob_value(knob: str, name: str, drawn: Any) -> Scalar:
    """The knob's value for what its parameter drew."""
    return _tidy(knob, 2 ** int(drawn) if name != knob else drawn)


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
