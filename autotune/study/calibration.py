"""How much of an int8 variant's accuracy is the luck of its calibration samples: the variant made again from random subsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autotune.bench.spread import draws_mean_estimate, next_draw_estimate, standard_deviation_estimate
from autotune.candidate import Candidate
from autotune.errors import EnvironmentProblem, SpecError
from autotune.records import Estimate, Rejection, TrialRecord
from autotune.spec.model import ConstraintsSpec
from autotune.study.apart import run_apart
from autotune.study.plan import StudyPlan
from autotune.trial.isolation import TrialProcess
from autotune.trial.request import CalibrationSubset
from autotune.trial.stages import bound_split
from autotune.variants.calibration import MAX_SAMPLES
from autotune.variants.precision import PRECISIONS, recipe_for


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedAccuracy:
    """The accuracy that one choice of calibration samples gives. `seed`: of the draw, None for the split itself."""

    seed: int | None
    size: int
    accuracy: Estimate | None
    accuracy_drop: Estimate | None
    reject: Rejection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSpread:
    """Accuracies of one candidate under other calibration samples, all on the same validation samples.

    `used`: the samples that the study calibrates on; `drawn`: random subsets of its split. `spread`: the standard deviation of
    accuracy from subset to subset; `another_subset`: the accuracy that one more would give; `mean_against_used`: the subsets'
    mean less the accuracy of the samples used. These three are None where fewer than two subsets gave a result.
    """

    candidate: Candidate
    metric: str
    n_split: int
    used: CalibratedAccuracy
    drawn: tuple[CalibratedAccuracy, ...]
    spread: Estimate | None
    another_subset: Estimate | None
    mean_against_used: Estimate | None

    @property
    def used_is_typical(self) -> bool | None:
        """True when the samples used give an accuracy that a random subset may give as well; None where that is not known."""
        if self.another_subset is None or self.used.accuracy is None:
            return None
        return self.another_subset.low <= self.used.accuracy.value <= self.another_subset.high

    def as_json(self) -> dict[str, Any]:
        """The document of `calibration --json`, without the study and the trial."""
        return {**asdict(self), "candidate": self.candidate.as_json(), "used_is_typical": self.used_is_typical}


def subset_size(n_split: int, asked: int | None) -> int:
    """How many samples each subset has. Raises SpecError on a size that gives no subsets.

    Half of the split unless asked otherwise, and never more than a quantizer looks at: the accuracy of random halves spreads
    around that of the whole about as that of whole splits would around the truth (half-sampling, McCarthy 1969).
    """
    most = min(MAX_SAMPLES, n_split - 1)
    size = min(most, n_split // 2) if asked is None else asked
    if not 1 <= size <= most:
        raise SpecError(f"--size {size}: allowed: 1 to {most}, of the {n_split} calibration samples")
    return size


def calibration_spread(
    plan: StudyPlan,
    process: TrialProcess,
    candidate: Candidate,
    n_subsets: int,
    size: int | None,
    report: Callable[[str], None] = lambda line: None,
) -> CalibrationSpread:
    """The candidate made and measured on its engine with the study's calibration samples and with random subsets of them.

    Each in a process of its own, without load; the caller holds the device. What was made or measured before comes from the
    cache. Raises SpecError where nothing is calibrated, EnvironmentProblem where the reference cannot be measured.
    """
    split = plan.spec.data.calibration
    if not recipe_for(candidate.precision).calibrated or split is None:
        known = ", ".join(name for name, recipe in PRECISIONS.items() if recipe.calibrated)
        raise SpecError(f"precision {candidate.precision} is not calibrated; calibrated precisions: {known}")
    n_split = len(bound_split(plan.spec, split, plan.cache))
    size = subset_size(n_split, size)
    reference = _measured(plan, process, plan.reference, None, None)
    if reference.state != "complete":
        raise EnvironmentProblem(
            f"the reference could not be measured: {reference.reject and reference.reject.message}.", remedy="autotune doctor"
        )
    found = []
    for subset in (None, *(CalibrationSubset(size=size, seed=k) for k in range(1, n_subsets + 1))):
        report("calibrated as the study does" if subset is None else f"subset {subset.seed} of {n_subsets}, {size} samples")
        record = _measured(plan, process, candidate, reference.scores_key, subset)
        found.append(
            CalibratedAccuracy(
                seed=None if subset is None else subset.seed,
                size=min(MAX_SAMPLES, n_split) if subset is None else size,
                accuracy=record.accuracy,
                accuracy_drop=record.accuracy_drop,
                reject=record.reject,
            )
        )
    return summarized(candidate, plan.spec.data.metric, n_split, found[0], tuple(found[1:]))


def summarized(
    candidate: Candidate, metric: str, n_split: int, used: CalibratedAccuracy, drawn: tuple[CalibratedAccuracy, ...]
) -> CalibrationSpread:
    """The accuracies with their spread."""
    values = np.array([d.accuracy.value for d in drawn if d.accuracy is not None])
    known = len(values) >= 2
    return CalibrationSpread(
        candidate=candidate,
        metric=metric,
        n_split=n_split,
        used=used,
        drawn=drawn,
        spread=standard_deviation_estimate(values) if known else None,
        another_subset=next_draw_estimate(values) if known else None,
        mean_against_used=draws_mean_estimate(values - used.accuracy.value) if known and used.accuracy else None,
    )


def _measured(
    plan: StudyPlan, process: TrialProcess, candidate: Candidate, scores: str | None, subset: CalibrationSubset | None
) -> TrialRecord:
    """The record of the candidate's accuracy on all samples, whatever the study allows: there is nothing to reject here."""
    unconstrained = plan.spec.model_copy(update={"constraints": ConstraintsSpec()})
    return run_apart(plan, process, candidate, scores, spec=unconstrained, with_load=False, calibration=subset)
