"""What each knob contributed to each objective, and what is lost by leaving it at its default.

Shares are fANOVA (Hutter et al. 2014) as Optuna has it: the part of an objective's variance over the space that a knob alone
explains in a random forest fitted to the trials. The loss needs no model: it compares measured configurations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.candidate import KNOBS, Candidate, Scalar
from autotune.errors import EnvironmentProblem
from autotune.records import Estimate, TrialRecord
from autotune.spec.model import StudySpec
from autotune.study.objectives import Objective, objective_named, objectives_of
from autotune.study.scoring import best, is_feasible, preferred

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LEAST_TRIALS = 8
"""Fewer measured trials say nothing about seven knobs."""
_METHOD = "ratio of two estimates"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobImportance:
    """One knob. `shares`: by objective, from 0 to 1, together 1; None where too little was measured.

    `value`, `default`: the knob in the best configuration and at its default. `loss`: the share of the preferred objective that
    is lost when it stays at its default and all others are free: the best measured trial with the default against the best of
    all; so search further, and it can only shrink. `loss_alone`: when the best configuration changes in this knob only.
    Negative: nothing is lost. None: no such trial was measured. `trial`, `trial_alone`: those that were compared.
    """

    knob: str
    shares: Mapping[str, float | None]
    value: Scalar | None
    default: Scalar | None
    loss: Estimate | None = None
    trial: int | None = None
    loss_alone: Estimate | None = None
    trial_alone: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Importances:
    """The knobs that varied in a study, the most important for the preferred `objective` first. `best`: its best trial."""

    objective: str
    best: int
    knobs: tuple[KnobImportance, ...]

    def as_json(self) -> dict[str, Any]:
        """The document of `importances --json`."""
        return asdict(self)


def importances(records: Sequence[TrialRecord], reference: TrialRecord, spec: StudySpec) -> Importances | None:
    """What the finished trials say of each knob that varied; None where no trial keeps to the constraints.

    The defaults are the reference's: what the engine does for a user who sets nothing.
    """
    top = best(records, spec)
    if top is None:
        return None
    objective = objective_named(preferred(spec), spec)
    varied = [k for k in KNOBS if len({getattr(r.candidate, k) for r in [reference, *records]}) > 1]
    shares = {o.name: _shares(records, o, varied) for o in objectives_of(spec)}
    usable = [r for r in [reference, *records] if is_feasible(r, spec) and objective.read(r) is not None]
    found = [_knob(k, {name: s.get(k) for name, s in shares.items()}, top, reference, usable, objective) for k in varied]
    found.sort(key=lambda k: -(k.shares[objective.name] or 0.0))
    return Importances(objective=objective.name, best=top.number, knobs=tuple(found))


def reset(candidate: Candidate, knob: str, reference: Candidate) -> Candidate:
    """The candidate with this one knob at the reference's value."""
    return replace(candidate, **{knob: getattr(reference, knob)})


def with_measured(found: Importances, records: Mapping[str, TrialRecord], top: TrialRecord, spec: StudySpec) -> Importances:
    """The importances with `loss_alone` from trials that were measured for it, by knob; a rejected one leaves None."""
    objective = objective_named(found.objective, spec)
    knobs = [
        replace(k, loss_alone=_loss(top, records[k.knob], objective))
        if k.knob in records and is_feasible(records[k.knob], spec)
        else k
        for k in found.knobs
    ]
    return replace(found, knobs=tuple(knobs))


def _knob(
    knob: str,
    shares: Mapping[str, float | None],
    top: TrialRecord,
    reference: TrialRecord,
    usable: Sequence[TrialRecord],
    objective: Objective,
) -> KnobImportance:
    default = getattr(reference.candidate, knob)
    sign = 1 if objective.maximize else -1
    rivals = [r for r in usable if getattr(r.candidate, knob) == default]
    rival = max(rivals, key=lambda r: sign * float(objective.read(r) or 0.0), default=None)
    single = reset(top.candidate, knob, reference.candidate)
    alone = next((r for r in usable if r.candidate == single), None)
    return KnobImportance(
        knob=knob,
        shares=shares,
        value=getattr(top.candidate, knob),
        default=default,
        loss=None if rival is None else _loss(top, rival, objective),
        trial=None if rival is None or rival.role == "reference" else rival.number,
        loss_alone=None if alone is None else _loss(top, alone, objective),
        trial_alone=None if alone is None or alone.role == "reference" else alone.number,
    )


def _loss(top: TrialRecord, rival: TrialRecord, objective: Objective) -> Estimate | None:
    """1 − rival/top where more is better, rival/top − 1 where less is; half-widths added as relative ones."""
    a, b = objective.read(top), objective.read(rival)
    if a is None or b is None or a <= 0:
        return None
    ratio = b / a
    if top.candidate == rival.candidate and top.number == rival.number:
        return Estimate(value=0.0, low=0.0, high=0.0, n=1, method=_METHOD)
    widths = [e.half_width / abs(e.value) for e in (objective.estimate(top), objective.estimate(rival)) if e and e.value]
    half = ratio * math.hypot(*widths) if widths else 0.0
    value = 1 - ratio if objective.maximize else ratio - 1
    return Estimate(value=value, low=value - half, high=value + half, n=2, method=_METHOD)


def _shares(records: Sequence[TrialRecord], objective: Objective, knobs: Sequence[str]) -> dict[str, float]:
    """fANOVA over the trials in which the objective was measured; empty where those are too few or all alike."""
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    sign = 1 if objective.maximize else -1
    points = [(r, sign * value) for r in records if (value := objective.read(r)) is not None]
    if len(points) < LEAST_TRIALS or len({value for _, value in points}) < 2:
        return {}
    seen = {k: _distribution([getattr(r.candidate, k) for r, _ in points]) for k in knobs}
    distributions = {k: d for k, d in seen.items() if d is not None}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for record, value in points:
        params = {k: _as_param(getattr(record.candidate, k), d) for k, d in distributions.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    try:
        found: Mapping[str, float] = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except ImportError as exc:
        raise EnvironmentProblem("importances need scikit-learn.", remedy="pip install 'autotune[importances]'") from exc
    return {k: float(v) for k, v in found.items() if math.isfinite(v)}


def _distribution(values: Sequence[Scalar | None]) -> BaseDistribution | None:
    """The knob as Optuna sees it: a range of numbers where it always has one, else names; None if it never varied."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if len(set(values)) < 2:
        return None
    numbers = [v for v in values if isinstance(v, int | float)]
    if len(numbers) < len(values):
        return CategoricalDistribution(sorted({str(v) for v in values}))
    make: Callable[..., BaseDistribution] = IntDistribution if all(isinstance(v, int) for v in numbers) else FloatDistribution
    return make(min(numbers), max(numbers), log=min(numbers) >= 1 and max(numbers) >= 16 * min(numbers))


def _as_param(value: Scalar | None, distribution: BaseDistribution) -> Scalar:
    from optuna.distributions import CategoricalDistribution

    return str(value) if isinstance(distribution, CategoricalDistribution) else value  # type: ignore[return-value]  # a number
