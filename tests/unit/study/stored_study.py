"""Random studies in a database: trials that keep or break constraints, ties, repetitions and changes of the machine."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from study_samples import candidate, estimate, record, rejected, study

from autotune.fingerprint import cpu_fingerprint
from autotune.records import Regime, TrialRecord
from autotune.spec.model import StudySpec
from autotune.store.repository import Store, open_store
from autotune.store.worker import this_worker

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def at(minute: float) -> str:
    return (BEGIN + timedelta(minutes=minute)).isoformat(timespec="milliseconds")


class StoredStudy:
    """A study of random trials, which grows by `add`; seeded, so that a failure can be repeated."""

    def __init__(self, folder: Path, seed: int, **sections: Any) -> None:
        self.rng = random.Random(seed)
        self.spec: StudySpec = study(**sections)
        self.store: Store = open_store(f"sqlite:///{folder / f'{seed}.db'}")
        self.worker = this_worker()
        given = (self.spec.study, {}, "d", "m", self.spec.objectives, cpu_fingerprint(), 60)
        self.id = self.store.ensure_study(*given).id
        self.store.save_finished(self.id, self._timed(record(0, role="reference", rate=80.0)), self.worker)
        self.number = 0

    def add(self, n: int = 1) -> None:
        """`n` more finished trials."""
        for _ in range(n):
            self.store.save_finished(self.id, self.trial(), self.worker)

    def trial(self) -> TrialRecord:
        """The next trial, not stored."""
        self.number += 1
        knobs = {"batch_size": self.number, "streams": self.rng.randint(1, 4), "worker_threads": self.rng.randint(1, 4)}
        if self.rng.random() < 0.1:
            return self._timed(rejected(self.number, candidate=candidate(**knobs)))
        rate = self.rng.uniform(50, 150)
        found = record(
            self.number,
            accuracy=None if self.rng.random() < 0.05 else self.rng.choice((0.80, 0.85, 0.88, 0.90)),
            rate=rate,
            half=rate * self.rng.choice((0.001, 0.02, 0.1)),
            p99=self.rng.choice((None, 5.0, 20.0)),
            knobs=knobs,
            accuracy_drop=estimate(self.rng.choice((0.0, 0.01, 0.05))),
            peak_memory_mib=self.rng.choice((None, 100.0, 300.0)),
        )
        return self._timed(found)

    def repeat(self, of: TrialRecord, role: Any, round_: int, *, fails: bool = False) -> None:
        """The trial was measured again."""
        begun = self.store.begin_repetition(self.id, of, role, round_, self.worker)
        assert begun is not None
        assert of.throughput_items_per_s is not None
        rate = of.throughput_items_per_s.value * self.rng.uniform(0.95, 1.05)
        found = replace(record(begun.number, rate=rate, half=rate / 100), role=role, candidate=of.candidate)
        found = replace(rejected(begun.number, "crashed"), role=role, candidate=of.candidate) if fails else found
        self.store.finish_trial(begun.trial_id, self._timed(found))

    def change(self) -> None:
        """The machine became another one."""
        number = len(self.store.regimes(self.id)) + 2
        now = at(self._minute())
        self.store.add_regime(self.id, Regime(number=number, since=now, steady_until=now, ratio=0.9, reason="test"))

    def finished(self) -> list[TrialRecord]:
        """Every finished search trial, whole."""
        return self.store.trials(self.id, ("complete", "rejected", "crashed"), ("search",))

    def _timed(self, found: TrialRecord) -> TrialRecord:
        minute = self._minute()
        return replace(found, started_at=at(minute), finished_at=at(minute + 0.5))

    def _minute(self) -> float:
        self.clock = getattr(self, "clock", 0) + 1
        return float(self.clock)
