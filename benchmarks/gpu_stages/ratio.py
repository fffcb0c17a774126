"""Stage ratio: autotune's session against the hand-written loop, on the same engine file, in one process, interleaved.

End to end comes first, in all its rounds: what can go wrong with captures of the computing alone costs nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from spread import spread

from autotune.bench.load import run_closed_loop, summarize
from autotune.candidate import Candidate
from autotune.engines.build import load_backend
from autotune.engines.protocol import Engine, Inputs, Session
from autotune.engines.tensorrt_lane import Lane as TensorRtLane
from autotune.errors import CandidateRejected, Unsupported
from autotune.records import Estimate
from autotune.study.lock import device_lock
from autotune.trial.materialize import materialize
from autotune.trial.stages import bound_split, load_batches
from gpu_stages.bench import MLPERF_H200_ITEMS_PER_S, Bench
from gpu_stages.candidates import candidate_for, chosen, with_knobs
from gpu_stages.hand_written import Lane, rate, tensorrt_lanes, torch_lanes
from gpu_stages.models import resnet50_plan
from gpu_stages.rounds import in_rounds

AIM = 0.98
ENGINES = ("tensorrt", "tensorrt-rtx", "torch-cuda-graph")
_TORCH_DEVICE = "cuda:0"


def run(bench: Bench) -> dict[str, Any]:
    """Throughput end to end and computing only, as a ratio to a hand-written CUDA-graph loop on the same engine."""
    plan = resnet50_plan(bench)
    free = {"cuda_graph": "on", "worker_threads": None, "memory_pool_mib": None}
    candidate = chosen(bench, lambda: with_knobs(plan, candidate_for(plan, ENGINES), **free))
    engine = materialize(plan.spec, candidate, plan.cache).engine
    batches = load_batches(bound_split(plan.spec, plan.spec.data.validation, plan.cache), candidate.batch_size)
    backend = load_backend(candidate.engine)
    with device_lock(plan.lock_name), backend.open(engine, candidate) as session:
        theirs = _hand_written(candidate, engine, batches, session.slots)
        head = {"candidate": candidate.as_json(), "aim": AIM, "mlperf_h200_items_per_s": MLPERF_H200_ITEMS_PER_S}
        return head | compared(bench, head, session, theirs, batches, candidate.batch_size)


def _hand_written(candidate: Candidate, engine: Engine, batches: Sequence[Inputs], n_lanes: int) -> list[Lane]:
    if candidate.engine.startswith("tensorrt"):
        from autotune.engines.tensorrt_backend import PLAN, TensorRt, TensorRtRtx

        library = (TensorRtRtx if candidate.engine == "tensorrt-rtx" else TensorRt).library
        module = library.module_name() or library.modules[0]
        return tensorrt_lanes(module, (engine.folder / PLAN).read_bytes(), candidate.batch_size, n_lanes)
    from autotune.engines.torch_computation import loaded_function

    compute = loaded_function(engine.folder, candidate.precision, _TORCH_DEVICE)
    return torch_lanes(compute, batches[0], n_lanes, device=_TORCH_DEVICE)


def compared(
    bench: Bench,
    head: Mapping[str, Any],
    session: Session,
    theirs: Sequence[Lane],
    batches: Sequence[Inputs],
    batch_size: int,
) -> dict[str, Any]:
    """Each side in random order, round by round; the ratios of the same round."""
    load, key = bench.load, "items_per_s"

    def by_hand(lanes: Sequence[Lane], *, computing_only: bool) -> Callable[[], Estimate]:
        return lambda: rate(lanes, batches, batch_size, computing_only=computing_only, seconds=load.max_s)

    sides: dict[str, Callable[[], Estimate]] = {
        "autotune": lambda: summarize(run_closed_loop(session, batches, batch_size, load), load).throughput_items_per_s,
        "hand_written": by_hand(theirs, computing_only=False),
    }
    found, whole = in_rounds(bench, head, key, list(sides), lambda name: asdict(sides[name]()))
    missing = ""
    if whole:
        alone = {"hand_written_computing_only": by_hand(theirs, computing_only=True)}
        try:
            alone["autotune_computing_only"] = by_hand(compute_lanes(session), computing_only=True)
        except (CandidateRejected, RuntimeError) as exc:
            missing = f"autotune's session cannot compute alone: {exc}"
        later = replace(bench, before={**bench.before, key: {**bench.before.get(key, {}), **found}})
        more, whole = in_rounds(later, head, key, list(alone), lambda name: asdict(alone[name]()))
        found |= more
    end_to_end = _ratio(found, "autotune", "hand_written")
    return {
        key: found,
        "end_to_end": end_to_end,
        "end_to_end_reaches_aim": end_to_end is not None and end_to_end["median"] >= AIM,
        "computing_only": _ratio(found, "autotune_computing_only", "hand_written_computing_only"),
        "copies_cost": _ratio(found, "hand_written", "hand_written_computing_only"),
        **({"failed": 1, "failures": {"computing_only": missing}} if missing else {}),
        "unfinished": not whole,
    }


def compute_lanes(session: Session) -> list[Lane]:
    """The streams of autotune's session, each computing without copies: the session has no way to, nor should it.

    Raises CandidateRejected or RuntimeError where the engine has no such form, or runtime or engine cannot be captured.
    """
    from autotune.engines.tensorrt_session import TensorRtSession
    from autotune.engines.torch_cuda_session import TorchCudaSession

    if isinstance(session, TensorRtSession):
        return [_tensorrt_lane(inner) for inner in session._lanes]
    if isinstance(session, TorchCudaSession):
        return [_torch_lane(inner) for inner in session._lanes]
    raise Unsupported(f"nothing is known of a {type(session).__name__}'s streams", stage="open")


def _tensorrt_lane(inner: TensorRtLane) -> Lane:
    """The context's execution, captured by the session's runtime unless TensorRT for RTX captures it by itself."""

    def enqueue() -> None:
        if inner.context is None or not inner.context.execute_async_v3(inner.stream.handle):
            raise RuntimeError("TensorRT did not enqueue the execution")

    launch = enqueue
    if inner.shared.graph_mode != "by context":
        with inner.shared.runtime.capture(inner.stream) as capture:
            enqueue()
        graph = capture.graph

        def launch() -> None:
            graph.launch(inner.stream)

    return Lane(staging={}, begin=lambda: None, launch=launch, launch_compute=launch, wait=inner.stream.synchronize)


def _torch_lane(inner: Any) -> Lane:
    """The graph that the session captured, which is the forward pass without copies."""
    import torch

    def launch() -> None:
        with torch.inference_mode(), torch.cuda.stream(inner.stream):
            inner.run()

    return Lane(staging={}, begin=lambda: None, launch=launch, launch_compute=launch, wait=inner.stream.synchronize)


def _ratio(found: Mapping[str, Sequence[Mapping[str, float]]], ours: str, theirs: str) -> dict[str, float] | None:
    pairs = [a["value"] / b["value"] for a, b in zip(found.get(ours, ()), found.get(theirs, ()), strict=False)]
    return spread(pairs) if pairs else None
