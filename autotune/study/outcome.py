"""What Optuna is told of a trial beside its values: what its stages took, whose failures others share, what people see."""

from __future__ import annotations

from typing import Any

from autotune.records import TrialRecord
from autotune.search.history import outcome
from autotune.spec.model import StudySpec
from autotune.study.objectives import objectives_of

_SHARED = frozenset({"prune", "variant", "engine"})
LASTING = frozenset({"unsupported", "build_failed"})
"""Reasons that will not go away: the cache remembers them, too. Accuracy is a constraint, and told as one."""


def outcome_of(record: TrialRecord, spec: StudySpec, *, duplicate: bool = False) -> dict[str, Any]:
    """The attribute from which a cost-aware search learns."""
    reject = record.reject
    shared = reject is not None and record.state == "rejected" and reject.stage in _SHARED and reject.reason in LASTING
    return outcome(
        record.stage_s,
        failed_in=reject.stage if shared and reject else None,
        unmeasured=_unmeasured(record, spec),
        duplicate=duplicate,
    )


def _unmeasured(record: TrialRecord, spec: StudySpec) -> list[int | str]:
    """Objectives by number and constraints by name that stand at a stand-in, because the trial did not come so far."""
    found: list[int | str] = [i for i, o in enumerate(objectives_of(spec)) if o.read(record) is None]
    if record.state != "complete":
        found += ["throughput", "latency_p99_ms", "memory_mib"]
        found += [] if record.accuracy is not None else ["accuracy"]
        found += [] if record.accuracy_drop is not None else ["accuracy_drop"]
        # The constraint on the accuracy says it already; as a second one it would only blur what settings can do.
        found += ["runs"] if record.accuracy is not None and record.reject and record.reject.stage == "accuracy" else []
    return found


def shown_attributes(record: TrialRecord) -> dict[str, Any]:
    """What a person sees of a trial in optuna-dashboard."""
    shown: dict[str, Any] = {"state": record.state, "candidate": str(record.candidate)}
    if record.reject is not None:
        shown["reject"] = f"{record.reject.reason} in {record.reject.stage}: {record.reject.message}"[:500]
    for name in ("accuracy", "accuracy_drop", "throughput_items_per_s"):
        estimate = getattr(record, name)
        if estimate is not None:
            shown[name] = f"{estimate.value:.6g} [{estimate.low:.6g}, {estimate.high:.6g}]"
    if record.latency_ms.p99 is not None:
        shown["latency_p99_ms"] = round(record.latency_ms.p99.value, 4)
    if record.peak_memory_mib is not None:
        shown["peak_memory_mib"] = round(record.peak_memory_mib, 1)
    return shown
