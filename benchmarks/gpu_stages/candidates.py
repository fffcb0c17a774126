"""The candidates that comparisons are made with, and trials of them in fresh processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autotune.candidate import Candidate, Scalar
from autotune.errors import EnvironmentProblem
from autotune.records import TrialRecord
from autotune.spec.model import LoadSpec
from autotune.store.repository import open_store
from autotune.study.plan import StudyPlan
from autotune.trial.isolation import TrialProcess
from autotune.trial.request import TrialRequest
from gpu_stages.bench import Bench

PREFERRED = ("tensorrt", "tensorrt-rtx", "torch-cuda-graph", "torch-cuda")
_TYPICAL: dict[str, Scalar] = {"batch_size": 64, "streams": 2, "cuda_graph": "on"}


def candidate_for(plan: StudyPlan, engines: tuple[str, ...] = PREFERRED) -> Candidate:
    """The fastest that the study has measured on the first of these engines that is here; else a typical one in fp16.

    Raises EnvironmentProblem where none of the engines is.
    """
    engine = next((e for e in engines if e in plan.backends), None)
    if engine is None:
        raise EnvironmentProblem(
            f"none of the engines {', '.join(engines)} can run here; the study has {', '.join(plan.backends)}.",
            remedy="autotune doctor",
        )
    measured = [r for r in _known(plan) if r.candidate.engine == engine and r.throughput_items_per_s is not None]
    if measured:
        return max(measured, key=lambda r: r.throughput_items_per_s.value if r.throughput_items_per_s else 0.0).candidate
    precision = "fp16" if (engine, "fp16") in plan.space.pairs else "fp32"
    return with_knobs(plan, plan.space.default_candidate(engine, precision), **_TYPICAL)


def chosen(bench: Bench, choose: Callable[[], Candidate]) -> Candidate:
    """The candidate with which an unfinished run of the stage began, else a new one: rounds of two are no comparison."""
    before = bench.before.get("candidate")
    return choose() if before is None else Candidate.from_json(before)


def _known(plan: StudyPlan) -> list[TrialRecord]:
    store = open_store(plan.spec.storage)
    row = store.study(plan.spec.study)
    return [] if row is None else store.trials(row.id, ("complete",), ("search",))


def with_knobs(plan: StudyPlan, candidate: Candidate, **knobs: Scalar | None) -> Candidate:
    """The candidate with these knobs, as far as its engine has them."""
    backend = plan.backends[candidate.engine]
    has = backend.build_knobs | backend.run_knobs
    return replace(candidate, **{k: v for k, v in knobs.items() if k in has})  # type: ignore[arg-type]  # names of knobs


def trial(plan: StudyPlan, process: TrialProcess, candidate: Candidate, load: LoadSpec) -> TrialRecord:
    """One trial of the candidate under this load, in a fresh process; with its telemetry."""
    return process.run(
        TrialRequest(
            spec=plan.spec.model_copy(update={"load": load}),
            number=0,
            role="bench",
            candidate=candidate,
            cache_root=plan.cache_root,
            log_path=plan.cache_root / "logs" / "benchmark.log",
        )
    )


def told(record: TrialRecord) -> dict[str, Any]:
    """What a comparison keeps of a trial."""
    document = record.as_json()
    kept = ("state", "reject", "throughput_items_per_s", "latency_ms", "peak_memory_mib", "pool_peak_mib", "flags", "versions")
    return {name: document[name] for name in kept}
