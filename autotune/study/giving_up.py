"""Whom a candidate must beat to be worth measuring to the end."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.records import TrialRecord
from autotune.spec.model import StudySpec
from autotune.study.scoring import front
from autotune.trial.request import Rival

_DECIDED_BY = {"accuracy", "throughput", "cost"}
"""Objectives that accuracy and throughput settle; any other might still be won by a slow candidate."""
_UNKNOWN_SPREAD = 0.1
"""Off a rival's speed while the spread between processes is not known; fresh processes have differed by up to 7 %."""


def rivals(records: Sequence[TrialRecord], spec: StudySpec, regime: int) -> tuple[Rival, ...]:
    """As `rivals_in`, for the front of these records."""
    return rivals_in(front(records, spec), spec, regime)


def rivals_in(members: Sequence[TrialRecord], spec: StudySpec, regime: int) -> tuple[Rival, ...]:
    """The members of the front that were measured under the present regime, each at the low end of its interval.

    The member's own next process lies above that end in 97.5 %, so what stays below it is neither in the front nor a tie. Empty
    where another objective could still be won.
    """
    if not set(spec.objectives) <= _DECIDED_BY or "throughput" not in spec.objectives:
        return ()
    found = []
    for record in members:
        rate, accuracy = record.throughput_items_per_s, record.accuracy
        if rate is None or accuracy is None or record.regime != regime:
            continue
        certain = rate.low if record.throughput_one_run is not None else rate.low * (1 - _UNKNOWN_SPREAD)
        found.append(Rival(accuracy=accuracy.value, items_per_s=certain))
    return tuple(found)
