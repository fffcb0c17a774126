"""Stage ratio: autotune's session against the hand-written loop, on the same engine file, in one process, interleaved."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autotune.bench.load import run_closed_loop, summarize
from autotune.candidate import Candidate
from autotune.engines.build import load_backend
from autotune.engines.protocol import Engine, Inputs, Session
from autotune.errors import CandidateRejected
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

    return torch_lanes(loaded_function(engine.folder, candidate.precision, "cuda:0"), batches[0], n_lanes)


def compared(
    bench: Bench,
    head: Mapping[str, Any],
    session: Session,
    theirs: Sequence[Lane],
    batches: Sequence[Inputs],
    batch_size: int,
) -> dict[str, Any]:
    """Each side in random order, round by round; the ratios of the same round."""
    sides: dict[str, Callable[[], Estimate]] = {
        "autotune": lambda: (
            summarize(run_closed_loop(session, batches, batch_size, bench.load), bench.load).throughput_items_per_s
        ),
        "hand_written": lambda: rate(theirs, batches, batch_size, computing_only=False, seconds=bench.load.max_s),
        "hand_written_computing_only": lambda: rate(theirs, batches, batch_size, computing_only=True, seconds=bench.load.max_s),
    }
    if (ours := compute_lanes(session)) is not None:
        sides["autotune_computing_only"] = lambda: rate(
            ours, batches, batch_size, computing_only=True, seconds=bench.load.max_s
        )
    found, whole = in_rounds(bench, head, "items_per_s", list(sides), lambda name: asdict(sides[name]()))
    end_to_end = _ratio(found, "autotune", "hand_written")
    return {
        "items_per_s": found,
        "end_to_end": end_to_end,
        "end_to_end_reaches_aim": end_to_end is not None and end_to_end["median"] >= AIM,
        "computing_only": _ratio(found, "autotune_computing_only", "hand_written_computing_only"),
        "copies_cost": _ratio(found, "hand_written", "hand_written_computing_only"),
        "unfinished": not whole,
    }


def compute_lanes(session: Session) -> list[Lane] | None:
    """The contexts of autotune's TensorRT session, their execution alone captured by its runtime.

    None for other engines, and where runtime or engine cannot be captured: the end-to-end ratio needs no capture of ours.
    """
    from autotune.engines.tensorrt_lane import Lane as TensorRtLane
    from autotune.engines.tensorrt_session import TensorRtSession

    if not isinstance(session, TensorRtSession):
        return None

    def lane(inner: TensorRtLane) -> Lane:
        with inner.shared.runtime.capture(inner.stream) as capture:
            if inner.context is None or not inner.context.execute_async_v3(inner.stream.handle):
                raise RuntimeError("TensorRT did not enqueue the execution")
        return Lane(
            staging={},
            begin=lambda: None,
            launch=lambda: capture.graph.launch(inner.stream),
            launch_compute=lambda: capture.graph.launch(inner.stream),
            wait=inner.stream.synchronize,
        )

    try:
        return [lane(inner) for inner in session._lanes]  # the session has no way to compute without copies, nor should it
    except CandidateRejected as exc:
        print(f"computing only is left out for autotune: {exc}", file=sys.stderr)
        return None


def _ratio(found: Mapping[str, Sequence[Mapping[str, float]]], ours: str, theirs: str) -> dict[str, float] | None:
    pairs = [a["value"] / b["value"] for a, b in zip(found.get(ours, ()), found.get(theirs, ()), strict=False)]
    if not pairs:
        return None
    return {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)}
