"""KnownTrials: what a worker knows of its study's trials, kept up to date by reading only what changed since it last looked.

Of most trials it keeps no more than who they were. Whole records are those that still decide something: the front, what was
measured again, the references, and the last few. So a worker's memory and its time per trial do not grow with the study.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autotune.bench.rounds import Spread
from autotune.candidate import Candidate
from autotune.records import Regime, TrialRecord, own_load, with_reported
from autotune.spec.model import StudySpec
from autotune.store.changes import Pulse
from autotune.store.repository import Store
from autotune.study.objectives import objectives_of
from autotune.study.reporting import Process, learn, once, reference_processes
from autotune.study.scoring import front, is_feasible, is_repeated
from autotune.study.standing import Standing

_LAST = 40
"""As many as the loop looks at to see that nothing runs any more."""
_NOTHING = Pulse(counts={}, newest_id=0, n_regimes=-1, under_way=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceState:
    """The complete references with all their repetitions, and their processes under the present regime, in order of time."""

    references: tuple[TrialRecord, ...] = ()
    regimes: tuple[Regime, ...] = ()
    processes: tuple[Process, ...] = ()

    @property
    def last_ended_at(self) -> str:
        """When the reference was measured last; empty before it was."""
        return self.processes[-1].finished_at if self.processes else ""


class KnownTrials:
    """One worker's view of the finished search trials, its own and the others'. Not safe for threads.

    A trial that another worker finished is seen at the next `refresh`, or, where its commit overtook a later one's, at the one
    after the count of finished trials shows that it is missing.
    """

    def __init__(self, store: Store, study_id: int, spec: StudySpec) -> None:
        self._store, self._study_id, self._spec = store, study_id, spec
        self._pulse = _NOTHING
        self._numbers: dict[int, int] = {}
        self._seen: set[int] = set()
        self._deciding: list[TrialRecord] = []
        self._spreads: Mapping[str, Spread] = {}
        self.front: list[TrialRecord] = []
        self.last: list[TrialRecord] = []
        self.worst: list[TrialRecord] = []
        self.since_reference: list[TrialRecord] = []
        self.reference = ReferenceState()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, candidate: object) -> bool:
        return isinstance(candidate, Candidate) and self.number_of(candidate) is not None

    def number_of(self, candidate: Candidate) -> int | None:
        """The number of the newest finished trial of an equal candidate."""
        return self._numbers.get(_key(candidate.digest))

    def refresh(self) -> None:
        """All that was finished before this call is known, and the front is that of all of it."""
        pulse = self._store.pulse(self._study_id)
        if pulse == self._pulse:
            return
        before, self._pulse = self._pulse, pulse
        if pulse.n_regimes != before.n_regimes or pulse.n_finished("final") != before.n_finished("final"):
            self._load()
            return
        if pulse.n_finished("reference", "canary") != before.n_finished("reference", "canary"):
            self._see_reference()
        self._take_in(self._store.finished_since(self._study_id, before.newest_id, before.under_way))
        if len(self) < pulse.n_finished("search"):
            missing = [n for n, _ in self._store.digests(self._study_id) if n not in self._seen]
            self._take_in(self._store.numbered(self._study_id, missing))

    def learn(self) -> None:
        """The database reports what all measurements so far tell, as `reporting.learn` with the spreads known here."""
        found = learn(self._store, self._study_id, self._spreads)
        if found is not self._spreads:
            self._spreads = found
            self._load()  # what is reported of every trial has changed
        else:
            self._see_reference()

    def report(self, number: int) -> TrialRecord:
        """The trial that this worker has just finished, as it is reported from now on, also in the database."""
        self.refresh()
        record = next((r for r in reversed(self.last) if r.number == number), None)
        if record is None:
            record = self._store.trial(self._study_id, number)
        if record.state != "complete" or record.throughput_one_run is not None:
            return record
        own = {metric: own_load(record, metric) for metric in self._spreads}
        estimates = {metric: once(found, self._spreads[metric]) for metric, found in own.items() if found is not None}
        if not estimates:
            return record
        reported = with_reported(record, estimates)
        self._store.set_reported(self._study_id, {("search", number): estimates})
        for kept in (self.last, self.front, self._deciding, self.worst):
            kept[:] = [reported if r.number == number else r for r in kept]
        return reported

    def _load(self) -> None:
        """Everything is read anew: at the beginning, after finalists were measured, and when the machine changed."""
        standing = Standing(self._store, self._study_id, self._spec)
        self._numbers, self._seen = {}, set()
        for number, digest in self._store.digests(self._study_id):
            self._note(number, digest)
        self.front, self.worst = standing.front, standing.worst()
        again = {r.number: r for r in (*standing.repeated(), *self.front)}
        self._deciding = [again[n] for n in sorted(again)]
        self.last = self._store.last(self._study_id, _LAST)
        self._see_reference()
        watched = self._spec.canary.every_trials and self.reference.processes
        ended = self._store.ended_after(self._study_id, self.reference.last_ended_at) if watched else []
        self.since_reference = [_who(r) for r in ended]

    def _see_reference(self) -> None:
        references = self._store.trials(self._study_id, ["complete"], ["reference"])
        regimes = self._store.regimes(self._study_id)
        found = reference_processes(references, regimes)
        self.reference = ReferenceState(references=tuple(references), regimes=tuple(regimes), processes=tuple(found))
        last = self.reference.last_ended_at
        self.since_reference = [r for r in self.since_reference if (r.finished_at or "") > last]

    def _take_in(self, records: Sequence[TrialRecord]) -> None:
        new = [r for r in records if r.number not in self._seen]
        for record in new:
            self._note(record.number, record.candidate.digest)
            if self._spec.canary.every_trials:
                self.since_reference.append(_who(record))
        if not new:
            return
        self.last = [*self.last, *new][-_LAST:]
        self.worst = self._worst_of([*self.worst, *new])
        deciding = [*self._deciding, *(r for r in new if is_feasible(r, self._spec))]
        self.front = front(deciding, self._spec)
        newest = max(deciding, key=lambda r: r.regime, default=None)
        members = {r.number for r in self.front}
        self._deciding = [r for r in deciding if r is newest or is_repeated(r) or r.number in members]

    def _worst_of(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """For each objective one of the records in which it is worst."""
        found = {}
        for objective in objectives_of(self._spec):
            measured = [(value, i) for i, r in enumerate(records) if (value := objective.read(r)) is not None]
            if measured:
                _, i = (min if objective.maximize else max)(measured)
                found[records[i].number] = records[i]
        return list(found.values())

    def _note(self, number: int, digest: str) -> None:
        self._seen.add(number)
        self._numbers[_key(digest)] = number


class AnyOf:
    """Candidates that are in at least one of several collections, none of which is copied."""

    def __init__(self, *collections: KnownTrials | Collection[Candidate]) -> None:
        self._collections = collections

    def __contains__(self, candidate: object) -> bool:
        return any(candidate in found for found in self._collections)


def _key(digest: str) -> int:
    """64 bits of a digest: of 10,000 candidates two share them once in 10¹¹ studies, and one then counts as measured."""
    return int(digest[:16], 16)


def _who(record: TrialRecord) -> TrialRecord:
    """The record without what was measured."""
    return TrialRecord(number=record.number, state=record.state, candidate=record.candidate, finished_at=record.finished_at)
