"""Records: the JSON that scripts read, there and back, with nothing where nothing was measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from autotune.candidate import Candidate
from autotune.records import (
    ESTIMATES,
    LOAD_ESTIMATES,
    Estimate,
    LatencySummary,
    LoadFigures,
    Rejection,
    Series,
    TrialRecord,
    VariantInfo,
)

CANDIDATE = Candidate(
    engine="e", precision="fp32", pruning_ratio=0.0, batch_size=1, streams=1, worker_threads=None, memory_pool_mib=None
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
estimates = st.builds(Estimate, value=numbers, low=numbers, high=numbers, n=st.integers(0), method=st.text())
maybe = st.none() | estimates
records = st.builds(
    TrialRecord,
    number=st.integers(0),
    state=st.sampled_from(["complete", "rejected", "crashed"]),
    candidate=st.just(CANDIDATE),
    role=st.sampled_from(["reference", "search", "bench"]),
    reject=st.none() | st.builds(Rejection, reason=st.text(), stage=st.text(), message=st.text()),
    latency_ms=st.builds(LatencySummary, p50=maybe, p99=maybe),
    load=st.none() | st.builds(LoadFigures, scenario=st.text(), slo_ms=numbers, **dict.fromkeys(LOAD_ESTIMATES, maybe)),
    variant=st.none()
    | st.builds(
        VariantInfo, key=st.text(), precision=st.text(), scheme=st.text(), pruning_ratio=numbers, achieved_pruning=numbers,
        params=st.integers(0), macs=st.none() | st.integers(0), model_bytes=st.integers(0), notes=st.tuples(st.text()),
    ),
    stage_s=st.dictionaries(st.text(), numbers),
    versions=st.dictionaries(st.text(), st.text()),
    flags=st.tuples(st.text()),
    cached=st.tuples(st.text(), st.text()),
    **dict.fromkeys(ESTIMATES, maybe),
)  # fmt: skip


@given(records)
def test_a_record_survives_json(record: TrialRecord) -> None:
    """What `--json` prints is the whole record; telemetry alone is left to the database."""
    assert TrialRecord.from_json(json.loads(json.dumps(record.as_json()))) == record


def test_telemetry_stays_out_of_the_document() -> None:
    """Thousands of samples belong into their own table."""
    record = TrialRecord(number=0, state="complete", candidate=CANDIDATE)
    sampled = replace(record, telemetry=(Series(metric="m", unit="u", t_s=(0.1,), values=(1.0,)),))
    assert sampled.as_json() == record.as_json() and "telemetry" not in record.as_json()


def test_what_was_not_measured_is_null() -> None:
    """Never 0, −1 or infinity."""
    document = TrialRecord(number=0, state="rejected", candidate=CANDIDATE).as_json()
    for name in (*ESTIMATES, "peak_memory_mib", "model_bytes", "build_s", "measure_s", "reject", "variant"):
        assert document[name] is None
    assert document["latency_ms"] == dict.fromkeys(("p50", "p90", "p95", "p99"))


def test_the_documents_keys_are_the_contract() -> None:
    """Scripts rely on these names; more may come."""
    document = TrialRecord(number=0, state="complete", candidate=CANDIDATE).as_json()
    assert {
        "number", "state", "reject", "candidate", "accuracy", "accuracy_drop", "throughput_items_per_s", "latency_ms",
        "energy_j_per_item", "power_w", "peak_memory_mib", "model_bytes", "build_s", "measure_s", "cached", "device",
        "versions", "flags", "started_at", "finished_at",
    } <= set(document)  # fmt: skip
    assert set(document["candidate"]) == set(CANDIDATE.as_json())


def test_half_width_is_half_the_interval() -> None:
    """An interval need not be centred on its value."""
    assert Estimate(value=1, low=0.5, high=2.5, n=3, method="m").half_width == 1


def test_a_zero_has_no_sign() -> None:
    """SQLite keeps none in a column of numbers, so that what comes back would differ from what went in."""
    found = Estimate(value=-0.0, low=-0.0, high=-0.0, n=1, method="")
    assert [math.copysign(1, v) for v in (found.value, found.low, found.high)] == [1, 1, 1]
    assert Estimate(value=-1.5, low=-2.0, high=0.0, n=1, method="").low == -2.0
