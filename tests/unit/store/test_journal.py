"""The journal: what was written is read again, what was damaged is set aside, and nobody's file is taken from the living."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from store_samples import LOAD, complete, rejected

from autotune.records import Rejection, Series
from autotune.store import journal
from autotune.store.journal import Entry, Journal, entry_of, left_behind, line_of, read
from autotune.store.worker import WorkerIdentity, this_worker

DEAD = WorkerIdentity(worker_id="gone-1-abcd", host=this_worker().host, pid=1, pid_started=2, boot_id="another boot")


def filled(folder: Path, worker: WorkerIdentity, n: int = 3) -> Path:
    """A journal of that worker with n trials that wait."""
    folder.mkdir(parents=True, exist_ok=True)
    own = Journal(folder, worker)
    for number in range(n):
        own.add(100 + number, complete(number))
    return own.path


def test_a_record_comes_back_as_it_was() -> None:
    """Estimates, load, variant and telemetry survive, also what neither UTF-8 nor JSON proper can hold."""
    broken = Rejection(reason="worker_crashed", stage="load", message="half a pair: \ud800, a zero: \x00")
    series = Series(metric="m", unit="u", t_s=(0.0, 1.0), values=(1.5, math.inf))
    for record in (complete(3, load=LOAD), replace(complete(4), telemetry=(series,)), rejected(5, reject=broken)):
        entry = Entry(trial_id=7, worker=DEAD, record=record)
        assert entry_of(line_of(entry).rstrip(b"\n")) == entry


def test_what_is_stored_waits_no_more(tmp_path: Path) -> None:
    """After `settle` there is no file, and nothing to carry over."""
    own = Journal(tmp_path / "j", DEAD)
    own.add(1, complete(0))
    assert [e.record for e in read(own.path).entries] == [complete(0)]
    own.settle()
    assert not own.path.exists() and left_behind(tmp_path / "j", this_worker()) == []


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    """kill -9 in the middle of a write: the whole lines before it count, and nothing is set aside."""
    path = filled(tmp_path, DEAD)
    path.write_bytes(path.read_bytes()[:-40])
    found = read(path)
    assert [e.record.number for e in found.entries] == [0, 1] and found.n_damaged == 0
    assert not path.with_suffix(".damaged").exists()


def test_a_damaged_line_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One flipped digit in a number: the digest tells, the line is kept for a person, and the others are carried over."""
    path = filled(tmp_path, DEAD)
    lines = path.read_bytes().split(b"\n")
    damaged = lines[1].replace(b'"number": 1', b'"number": 9')
    assert damaged != lines[1]
    path.write_bytes(b"\n".join([lines[0], damaged, lines[2], b""]))
    found = read(path)
    assert [e.record.number for e in found.entries] == [0, 2] and found.n_damaged == 1
    assert path.with_suffix(".damaged").read_bytes() == damaged + b"\n"
    assert "n_damaged=1" in caplog.text


@pytest.mark.parametrize("line", [b"", b"null", b"[]", b'{"entry": 3, "digest": ""}', b"\xff\xfe", b'{"entry": {}}'])
def test_no_line_is_fatal(line: bytes) -> None:
    """Whatever stands there, it is an entry or it is none."""
    assert entry_of(line) is None


def test_an_entry_of_impossible_values_is_none() -> None:
    """With a digest that is right: whoever can write there can compute it, and no start may end in a traceback."""
    good = json.loads(line_of(Entry(trial_id=7, worker=DEAD, record=complete(0))))["entry"]
    for wrong in ({"trial_id": math.inf}, {"worker": {**good["worker"], "worker_id": ["a"]}}, {"record": 3}):
        values = {**good, **wrong}
        assert entry_of(json.dumps({"digest": journal._digest(values), "entry": values}).encode()) is None
    assert entry_of(b'{"entry": ' + b"[" * 200_000) is None


def test_only_files_are_journals(tmp_path: Path) -> None:
    """A pipe would hang who opens it, and a link lead elsewhere."""
    path = filled(tmp_path, DEAD)
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    assert left_behind(tmp_path, this_worker()) == [path]


def test_a_living_workers_journal_is_its_own(tmp_path: Path) -> None:
    """Files of dead workers and of oneself are carried over; that of another that lives is not."""
    me = this_worker()
    other = replace(me, worker_id="neighbour")
    dead, mine, _ = filled(tmp_path, DEAD), filled(tmp_path, me), filled(tmp_path, other)
    assert set(left_behind(tmp_path, me)) == {dead, mine}


def test_a_disk_that_takes_nothing_costs_the_carry_over_only(tmp_path: Path) -> None:
    """Where the journal cannot be written the study goes on; half a line is never left."""
    (tmp_path / "file").write_text("")
    own = Journal(tmp_path / "file" / "j", DEAD)
    own.add(1, complete(0))
    own.settle()
    assert own.n_waiting == 0
