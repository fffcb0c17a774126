"""The cost-aware strategy: the stages of a trial, and what each depends on, told to the sampler."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from autotune.candidate import KNOBS, Candidate
from autotune.search.encoding import Params
from autotune.search.history import UNSEEN, Stage
from autotune.space.capability import SearchSpace
from autotune.space.sampling import PAIR, distributions_of, knob_of, pair_of, parameter_name, params_from_candidate
from autotune.study.expectations import expectations_of
from autotune.study.plan import StudyPlan
from autotune.study.strategy import Strategy
from autotune.variants.precision import PRECISIONS

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

OVERHEAD_S = 0.2
"""What a trial takes beside its stages: a fork, the database, and the proposal itself."""
_PRUNING = 20.0
"""Before any pruning with recovery was seen, it is taken to cost so many average trials, as docs/search-settings.md says."""


def cost_aware(plan: StudyPlan) -> Strategy:
    """One sampler for the life of the study, which learns on and draws from a fresh seed each time.

    Priors are favoured, but for those in a precision that seldom leads on this GPU: they must promise as much as any other.
    """
    from autotune.search.sampler import CostAwareSampler

    space = plan.space
    sampler = CostAwareSampler(
        search_space=distributions_of(space),
        stages=stages_of(plan),
        factors={PAIR: factors_of},
        absent=lambda params: _absent(params, space),
        favoured=[p for c in favoured_priors(plan) if (p := params_from_candidate(c, space)) is not None],
        expected=expectations_of(plan),
        overhead_s=OVERHEAD_S,
        n_startup_trials=1,
    )

    def reseeded(n_finished: int, seed: int) -> BaseSampler:
        sampler.reseed(seed)
        return sampler

    return Strategy(sampler=reseeded, weighs_priors=True, ahead=sampler)


def factors_of(pair: str) -> tuple[Hashable, ...]:
    """Engine, precision, and whether the precision only casts; None where nobody has a recipe for it.

    Casts are made in no time and keep the accuracy, as the model itself does; what quantization takes and loses says nothing
    of them.
    """
    engine, precision = pair_of({PAIR: pair})
    return engine, precision, PRECISIONS[precision].only_casts if precision in PRECISIONS else None


def favoured_priors(plan: StudyPlan) -> tuple[Candidate, ...]:
    """The priors whose precision this device has the hardware for."""
    return tuple(c for c in plan.priors if c.precision not in plan.doubts)


def stages_of(plan: StudyPlan) -> tuple[Stage, ...]:
    """The stages of a trial whose results are kept: pruned model, variant, engine, and accuracy with what it decides."""
    space = plan.space
    names = {k: parameter_name(k, d) for k, d in space.domains.items()}
    variant = (PAIR, *(names[k] for k in names if KNOBS[k].stage == "variant"))
    built = {k for knobs in space.build_knobs_of.values() for k in knobs}
    decides: list[int | str] = ["accuracy_drop", "accuracy"]
    decides += [i for i, name in enumerate(plan.spec.objectives) if name == "accuracy"]

    def variant_key(params: Params) -> Hashable:
        return (space.graph_of(*pair_of(params)), *(params.get(n) for n in variant[1:]))

    def engine_key(params: Params) -> Hashable:
        engine, _ = pair_of(params)
        knobs = sorted(space.build_knobs_of.get(engine, ()))
        return tuple(params.get(n) for n in (*variant, *(names[k] for k in knobs if k in names)))

    return (
        Stage(
            name="prune",
            parameters=("pruning_ratio",),
            key=lambda params: params.get("pruning_ratio") or None,
            unseen=_PRUNING if plan.spec.recovery.epochs else UNSEEN,
        ),
        Stage(name="variant", parameters=variant, key=variant_key),
        Stage(name="engine", parameters=(*variant, *(names[k] for k in names if k in built)), key=engine_key),
        # An engine rounds a little differently; what a precision costs in accuracy is much the same on all.
        Stage(name="accuracy", parameters=variant, decides=tuple(decides), alike=frozenset({(PAIR, 0)})),
    )


def _absent(params: Params, space: SearchSpace) -> frozenset[str]:
    """The parameters of knobs that the candidate's engine lacks."""
    engine = pair_of(params)[0] if PAIR in params else ""
    return frozenset(name for name in params if name != PAIR and not space.has(engine, knob_of(name)))
