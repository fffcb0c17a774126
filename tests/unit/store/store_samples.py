"""Records that use every field; the numbers are invented."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autotune.candidate import Candidate
from autotune.fingerprint import DeviceFingerprint
from autotune.records import (
    Estimate,
    LatencySummary,
    LoadFigures,
    Rejection,
    Series,
    TrialRecord,
    VariantInfo,
    with_reported,
)

ENVIRONMENT = DeviceFingerprint(
    device="Test CPU × 4", kind="cpu", cores=4, memory_mib=8192, system="Linux", versions={"onnxruntime": "1.30.0"}
)


def candidate(**knobs: Any) -> Candidate:
    """An int8 candidate with the given knobs."""
    defaults: dict[str, Any] = {"engine": "onnxruntime", "precision": "int8", "pruning_ratio": 0.25, "batch_size": 8}
    return Candidate(**(defaults | {"streams": 2, "worker_threads": None, "memory_pool_mib": 256} | knobs))


def estimate(value: float, half: float = 0.01, n: int = 1000) -> Estimate:
    """value ± half."""
    return Estimate(value=value, low=value - half, high=value + half, n=n, method="wilson")


VARIANT = VariantInfo(
    key="5a3f", precision="int8", scheme="u8-asym+bias", pruning_ratio=0.25, achieved_pruning=0.2417, params=2_500_000,
    macs=3_000_000_000, model_bytes=2_718_281, notes=("12 layers left in fp32: Softmax", "é × 2"),
)  # fmt: skip


LOAD = LoadFigures(
    scenario="server", driver="loadgen", n_requests=3000, offered_items_per_s=200.0, slo_ms=50.0, slo_percentile=99,
    within_slo=estimate(0.995, 0.002), goodput_items_per_s=estimate(199.0, 0.4), peak_items_per_s=estimate(812.5),
    queued_share=0.4, late_share=0.001, mean_batch=2.5, foreign_cpu_share=0.01, n_repeated_windows=1,
)  # fmt: skip


def complete(number: int = 0, **changes: Any) -> TrialRecord:
    """A complete trial in which everything was measured but power."""
    return replace(_COMPLETE, number=number, **changes)


def rejected(number: int = 0, **changes: Any) -> TrialRecord:
    """A trial whose engine could not be built; nothing was measured."""
    reject = Rejection(reason="build_failed", stage="engine", message="no kernel for 'Foo'\n  at /layer2/conv")
    bare = TrialRecord(number=number, state="rejected", candidate=candidate(), reject=reject, finished_at=_LATER)
    return replace(bare, **changes)


def as_measured(record: TrialRecord) -> TrialRecord:
    """The record as its own trial made it, without what the study learnt later."""
    return replace(with_reported(record, {}), repetitions=(), regime=1)


_LATER = "2026-03-01T12:00:59.125+00:00"
_COMPLETE = TrialRecord(
    number=0,
    state="complete",
    candidate=candidate(),
    metric="top1",
    accuracy=estimate(0.7518),
    accuracy_drop=estimate(0.0031),
    throughput_items_per_s=estimate(812.5, 7.25, 9),
    latency_ms=LatencySummary(p50=estimate(9.81), p90=estimate(11.5), p99=estimate(0.1 + 0.2)),
    energy_j_per_item=estimate(0.0421),
    peak_memory_mib=311.25,
    model_bytes=2_718_281,
    variant=VARIANT,
    engine_key="9c1d",
    scores_key="77aa",
    build_s=12.5,
    measure_s=6.0,
    stage_s={"variant": 11.5, "engine": 1.0, "load": 6.0},
    cached=("base",),
    device="Test CPU × 4",
    versions={"onnxruntime": "1.30.0"},
    flags=("load not steady",),
    telemetry=(
        Series(metric="cpu_percent", unit="%", t_s=(0.1, 0.2, 0.3), values=(99.5, 100.0, 1e-17)),
        Series(metric="power_w", unit="W", absent="no RAPL counter: permission denied"),
    ),
    started_at="2026-03-01T12:00:41.000+00:00",
    finished_at=_LATER,
)
