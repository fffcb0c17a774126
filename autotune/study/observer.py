"""What a study tells the person who watches it; the command line draws it, scripts ignore it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from autotune.candidate import Candidate
from autotune.records import TrialRecord
from autotune.study.plan import StudyPlan


class Observer(Protocol):
    """Hears of a study's progress, on the study's thread, between the measurements."""

    def planned(self, plan: StudyPlan, n_finished: int, target: int) -> None:
        """The study begins or goes on."""
        ...

    def trial_began(self, number: int, candidate: Candidate, role: str) -> None:
        """A candidate was proposed."""
        ...

    def stage_began(self, stage: str) -> None:
        """The trial under way entered a stage."""
        ...

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        """The trial is stored."""
        ...

    def repeated(self, of: TrialRecord, record: TrialRecord, round_: int) -> None:
        """A finalist or the reference was measured again; `record` is the repetition, stored."""
        ...

    def note(self, text: str) -> None:
        """Something a person should know, in a line."""
        ...


class Silent:
    """An observer that says nothing."""

    def planned(self, plan: StudyPlan, n_finished: int, target: int) -> None:
        """Nothing happens."""

    def trial_began(self, number: int, candidate: Candidate, role: str) -> None:
        """Nothing happens."""

    def stage_began(self, stage: str) -> None:
        """Nothing happens."""

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        """Nothing happens."""

    def repeated(self, of: TrialRecord, record: TrialRecord, round_: int) -> None:
        """Nothing happens."""

    def note(self, text: str) -> None:
        """Nothing happens."""
