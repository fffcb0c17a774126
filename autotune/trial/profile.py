"""profile_trial: a candidate's engine executed under its own profiler, in the process of a trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.bench.statistics import mean_estimate
from autotune.candidate import Candidate
from autotune.devices.build_target import build_target
from autotune.engines.build import build_engine, load_backend
from autotune.engines.layers import N_WARM_UPS, Explains, LayerReport
from autotune.engines.protocol import Inputs, Session
from autotune.errors import Unsupported
from autotune.records import Estimate
from autotune.trial.artifacts import cache_of
from autotune.trial.request import TrialRequest
from autotune.trial.stages import bound_split, load_batches, require_support, variant_of
from autotune.variants.outline import Outline, outline_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialProfile:
    """What an engine told of itself. `candidate`: as it was profiled, on one stream.

    `plain_us`: one execution without the profiler; None for an engine that was built for a device that is not here.
    `outline`: the nodes of the variant. `variant_key`, `engine_key`: of what was profiled, which is made anew where the cache
    lacks it.
    """

    candidate: Candidate
    report: LayerReport
    outline: Outline
    plain_us: Estimate | None
    variant_key: str
    engine_key: str


def one_stream(candidate: Candidate) -> Candidate:
    """The candidate with one of its streams, and that stream's share of the worker threads."""
    streams, threads = candidate.streams, candidate.worker_threads
    if streams is None:
        return candidate
    return replace(candidate, streams=1, worker_threads=None if threads is None else max(1, threads // streams))


def profile_trial(request: TrialRequest, n_runs: int, report: Callable[[str], None] = lambda stage: None) -> TrialProfile:
    """The profile of the request's candidate: `n_runs` ≥ 2 executions of real samples without, then as many with the profiler.

    Raises CandidateRejected where it cannot be built, opened or profiled.
    """
    spec, cache = request.spec, cache_of(request.spec, request.cache_root)
    candidate = one_stream(request.candidate)
    backend = load_backend(candidate.engine)
    require_support(backend, candidate)
    if not isinstance(backend, Explains):
        raise Unsupported(f"the engine {backend.name} does not tell its layers", stage="profile")
    report("data")
    validation = bound_split(spec, spec.data.validation, cache)
    report("variant")
    variant, _ = variant_of(spec, request.candidate, backend, cache)
    report("engine")
    engine, _ = build_engine(backend, variant, request.candidate, cache)
    batches = load_batches(validation, candidate.batch_size)
    report("open")
    plain_us = None if build_target() is not None else _plain_us(backend.open(engine, candidate), batches, n_runs)
    report("profile")
    return TrialProfile(
        candidate=candidate,
        report=backend.layers(engine, candidate, batches, n_runs=n_runs),
        outline=outline_of(variant.path),
        plain_us=plain_us,
        variant_key=variant.key,
        engine_key=engine.key,
    )


def _plain_us(session: Session, batches: Sequence[Inputs], n_runs: int) -> Estimate:
    """One execution's time, one after the other, after warm-ups. The session is closed."""
    times_us = []
    with session:
        for run in range(N_WARM_UPS + n_runs):
            begin = time.perf_counter_ns()
            session.submit(batches[run % len(batches)], 0)
            session.wait(0)
            times_us.append((time.perf_counter_ns() - begin) / 1e3)
    return mean_estimate(np.asarray(times_us[N_WARM_UPS:]))
