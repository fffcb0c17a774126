"""run_apart: one candidate measured outside any study, as `bench`, the calibration check and the benchmarks do."""

from __future__ import annotations

import tempfile
from pathlib import Path

from autotune.candidate import Candidate
from autotune.records import TrialRecord
from autotune.spec.model import StudySpec
from autotune.study.plan import StudyPlan
from autotune.trial.isolation import TrialProcess
from autotune.trial.request import CalibrationSubset, TrialRequest


def run_apart(
    plan: StudyPlan,
    process: TrialProcess,
    candidate: Candidate,
    reference_scores: str | None = None,
    *,
    spec: StudySpec | None = None,
    with_load: bool = True,
    build_only: bool = False,
    calibration: CalibrationSubset | None = None,
) -> TrialRecord:
    """The record of one trial of no study, stored nowhere. The device must be locked.

    `reference_scores`: the cache key of the predictions to pair with; `spec` stands in for the plan's. For the rest see
    `TrialRequest`.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = TrialRequest(
            spec=spec or plan.spec,
            number=0,
            role="bench",
            candidate=candidate,
            cache_root=plan.cache_root,
            log_path=Path(folder) / "trial.log",
            reference_scores=reference_scores,
            with_load=with_load,
            build_only=build_only,
            calibration=calibration,
        )
        return process.run(request)
