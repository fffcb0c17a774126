"""A database as years of use would leave it: one study of many trials among a thousand others, written in bulk.

The trials are plausible records of the fake engine: its closed formulas with noise, rejections, crashes, canaries, finalists
and telemetry. Nothing is measured; what is timed is the reading.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select

from autotune.candidate import Candidate, Choices, Range
from autotune.engines.fake import error_rate, throughput_items_per_s
from autotune.fingerprint import cpu_fingerprint, digest_of
from autotune.records import Estimate, LatencySummary, LoadFigures, Rejection, Series, TrialRecord, VariantInfo
from autotune.spec.model import StudySpec
from autotune.store import rows, tables
from autotune.store.connection import WRITE, make_engine, parse_url
from autotune.store.repository import Store, open_store
from autotune.store.trials import insert_missing
from autotune.store.worker import this_worker
from autotune.study.reporting import learn
from autotune.study.standing import Standing

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_AT_ONCE = 2000
PRECISIONS = ("fp32", "fp16", "int8", "int8-tensor")


def spec_named(name: str) -> StudySpec:
    """A study of the fake engine over some 50,000 candidates."""
    split = {"npz": Path("val.npz"), "inputs": "x", "labels": "y"}
    return StudySpec.model_validate(
        {
            "study": name,
            "model": {"path": Path("model.onnx")},
            "data": {"validation": split, "calibration": split},
            "engines": ("fake",),
            "space": {
                "precision": Choices(values=PRECISIONS),
                "pruning_ratio": Choices(values=(0.0, 0.25, 0.5)),
                "batch_size": Range(low=1, high=256),
                "streams": Choices(values=(1, 2, 3, 4)),
                "worker_threads": Choices(values=(1, 2, 3, 4)),
            },
            "constraints": {"accuracy_drop": 0.03},
        }
    )


def fill(url: str, *, n_trials: int, n_studies: int, n_small: int, seed: int = 0) -> Store:
    """The database at `url` with a study "big" of `n_trials` and `n_studies` − 1 others of `n_small` trials each."""
    store, rng = open_store(url), random.Random(seed)
    engine = make_engine(parse_url(url)).execution_options(**{WRITE: True})
    with engine.begin() as connection:
        first = (connection.execute(select(func.max(tables.trials.c.id))).scalar() or 0) + 1
        for i in range(n_studies):
            name, n = ("big", n_trials) if i == 0 else (f"study-{i:04d}", n_small)
            study_id = _study(connection, name, i)
            first = _trials(connection, study_id, n, first, rng)
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT setval('at_trials_id_seq', (SELECT MAX(id) FROM at_trials))")
    engine.dispose()
    _again(store, rng)
    for row in store.studies():
        learn(store, row.id)
        store.set_front(row.id, [r.number for r in Standing(store, row.id, StudySpec.model_validate(row.spec)).front])
    return store


def _study(connection: Connection, name: str, i: int) -> int:
    spec, environment = spec_named(name), cpu_fingerprint()
    values = {"key": environment.key, "device": environment.device, "fingerprint": {
        "device": environment.device, "kind": "cpu", "cores": environment.cores, "memory_mib": environment.memory_mib,
        "system": environment.system, "versions": {"onnxruntime": "1.0"},
    }}  # fmt: skip
    insert_missing(connection, tables.environments, {**values, "created_at": _at(0)})
    row = {
        "name": name, "state": "idle", "target_trials": 10_000, "objectives": list(spec.objectives),
        "spec": spec.model_dump(mode="json"), "spec_digest": digest_of(name), "model_digest": digest_of(i % 50),
        "environment_key": environment.key, "created_at": _at(i),
    }  # fmt: skip
    return int(connection.execute(insert(tables.studies).values(**row).returning(tables.studies.c.id)).scalar_one())


def _trials(connection: Connection, study_id: int, n: int, first: int, rng: random.Random) -> int:
    """The reference and n trials are stored under ids from `first` on; the next free id."""
    worker, environment = this_worker(), cpu_fingerprint()
    who = {"worker_id": worker.worker_id, "host": worker.host, "pid": worker.pid, "pid_started": 1, "boot_id": worker.boot_id}
    pending: dict[Table, list[dict[str, Any]]] = {}
    for trial_id, record in enumerate(_records(n, rng), start=first):
        if record.variant is not None:
            insert_missing(connection, tables.variants, rows.variant_values(record.variant))
        own = {"id": trial_id, "study_id": study_id, "role": record.role, "number": record.number, **who,
               "environment_key": environment.key, "heartbeat_at": record.finished_at}  # fmt: skip
        pending.setdefault(tables.trials, []).append(own | rows.trial_values(record))
        for table, found in (
            (tables.measurements, rows.measurement_values(record)),
            (tables.loads, rows.load_values(record)),
            (tables.telemetry, rows.telemetry_values(record)),
        ):
            pending.setdefault(table, []).extend({"trial_id": trial_id, **row} for row in found)
        if len(pending[tables.trials]) >= _AT_ONCE:
            _flush(connection, pending)
    _flush(connection, pending)
    return first + n + 1


def _flush(connection: Connection, pending: dict[Table, list[dict[str, Any]]]) -> None:
    for table in (tables.trials, tables.measurements, tables.loads, tables.telemetry):
        if pending.get(table):
            connection.execute(insert(table), pending[table])
    pending.clear()


def _records(n: int, rng: random.Random) -> Iterator[TrialRecord]:
    unset = {"memory_pool_mib": None, "builder_level": None, "cuda_graph": None}
    default = Candidate.from_json(
        {"engine": "fake", "precision": "fp32", "pruning_ratio": 0.0, "batch_size": 1, "streams": 1, "worker_threads": 1}
        | unset
    )
    yield replace(_complete(0, default, rng), role="reference")
    for number in range(1, n + 1):
        candidate = Candidate.from_json({
            "engine": "fake", "precision": rng.choice(PRECISIONS), "pruning_ratio": rng.choice((0.0, 0.25, 0.5)),
            "batch_size": rng.randint(1, 256), "streams": rng.randint(1, 4), "worker_threads": rng.randint(1, 4), **unset,
        })  # fmt: skip
        chance = rng.random()
        if chance < 0.02:
            yield _without_result(number, candidate, "crashed", "worker_crashed", "load")
        elif chance < 0.10:
            yield _without_result(number, candidate, "rejected", "build_failed", "engine")
        else:
            yield _complete(number, candidate, rng)


def _complete(number: int, candidate: Candidate, rng: random.Random) -> TrialRecord:
    n = 2000
    right = 1 - error_rate(candidate)
    rate = throughput_items_per_s(candidate) * rng.lognormvariate(0, 0.02)
    p50 = 1e3 * candidate.batch_size * (candidate.streams or 1) / rate
    series = tuple(
        Series(metric=m, unit="%", t_s=tuple(i / 10 for i in range(50)), values=tuple(rng.random() for _ in range(50)))
        for m in ("cpu_percent", "memory_mib")
    )
    return TrialRecord(
        number=number, state="complete", candidate=candidate, metric="top1",
        accuracy=_estimate(right, 0.01, n, "Wilson"), accuracy_drop=_estimate(0.9 - right, 0.008, n, "paired"),
        throughput_items_per_s=_estimate(rate, rate * 0.01, 12, "t over windows"),
        latency_ms=LatencySummary(**{f"p{q}": _estimate(p50 * f, p50 * 0.05, n, "order statistics")
                                     for q, f in ((50, 1.0), (90, 1.2), (95, 1.3), (99, 1.6))}),
        load=LoadFigures(scenario="offline", n_requests=n), peak_memory_mib=100 + candidate.batch_size, model_bytes=10_000_000,
        variant=_variant(candidate), stage_s={"variant": 0.1, "engine": 1.5, "accuracy": 2.0, "load": 15.0},
        cached=("variant",), build_s=1.5, measure_s=15.0, device=cpu_fingerprint().device, versions={"onnxruntime": "1.0"},
        telemetry=series, **_times(number),
    )  # fmt: skip


def _without_result(number: int, candidate: Candidate, state: Any, reason: str, stage: str) -> TrialRecord:
    message = f"the fake engine could not do batch {candidate.batch_size}\nLog: cache/logs/{number}.log"
    return TrialRecord(
        number=number, state=state, candidate=candidate, metric="top1",
        reject=Rejection(reason=reason, stage=stage, message=message), **_times(number),
    )  # fmt: skip


def _variant(candidate: Candidate) -> VariantInfo:
    ratio = candidate.pruning_ratio
    key = digest_of({"precision": candidate.precision, "ratio": ratio})
    return VariantInfo(key=key, precision=candidate.precision, scheme="", pruning_ratio=ratio, achieved_pruning=ratio,
                       params=1_000_000, macs=300_000_000, model_bytes=10_000_000)  # fmt: skip


def _estimate(value: float, half: float, n: int, method: str) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=n, method=method)


def _times(number: int) -> dict[str, Any]:
    return {"started_at": _at(number * 20.0), "finished_at": _at(number * 20.0 + 19)}


def _at(seconds: float) -> str:
    return (_BEGIN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def _again(store: Store, rng: random.Random) -> None:
    """The big study's reference was measured 60 times by the canary, and its eight fastest feasible trials in three rounds."""
    study, worker = store.study("big"), this_worker()
    assert study is not None
    reference = store.trials(study.id, ["complete"], ["reference"])[-1]
    finalists = Standing(store, study.id, spec_named("big")).front[:8]
    wanted = [(reference, "canary", i + 1) for i in range(60)] + [(r, "final", i) for i in (1, 2, 3) for r in finalists]
    for of, role, round_ in wanted:
        begun = store.begin_repetition(study.id, of, role, round_, worker)  # type: ignore[arg-type]  # both are roles
        assert begun is not None
        found = replace(_complete(begun.number, of.candidate, rng), role=role, telemetry=())
        store.finish_trial(begun.trial_id, replace(found, **_times(begun.number * 150)))
