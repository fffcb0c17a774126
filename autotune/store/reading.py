"""StudyReader: what changed in a study and what it comes to, without reading every trial whole; a part of Store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from sqlalchemy import Connection

from autotune.records import FINISHED, LOADED, TrialRecord, TrialRole, TrialState
from autotune.store import changes, figures, reported
from autotune.store.changes import Pulse
from autotune.store.figures import StudyFigures
from autotune.store.outcomes import Outcomes, fetch_outcomes
from autotune.store.summaries import StudySummary, fetch_summaries

_T = TypeVar("_T")


class StudyReader:
    """Each call is one transaction, as Store's others are."""

    def _read(self, ask: Callable[[Connection], _T]) -> _T:
        raise NotImplementedError

    def summaries(self) -> list[StudySummary]:
        """How far every study is, and the best of its stored front, by name."""
        return self._read(fetch_summaries)

    def figures(self, study_id: int, after_id: int = 0) -> StudyFigures:
        """What is watched while the study runs; durations of the finished trials whose id is beyond `after_id`."""
        return self._read(lambda c: figures.fetch(c, study_id, after_id))

    def pulse(self, study_id: int) -> Pulse:
        """What tells whether the study has changed."""
        return self._read(lambda c: changes.fetch_pulse(c, study_id))

    def finished_since(self, study_id: int, after_id: int, among: Collection[int]) -> list[TrialRecord]:
        """The finished search trials begun after the one of that id, or whose ids are `among` these; by number."""
        return self._read(lambda c: changes.fetch_since(c, study_id, after_id, among))

    def ended_after(self, study_id: int, instant: str) -> list[TrialRecord]:
        """The finished search trials that ended after that instant (ISO 8601), by number."""
        return self._read(lambda c: changes.fetch_ended_after(c, study_id, instant))

    def last(
        self, study_id: int, n: int, states: Collection[TrialState] = FINISHED, before: int | None = None
    ) -> list[TrialRecord]:
        """The `n` search trials of the highest numbers in these states, only numbers below `before` if given; by number."""
        return self._read(lambda c: changes.fetch_last(c, study_id, n, states, before))

    def numbered(self, study_id: int, numbers: Collection[int]) -> list[TrialRecord]:
        """Those search trials, by number; numbers that are not stored are left out."""
        return self._read(lambda c: changes.fetch_numbered(c, study_id, numbers)) if numbers else []

    def flagged(self, study_id: int, flag: str) -> list[TrialRecord]:
        """The finished search trials one of whose own flags holds this text, by number."""
        return self._read(lambda c: changes.fetch_flagged(c, study_id, flag))

    def rejections(self, study_id: int) -> list[changes.RejectedTrials]:
        """The finished search trials without a result, by state, reason and stage, the most frequent first."""
        return self._read(lambda c: changes.fetch_rejections(c, study_id))

    def digests(self, study_id: int) -> list[tuple[int, str]]:
        """Number and candidate's digest of every finished search trial, by number."""
        return self._read(lambda c: changes.fetch_digests(c, study_id))

    def repeated(self, study_id: int) -> list[TrialRecord]:
        """The complete references, and the complete search trials that were measured again, by role and number."""
        return self._read(lambda c: changes.fetch_repeated(c, study_id))

    def outcomes(self, study_id: int, metrics: Iterable[str]) -> Outcomes:
        """What the finished search trials came to, as columns; `metrics`: the estimates that are wanted."""
        return self._read(lambda c: fetch_outcomes(c, study_id, metrics))

    def single_runs(self, study_id: int, metrics: Collection[str] = LOADED) -> list[reported.SingleRun]:
        """What the load of every complete search trial that was never repeated gave, of these metrics of LOADED, by number."""
        return self._read(lambda c: reported.fetch_single_runs(c, study_id, metrics))

    def measured_s(self, study_id: int, roles: Collection[TrialRole], states: Collection[TrialState] = FINISHED) -> float:
        """Seconds that the trials in these roles and states took together."""
        return self._read(lambda c: changes.fetch_measured_s(c, study_id, roles, states))

    def rounds_s(self, study_id: int, after_round: int = 0) -> float:
        """Seconds of the finalists' rounds beyond that one, since the search last finished a trial or the machine changed."""
        return self._read(lambda c: changes.fetch_rounds_s(c, study_id, after_round))
