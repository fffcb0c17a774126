from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import ENVIRONMENT

from autotune.candidate import Candidate
from autotune.records import (
    ESTIMATES,
    LOAD_ESTIMATES,
    Agreement,
    ClassDrop,
    Estimate,
    LatencySummary,
    LoadFigures,
    Rejection,
    Series,
    TrialRecord,
    VariantInfo,
)
from autotune.store.repository import open_store
from autotune.store.worker import this_worker

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, max_value=1e15)
counts = st.integers(0, 2**62)
words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
estimates = st.builds(Estimate, value=finite, low=finite, high=finite, n=counts, method=words)
maybe = st.none() | estimates
instants = st.datetimes().map(lambda d: d.isoformat(timespec="milliseconds") + "+00:00")


def series(values: list[tuple[float, float]]) -> Series:
    return Series(metric="m", unit="%", t_s=tuple(t for t, _ in values), values=tuple(v for _, v in values))


records: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "state": st.sampled_from(["complete", "rejected", "crashed"]),
        "candidate": st.builds(
            Candidate, engine=words, precision=words, pruning_ratio=positive, batch_size=counts,
            streams=st.none() | counts, worker_threads=st.none() | counts, memory_pool_mib=st.none() | counts,
            builder_level=st.none() | counts, cuda_graph=st.none() | words, layout=st.none() | words,
            conv_search=st.none() | words, arena_growth=st.none() | words,
        ),
        "reject": st.none() | st.builds(Rejection, reason=words, stage=words, message=words),
        "metric": words,
        **dict.fromkeys(ESTIMATES, maybe),
        "agreement": st.none()
        | st.builds(
            Agreement, top1=maybe, output_difference=maybe, n_classes=st.none() | counts,
            classes=st.lists(st.builds(ClassDrop, label=st.integers(), drop=estimates, p_value=finite), max_size=2).map(tuple),
        ),
        "latency_ms": st.builds(LatencySummary, p50=maybe, p90=maybe, p95=maybe, p99=maybe),
        "load": st.none()
        | st.builds(
            LoadFigures, scenario=words, driver=words, n_requests=counts, offered_items_per_s=st.none() | positive,
            slo_ms=st.none() | positive, slo_percentile=st.none() | st.sampled_from([50, 99]), late_share=st.none() | positive,
            queued_share=st.none() | positive, mean_batch=st.none() | positive, foreign_cpu_share=st.none() | positive,
            n_repeated_windows=st.integers(0, 99), **dict.fromkeys(LOAD_ESTIMATES, maybe),
        ),
        "peak_memory_mib": st.none() | positive,
        "pool_peak_mib": st.none() | positive,
        "model_bytes": st.none() | counts,
        "variant": st.none()
        | st.builds(
            VariantInfo, key=words, precision=words, scheme=words, pruning_ratio=positive, achieved_pruning=positive,
            params=counts, macs=st.none() | counts, model_bytes=counts, notes=st.lists(words, max_size=2).map(tuple),
        ),
        "engine_key": st.none() | words,
        "build_s": st.none() | positive,
        "stage_s": st.dictionaries(words, positive, max_size=3),
        "cached": st.lists(words, max_size=2).map(tuple),
        "versions": st.dictionaries(words, words, max_size=2),
        "flags": st.lists(words, max_size=2).map(tuple),
        "telemetry": st.lists(st.lists(st.tuples(finite, finite), max_size=5).map(series), max_size=2).map(tuple),
        "started_at": st.none() | instants,
        "finished_at": st.none() | instants,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int, Any]:
    store = open_store(f"sqlite:///{Path(tmp_path_factory.mktemp('any')) / 'any.db'}")
    return store, store.ensure_study("s", {}, "d", "m", ("accuracy",), ENVIRONMENT, 1).id, this_worker()


@settings(max_examples=60, deadline=None)
@given(values=records)
def test_any_record_comes_back(shared: tuple[Any, int, Any], values: dict[str, Any]) -> None:
    """Whatever a record holds, its finite numbers come back bit for bit and its texts letter for letter."""
    store, study_id, worker = shared
    record = TrialRecord(number=store.next_number(study_id, "search"), **values)
    assert store.save_finished(study_id, record, worker)
    found = store.trial(study_id, record.number)
    assert found.as_json() == record.as_json()
    assert isinstance(found.cached, tuple) and isinstance(found.flags, tuple)
    assert store.telemetry(study_id, record.number) == record.telemetry
    if record.accuracy is not None:
        assert math.copysign(1, found.accuracy.value) == math.copysign(1, record.accuracy.value)
