"""A worker's view of its study is, after every change, what reading everything anew would give."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_study import StoredStudy

from autotune.records import TrialRecord
from autotune.spec.model import CanarySpec
from autotune.study.known_trials import AnyOf, KnownTrials
from autotune.study.objectives import objectives_of
from autotune.study.scoring import front


def view(study: StoredStudy) -> KnownTrials:
    return KnownTrials(study.store, study.id, study.spec)


def check(known: KnownTrials, study: StoredStudy) -> None:
    known.refresh()
    records = study.finished()
    assert len(known) == len(records)
    assert known.front == front(records, study.spec)
    assert all(known.number_of(r.candidate) == r.number and r.candidate in known for r in records)
    for objective in objectives_of(study.spec):
        values = [v for r in records if (v := objective.read(r)) is not None]
        worst = [v for r in known.worst if (v := objective.read(r)) is not None]
        assert (min(values) if values else None) == (min(worst) if worst else None)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_is_what_is_stored(seed: int, tmp_path: Path) -> None:
    """Trial by trial, after finalists were measured again, and after a change of the machine; so it is for a second worker."""
    study = StoredStudy(tmp_path, seed)
    known, other = view(study), view(study)
    check(known, study)
    for _ in range(8):
        study.add()
        check(known, study)
    study.add(10)
    check(known, study)
    for record in known.front[:2]:
        study.repeat(record, "final", 1)
    check(known, study)
    study.add(4)
    check(known, study)
    study.change()
    study.add(3)
    check(known, study)
    check(other, study)


def test_a_trial_whose_commit_was_overtaken_is_not_missed(tmp_path: Path) -> None:
    """Begun before another and finished after it; and one that was not even visible when its number had passed."""
    study = StoredStudy(tmp_path, 0)
    known = view(study)
    slow, hidden = study.trial(), study.trial()
    trial_id = study.store.begin_trial(study.id, slow.number, "search", slow.candidate, study.worker)
    study.add()
    check(known, study)
    study.store.finish_trial(trial_id, slow)
    check(known, study)
    study.store.save_finished(study.id, hidden, study.worker)
    known._pulse = study.store.pulse(study.id)  # as if its commit had not been seen
    study.add()
    check(known, study)


def test_only_what_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One new trial costs one record, and nothing new none, however many there are."""
    study = StoredStudy(tmp_path, 0)
    study.add(12)
    known = view(study)
    known.refresh()
    read: list[TrialRecord] = []
    since = study.store.finished_since
    monkeypatch.setattr(study.store, "finished_since", lambda *args: read.append(*(found := since(*args))) or found)
    for refused in ("trials", "outcomes", "digests", "numbered"):
        monkeypatch.setattr(study.store, refused, lambda *args: pytest.fail("everything was read again"))
    known.refresh()
    assert read == []
    study.add()
    known.refresh()
    assert [r.number for r in read] == [13]


def test_what_is_kept_does_not_grow(tmp_path: Path) -> None:
    """Of sixty trials whole records are kept of the front, the last forty, and no others."""
    study = StoredStudy(tmp_path, 1, canary=CanarySpec(every_trials=0))
    known = view(study)
    for _ in range(6):
        study.add(10)
        known.refresh()
    assert len(known.last) == 40 and len(known._deciding) <= len(known.front) + 1 and known.since_reference == []


def test_a_finished_trial_is_reported_with_the_spread_between_processes(tmp_path: Path) -> None:
    """Once the reference was measured often enough, a new trial's interval is wider than its own load's, here and stored."""
    study = StoredStudy(tmp_path, 0)
    known = view(study)
    (reference,) = study.store.trials(study.id, ["complete"], ["reference"])
    for round_ in (1, 2, 3):
        study.repeat(reference, "canary", round_)
    known.refresh()
    known.learn()
    while (trial := study.trial()).throughput_items_per_s is None:
        pass
    study.store.save_finished(study.id, trial, study.worker)
    found = known.report(trial.number)
    assert found.throughput_one_run == trial.throughput_items_per_s
    assert found.throughput_items_per_s is not None and trial.throughput_items_per_s is not None
    assert found.throughput_items_per_s.half_width > trial.throughput_items_per_s.half_width
    assert study.store.trial(study.id, trial.number) == found


def test_any_of_asks_every_collection(tmp_path: Path) -> None:
    """A candidate is in it when one of them has it."""
    study = StoredStudy(tmp_path, 0)
    first, second, third = (study.trial().candidate for _ in range(3))
    assert first in AnyOf({first}, {second}) and second in AnyOf({first}, {second})
    assert third not in AnyOf({first}, {second}, view(study))
