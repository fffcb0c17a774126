"""run_trial: candidate → variant → engine → measurement → record, whatever happens on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from autotune.bench.accuracy import accuracy_estimate, drop_estimate
from autotune.bench.agreement import agreement
from autotune.bench.beside import ProcessGroup
from autotune.bench.measure import Measurement, measure_load
from autotune.bench.memory import resident_mib
from autotune.bench.scenario import Loadable
from autotune.cache import MANIFEST, Cache
from autotune.cuda.failures import is_sticky
from autotune.data.dataset import Dataset
from autotune.devices.gpu import device_fingerprint
from autotune.engines.build import build_engine, load_backend
from autotune.engines.protocol import Backend, CountsPool, Engine, Session
from autotune.errors import BuildFailed, BuiltOnly, CandidateRejected, DeviceFault, Unstable
from autotune.records import STOPPED_EARLY, Estimate, Rejection, TrialRecord
from autotune.trial.artifacts import cache_of, sharing
from autotune.trial.device_watch import DeviceWatch
from autotune.trial.known_accuracy import known_answers, measured_answers, per_sample
from autotune.trial.request import TrialRequest
from autotune.trial.stages import (
    bound_split,
    drop_test,
    load_batches,
    prune,
    require_accuracy,
    require_support,
    stopped_early,
    variant_of,
)


class _Draft:
    """The record as far as it is known; stages add to it, so that a rejected trial keeps what was measured before."""

    def __init__(self, request: TrialRequest, report: Callable[[str], None]) -> None:
        self.known: dict[str, Any] = {"metric": request.spec.data.metric, "started_at": now_utc()}
        self.stage_s: dict[str, float] = {}
        self.cached: list[str] = []
        self.flags: list[str] = []
        self._request, self._report = request, report

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block's wall time is the stage's; the parent hears of it as it begins."""
        self._report(name)
        begin = time.monotonic()
        try:
            yield
        finally:
            self.stage_s[name] = self.stage_s.get(name, 0.0) + time.monotonic() - begin

    def record(self, state: str, reject: Rejection | None = None) -> TrialRecord:
        """The trial as it stands."""
        built = [self.stage_s[s] for s in ("prune", "variant", "engine", "open") if s in self.stage_s]
        measured = [self.stage_s[s] for s in ("accuracy", "load") if s in self.stage_s]
        return TrialRecord(
            number=self._request.number,
            role=self._request.role,
            candidate=self._request.candidate,
            state=state,  # type: ignore[arg-type]  # one of TrialState, from the two callers below
            reject=reject,
            stage_s={k: round(v, 4) for k, v in self.stage_s.items()},
            cached=tuple(self.cached),
            flags=tuple(self.flags),
            build_s=sum(built) if built else None,
            measure_s=sum(measured) if measured else None,
            finished_at=now_utc(),
            **self.known,
        )


def run_trial(request: TrialRequest, report: Callable[[str], None] = lambda stage: None) -> TrialRecord:
    """The record of one candidate, complete or rejected. `report` hears each stage as it begins.

    Raises what is not the candidate's fault: SpecError, EnvironmentProblem, and bugs.
    """
    draft, cache = _Draft(request, report), cache_of(request.spec, request.cache_root)
    try:
        with sharing(cache, draft.flags):
            _walk(request, draft, cache)
    except CandidateRejected as exc:
        return draft.record("rejected", Rejection(reason=_reason(exc), stage=exc.stage, message=str(exc)))
    return draft.record("complete")


def _reason(exc: CandidateRejected) -> str:
    """The exception's own, or that of the device where an engine passes on what CUDA calls a sticky error."""
    passed_on = isinstance(exc, Unstable | BuildFailed) and is_sticky(str(exc))
    return DeviceFault.reason if passed_on else exc.reason


