"""TrialRequest: everything a trial's process needs to know, as one value that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autotune.candidate import Candidate
from autotune.records import TrialRole
from autotune.spec.model import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRequest:
    """One candidate of one study. `reference_scores`: cache key of the reference's accuracy, None for the reference itself.

    `with_load` false ends the trial after accuracy, for a reference whose speed nobody asked for.
    """

    spec: StudySpec
    number: int
    role: TrialRole
    candidate: Candidate
    cache_root: Path
    log_path: Path
    reference_scores: str | None = None
    with_load: bool = True
