"""Studies and hand-made records of the fake engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.candidate import Candidate, Choices
from autotune.records import Estimate, LatencySummary, Rejection, TrialRecord
from autotune.spec.model import StudySpec

SPLIT = {"npz": Path("val.npz"), "inputs": "x", "labels": "y"}


def study(**sections: Any) -> StudySpec:
    """A study of the fake engine; nothing here opens its files."""
    values: dict[str, Any] = {
        "study": "s",
        "model": {"path": Path("m.onnx")},
        "data": {"validation": SPLIT},
        "engines": ("fake",),
        "space": {"precision": Choices(values=("fp32", "fp16")), "streams": Choices(values=(1, 2, 3, 4))},
    }
    return StudySpec.model_validate(values | sections)


def estimate(value: float, half: float = 0.0) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=10, method="by hand")


def candidate(**knobs: Any) -> Candidate:
    values: dict[str, Any] = {"precision": "fp32", "pruning_ratio": 0.0, "batch_size": 1}
    unset = dict.fromkeys(("streams", "worker_threads", "memory_pool_mib"))
    return Candidate(**({"engine": "fake"} | values | unset | knobs))


def record(
    number: int,
    accuracy: float | None = 0.9,
    rate: float | None = 100.0,
    half: float = 0.0,
    p99: float | None = None,
    **changes: Any,
) -> TrialRecord:
    """A complete trial with what is given measured."""
    knobs = changes.pop("knobs", {})
    values: dict[str, Any] = {
        "state": "complete",
        "candidate": candidate(**knobs),
        "accuracy": None if accuracy is None else estimate(accuracy),
        "throughput_items_per_s": None if rate is None else estimate(rate, half),
        "latency_ms": LatencySummary(p99=None if p99 is None else estimate(p99)),
    }
    return TrialRecord(number=number, **(values | changes))


def rejected(number: int, state: str = "rejected", **changes: Any) -> TrialRecord:
    """A trial without a result."""
    reject = Rejection(reason="build_failed", stage="engine", message="no")
    return record(number, accuracy=None, rate=None, state=state, reject=reject, **changes)
