"""What a worker could not store is carried over by the next start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from study_samples import candidate, record
from virtual_study import VirtualMachine, session

from autotune.records import FINISHED
from autotune.store.journal import Journal
from autotune.store.worker import WorkerIdentity
from autotune.study.recovery import carry_over
from autotune.study.session import StudySession


def left(run: StudySession, dead: WorkerIdentity, n: int) -> Journal:
    """A journal of a dead worker: n search trials that still run for the database."""
    journal = Journal(run.journal_folder, dead)
    for number in range(n):
        found = record(number, knobs={"batch_size": 1 + number})
        journal.add(run.store.begin_trial(run.study.id, number, "search", found.candidate, dead), found)
    return journal


def test_what_waited_is_stored_once(tmp_path: Path) -> None:
    """Trials of a worker that was killed while the database was away are there after the next start; a second finds nothing."""
    run = session(tmp_path, VirtualMachine(truth=lambda c: 1.0))
    journal = left(run, replace(run.worker, worker_id="dead", boot_id="before"), 2)
    notes: list[str] = []
    for _ in range(2):
        carry_over(run.store, run.study.id, run.journal_folder, run.worker, notes.append)
    assert [r.number for r in run.store.trials(run.study.id, FINISHED)] == [0, 1] and run.store.running(run.study.id) == []
    assert sum("carried over from the journal" in n for n in notes) == 2
    assert not journal.path.exists()


def test_a_damaged_line_costs_one_trial(tmp_path: Path) -> None:
    """The line is set aside with a word to the person, the others are stored."""
    run = session(tmp_path, VirtualMachine(truth=lambda c: 1.0))
    journal = left(run, replace(run.worker, worker_id="dead", boot_id="before"), 3)
    content = bytearray(journal.path.read_bytes())
    content[content.index(b"\n") + 200] ^= 1
    journal.path.write_bytes(content)
    notes: list[str] = []
    carry_over(run.store, run.study.id, run.journal_folder, run.worker, notes.append)
    assert [r.number for r in run.store.trials(run.study.id, FINISHED)] == [0, 2]
    assert any("1 damaged lines of the journal are set aside" in n for n in notes)


def test_what_was_measured_again_stays(tmp_path: Path) -> None:
    """Put back and measured by another meanwhile: the journal's record is not a second one."""
    run = session(tmp_path, VirtualMachine(truth=lambda c: 1.0))
    dead = replace(run.worker, worker_id="dead", boot_id="before")
    left(run, dead, 1)
    run.store.bury_trial(run.study.id, run.store.running(run.study.id)[0].trial_id, dead)
    run.store.save_finished(run.study.id, record(5, rate=7.0, knobs={"batch_size": 1}), run.worker)
    notes: list[str] = []
    carry_over(run.store, run.study.id, run.journal_folder, run.worker, notes.append)
    found = run.store.trials(run.study.id, FINISHED)
    assert [(r.number, r.candidate) for r in found] == [(5, candidate(batch_size=1))]
    assert any("measured again meanwhile" in n for n in notes)
