"""What `bench --build-only` does: the ordinary way of a candidate up to its engine, also for GPUs that are not there."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.candidate import Choices
from autotune.cli.running import candidate_from_settings, checked_plan, parsed_settings
from autotune.devices.build_target import BuildTarget, parse_target, set_build_target
from autotune.devices.gpu import visible_gpus
from autotune.engines.build import load_backend
from autotune.engines.protocol import Capabilities
from autotune.errors import EnvironmentProblem
from autotune.records import TrialRecord
from autotune.registry import ENGINES
from autotune.spec.model import StudySpec
from autotune.study.apart import run_apart
from autotune.study.lock import device_lock
from autotune.trial.isolation import TrialProcess


def build_candidate(study_file: str, settings: Sequence[str], capabilities: Sequence[str]) -> TrialRecord:
    """The record of one candidate whose variant and engine were made and not run: rejected, with the reason built_only.

    `capabilities`: compute capabilities that the engine is for, such as "8.9"; none: the GPU that is there or, where there is
    none, what the engine's builder builds for by itself. What cannot be built is rejected with that reason. Raises SpecError.
    """
    values = parsed_settings(settings)
    engine = values.get("engine")
    if capabilities:
        set_build_target(parse_target(capabilities))
    elif engine in ENGINES.names() and _lacks_a_gpu(load_backend(str(engine)).capabilities()):
        set_build_target(BuildTarget())

    def changed(spec: StudySpec) -> StudySpec:
        engines = spec.engines if engine is None else (engine,)
        wanted = Choices(values=tuple(dict.fromkeys(("fp32", values.get("precision", "fp32")))))
        return spec.model_copy(update={"engines": engines, "space": {**spec.space, "precision": wanted}})

    plan = checked_plan(study_file, changed)
    candidate = candidate_from_settings(plan, settings)
    with TrialProcess(plan.preload) as process, device_lock(plan.lock_name):
        return run_apart(plan, process, candidate, None, build_only=True)


def _lacks_a_gpu(able: Capabilities) -> bool:
    try:
        return able.device == "cuda" and not able.available and not visible_gpus()
    except EnvironmentProblem:
        return True
