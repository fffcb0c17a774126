"""The JSON of an explanation; it only grows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from autotune.explain.comparison import Comparison
from autotune.explain.explanation import Explanation
from autotune.explain.subject import Subject

CAVEATS = (
    "times of layers are profiled, and a profiler slows what it watches: read them as shares, not as latencies",
    "one execution at a time on one stream; what streams do to each other is not in these times",
    "one process each: a later one may differ by some per cent, and so may a machine that does other work",
)
"""What every reader of an explanation must know."""


def subject_document(subject: Subject, explanation: Explanation) -> dict[str, Any]:
    """One trial's part, every layer and every node of it."""
    report = subject.report
    document: dict[str, Any] = {
        "label": subject.label,
        "engine": subject.engine,
        "precision": subject.precision,
        "batch_size": subject.batch_size,
        "profiled_us": report.total_us,
        "plain_us": None if subject.plain_us is None else asdict(subject.plain_us),
        "throughput_items_per_s": None if subject.measured is None else asdict(subject.measured),
        "n_runs": report.n_runs,
        "method": report.method,
        "notes": list(report.notes),
    }
    return document | asdict(explanation)


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """What two trials have in common; an interval that is not known is null."""
    found = asdict(comparison)
    if comparison.ratio is not None and comparison.ratio.high == float("inf"):
        found["ratio"] |= {"low": None, "high": None}
    for name in ("matched", "families"):
        for written, m in zip(found[name], getattr(comparison, name), strict=True):
            written["lost_us_per_item"] = m.lost_us
    return found
