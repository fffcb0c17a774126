"""TrialRequest: everything a trial's process needs to know, as one value that can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autotune.candidate import Candidate
from autotune.fingerprint import digest_of
from autotune.records import TrialRole
from autotune.spec.model import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """What a trial must beat somewhere to matter: an accuracy, and the items/s that the rival certainly reaches."""

    accuracy: float
    items_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSubset:
    """`size` of the calibration samples, drawn at random without replacement with this seed, in place of the whole split."""

    size: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRequest:
    """One candidate of one study. `reference_scores`: cache key of the reference's accuracy, None for the reference itself.

    `with_load` false ends the trial after accuracy, for a reference whose speed nobody asked for; `build_only` ends it once the
    engine is built, with the reason built_only, and `variant_only` before it is. `build_group`: a process group that builds on
    other cores and takes turns with being stopped during the load, whose windows beside it count if `build_is_harmless`.
    `rivals`: the load is given up once it is certain that one of them is faster and not less accurate. `calibration`: what a
    calibrated precision sees.
    """

    spec: StudySpec
    number: int
    role: TrialRole
    candidate: Candidate
    cache_root: Path
    log_path: Path
    reference_scores: str | None = None
    with_load: bool = True
    build_only: bool = False
    variant_only: bool = False
    build_group: int | None = None
    build_is_harmless: bool = False
    rivals: tuple[Rival, ...] = ()
    calibration: CalibrationSubset | None = None

    @property
    def may_stop_early(self) -> bool:
        """True where nothing is lost when accuracy is measured only as far as a rejection needs it.

        A candidate that is measured again was accepted on all samples, and no chance may reject it on fewer.
        """
        return self.role in ("search", "bench")

    @property
    def arrivals_seed(self) -> int:
        """What the arrivals of the load are drawn from: each measurement has its own, or none would tell another's luck."""
        return int(digest_of({"seed": self.spec.seed, "role": self.role, "number": self.number})[:12], 16)

    def give_up_below(self, accuracy: float) -> float:
        """The items/s under which a candidate of that accuracy cannot stand in the front; 0 where any may."""
        return max((r.items_per_s for r in self.rivals if r.accuracy >= accuracy), default=0.0)