def _walk(request: TrialRequest, draft: _Draft, cache: Cache) -> None:
    spec, candidate = request.spec, request.candidate
    backend = load_backend(candidate.engine)
    able = backend.capabilities()
    device = device_fingerprint(able.device, (*able.distributions, *able.run_distributions))
    draft.known |= {"device": device.device, "versions": dict(device.versions)}
    require_support(backend, candidate)

    with draft.stage("data"):
        validation = bound_split(spec, spec.data.validation, cache)
    if candidate.pruning_ratio > 0:
        with draft.stage("prune"):
            draft.cached += ["prune"] if prune(spec, candidate, backend, cache) else []
    with draft.stage("variant"):
        variant, hits = variant_of(spec, candidate, backend, cache, request.calibration)
        draft.cached += [hit for hit in hits if hit != "prune"]  # by now it always is
        draft.known |= {"variant": variant.info, "model_bytes": variant.info.model_bytes}
    if request.variant_only:
        raise BuiltOnly(f"the variant {variant.info.key} is made; no engine was built, as asked", stage="engine")
    # Before the engine is built: a builder makes a CUDA context, which is the trial's own too.
    watch = None if request.build_only else DeviceWatch(able.device)
    with draft.stage("engine"):
        engine, hit = build_engine(backend, variant, candidate, cache)
        draft.cached += ["engine"] if hit else []
        draft.known["engine_key"] = engine.key
    if watch is None:
        raise BuiltOnly(_what_was_built(engine, device.device), stage="open")
    with draft.stage("data"):
        pool = load_batches(validation, candidate.batch_size)
        idle_mib = resident_mib()
    with draft.stage("open"):
        session = backend.open(engine, candidate)
        watch.opened(session)
    with session:
        with draft.stage("accuracy"):
            accuracy = _measure_accuracy(request, draft, cache, backend, engine, session, validation)
        if not request.with_load:
            return
        with draft.stage("load"):
            enough = request.give_up_below(accuracy.value)
            loadable = Loadable(
                session=session,
                pool=pool,
                batch_size=candidate.batch_size,
                partial=able.partial_batches,
                seed=request.arrivals_seed,
                logs=request.log_path.with_suffix(".loadgen"),
                meter=watch.cpu_meter(),
                build=None if request.build_group is None else ProcessGroup(request.build_group),
                build_is_harmless=request.build_is_harmless,
            )
            measured, flags = watch.measured(lambda probes: measure_load(loadable, spec.load, probes, idle_mib, enough))
            draft.known |= _measured(measured) | _pool_peak(session)
            draft.flags += [*measured.load.flags, *flags]


def _measure_accuracy(
    request: TrialRequest,
    draft: _Draft,
    cache: Cache,
    backend: Backend,
    engine: Engine,
    session: Session,
    validation: Dataset,
) -> Estimate:
    """The accuracy, which with the drop is in the draft. Raises AccuracyTooLow, perhaps before all samples have run."""
    spec = request.spec
    known = None if request.reference_scores is None else known_answers(cache, request.reference_scores)
    test = None if known is None or not request.may_stop_early else drop_test(spec, known.scores, validation)
    found = measured_answers(session, engine, backend, validation, request.candidate, spec.data.metric, cache, test)
    validation.release()
    draft.cached += ["accuracy"] if found.hit else []
    draft.flags += ["accuracy_depends_on_settings"] if found.settings_matter else []
    if found.stopped and test is not None:
        draft.flags.append(STOPPED_EARLY)
        scores = per_sample(found.answers.scores)
        accuracy, drop = test.accuracy(scores), test.drop(scores)
        draft.known |= {"accuracy": accuracy, "accuracy_drop": drop}
        raise stopped_early(accuracy, drop, test, spec.constraints)
    reference = found.answers if known is None else known
    accuracy, drop = accuracy_estimate(found.answers.scores), drop_estimate(reference.scores, found.answers.scores)
    draft.known |= {"accuracy": accuracy, "accuracy_drop": drop, "scores_key": found.key}
    if known is not None and validation.labels is not None:
        draft.known["agreement"] = agreement(known, found.answers, validation.labels)
    require_accuracy(accuracy, drop, spec.constraints)
    return accuracy


def _measured(found: Measurement) -> dict[str, Any]:
    return {
        "throughput_items_per_s": found.load.throughput_items_per_s,
        "latency_ms": found.load.latency_ms,
        "load": found.load.figures,
        "peak_memory_mib": found.peak_memory_mib,
        "energy_j_per_item": found.energy_j_per_item,
        "power_w": found.power_w,
        "telemetry": found.telemetry,
    }


def _pool_peak(session: Session) -> dict[str, Any]:
    return {"pool_peak_mib": session.pool_peak_mib()} if isinstance(session, CountsPool) else {}


def _what_was_built(engine: Engine, device: str) -> str:
    files = sorted(p for p in engine.folder.iterdir() if p.name != MANIFEST)
    sizes = ", ".join(f"{p.name} {p.stat().st_size} bytes" for p in files)
    return f"{engine.backend} engine, {device}: {sizes}; nothing was opened or measured, as asked. Folder: {engine.folder}"


def now_utc() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
