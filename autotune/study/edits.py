"""A study whose space was edited since it began: what Optuna cannot follow is an error, what waits is moved into the space."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from autotune.errors import SpecError, SpecProblem
from autotune.space.capability import SearchSpace
from autotune.space.sampling import PAIR, candidate_from_params, distributions_of, knob_of, params_from_candidate
from autotune.spec.model import StudySpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

_PAIRS = "autotune:pairs"


def check_edits(study: Study, space: SearchSpace, spec: StudySpec) -> None:
    """Raises SpecError where Optuna's study has a parameter with other choices than the space: Optuna cannot change these."""
    pairs = [f"{engine}/{precision}" for engine, precision in space.pairs]
    before = study.user_attrs.get(_PAIRS)
    if before is None:
        study.set_user_attr(_PAIRS, pairs)
    elif before != pairs:
        raise _error(spec, "precision", f"engines and precisions {', '.join(pairs)}", ", ".join(before))
    begun = _begun_with(study)
    for name, new in distributions_of(space).items():
        if name in begun and not _is_compatible(begun[name], new):
            raise _error(spec, knob_of(name), _as_text(new), _as_text(begun[name]))


def move_waiting(study: Study, space: SearchSpace) -> None:
    """Trials that wait to be asked for are moved to the nearest point of the space; of some only some knobs are set."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        fixed = trial.system_attrs.get("fixed_params", {})
        params = params_from_candidate(candidate_from_params(fixed), space) if PAIR in fixed else None
        knobs = {knob_of(name) for name in fixed}
        moved = {name: value for name, value in (params or {}).items() if knob_of(name) in knobs}
        if moved and moved != fixed:
            with suppress(UpdateFinishedTrialError):  # another worker asked for it meanwhile, and it is over already
                study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", moved)


def _begun_with(study: Study) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        found |= trial.distributions
    return found


def _is_compatible(old: BaseDistribution, new: BaseDistribution) -> bool:
    from optuna.distributions import check_distribution_compatibility

    try:
        check_distribution_compatibility(old, new)
    except ValueError:
        return False
    return True


def _as_text(domain: BaseDistribution) -> str:
    from optuna.distributions import CategoricalDistribution

    return ", ".join(map(str, domain.choices)) if isinstance(domain, CategoricalDistribution) else str(domain)


def _error(spec: StudySpec, knob: str, found: str, before: str) -> SpecError:
    allowed = f"those with which the study {spec.study!r} began, {before}; or another name in `study:`"
    return SpecError([SpecProblem(key=f"space.{knob}", found=found, allowed=allowed, file=str(spec.file or ""))])
