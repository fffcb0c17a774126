"""Recording: a sweep of the fake engine through real trials, killed and resumed; and what its records come to."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assets import fake_study as fake

from autotune.candidate import Candidate
from autotune.engines.fake import throughput_items_per_s
from autotune.errors import SpecError
from autotune.records import Rejection, TrialRecord
from autotune.simulator.compile import compiled_table, implied_rejection, without_folders
from autotune.simulator.journal import Journal
from autotune.simulator.sweep import SweepPlan, clean_up, order_of, record_sweep, sweep_plan
from autotune.simulator.table_file import load_table
from autotune.spec.load import load_spec
from autotune.study.plan import StudyPlan, make_plan

SMALL = (
    ("precision: [fp32, int8, int8-tensor]", "precision: [fp32, int8-tensor]"),
    ("batch_size: [8, 16, 32]", "batch_size: [8, 16]"),
    ("worker_threads: [1, 2, 4]", "worker_threads: 4"),
    (fake.PRIORS, "priors: []"),
)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyPlan]:
    """Two precisions, of which one misses its accuracy; two batches, three streams: 12 points."""
    pytest.importorskip("onnxruntime", reason="int8 variants are made with onnxruntime")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield make_plan(load_spec(fake.write_study(tmp_path, *SMALL)))


def planned(study: StudyPlan, repeats: int = 1) -> SweepPlan:
    folder = study.spec.file.parent if study.spec.file else Path()
    return sweep_plan(study, {}, repeats=repeats, hours=None, out=folder / "t.json.gz")


def test_a_sweep_is_killed_and_goes_on(study: StudyPlan) -> None:
    """Stopped after three measurements, it finishes the rest; a point measured before is not measured again.

    The rejected precision is run once per engine at most: its other settings follow. Speeds are the fake's formula to 25 %,
    and the first use of an artifact shows its real time. At the end nothing but the table is left.
    """
    plan, heard = planned(study), []
    table, complete = record_sweep(plan, lambda *a: heard.append(a[3]), lambda: len(heard) >= 3, lambda: False)
    assert not complete and table.missing > 0 and load_table(plan.out).missing == table.missing
    before = [r.candidate for r in heard]
    table, complete = record_sweep(plan, lambda *a: heard.append(a[3]), lambda: False, lambda: False)
    assert complete and table.missing == 0 and len(table.points) == 12
    assert not {r.candidate for r in heard[3:]} & set(before)
    rejected = [p for p in table.points if p.state == "rejected"]
    assert len(rejected) == 6 and sum(not p.inferred for p in rejected) == 1
    assert {p.reject.reason for p in rejected if p.reject} == {"accuracy_too_low"}
    for point in table.points:
        if point.loads:
            assert point.items_per_s == pytest.approx(throughput_items_per_s(point.candidate), rel=0.25)
    assert {a.kind for a in table.artifacts} == {"variant", "engine", "accuracy"}
    assert all(a.seconds > 0 for a in table.artifacts)
    clean_up(plan)
    assert [p.name for p in plan.out.parent.glob("t.json.gz*")] == ["t.json.gz"]
    assert str(plan.out.parent).encode() not in gzip.decompress(plan.out.read_bytes()), "a table names no folders"


def test_the_order_is_random_repeatable_and_repeats_a_sixth_at_once(study: StudyPlan) -> None:
    """Each candidate once per pass; with repeats, some a second time later in the first pass, and never before the first."""
    plan = planned(study, repeats=2)
    plan = replace(plan, grid=plan.grid * 20)
    first = order_of(plan, 1)
    assert first == order_of(plan, 1) != sorted(first, key=lambda v: v.number)
    once = [v.number for v in first if v.nth == 1]
    again = [v.number for v in first if v.nth == 2]
    assert sorted(once) == list(range(1, 241)) and 20 <= len(again) <= 60
    assert all(first.index(v) > [x.number for x in first].index(v.number) for v in first if v.nth == 2)
    assert len(order_of(plan, 2)) == 240 and len(order_of(replace(plan, repeats=1), 1)) == 240


def record(c: Candidate, **changes: Any) -> TrialRecord:
    values: dict[str, Any] = {"started_at": "2026-01-01T00:00:00+00:00", "finished_at": "2026-01-01T00:00:09+00:00"}
    return TrialRecord(**({"number": 1, "role": "bench", "candidate": c, "state": "complete"} | values | changes))


def test_a_journal_of_another_sweep_is_refused(tmp_path: Path) -> None:
    """Its measurements would be of something else."""
    Journal.open(tmp_path / "j", "one", "now")
    with pytest.raises(SpecError, match="begun with another study, grid or machine"):
        Journal.open(tmp_path / "j", "two", "now")


def test_a_torn_line_is_cut_off(study: StudyPlan, tmp_path: Path) -> None:
    """Killed in the middle of writing, the last line is half: it counts as not written, and the journal goes on behind it."""
    journal = Journal.open(tmp_path / "j", "one", "now")
    journal.begin(1.0)
    journal.add(record(study.reference))
    with (tmp_path / "j").open("a") as handle:
        handle.write('{"record": {"num')
    found = Journal.open(tmp_path / "j", "one", "later")
    assert len(found.records[study.reference]) == 1 and found.spent_s == 9.0 and found.begun_at == "now"
    found.begin(2.0)
    assert Journal.open(tmp_path / "j", "one", "later").interrupted_at == 2.0


def test_what_an_interrupted_measurement_made_is_forgotten(tmp_path: Path) -> None:
    """Nobody knows how long its engine took; older artifacts stay."""
    journal = Journal.open(tmp_path / "j", "one", "now")
    old, new = tmp_path / "cache" / "engines" / "old", tmp_path / "cache" / "engines" / "new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 100, time.time() - 100))
    journal.begin(time.time() - 10)
    found = Journal.open(tmp_path / "j", "one", "now")
    found.forget_interrupted(tmp_path / "cache")
    assert old.exists() and not new.exists()


def test_a_rejection_is_shared_by_what_shares_its_artifact(study: StudyPlan) -> None:
    """Accuracy: all settings of the precision. Engine: those of the same batch. Load: nobody else."""
    c = planned(study).grid[0]
    others = {
        "streams": replace(c, streams=2),
        "batch": replace(c, batch_size=16),
        "precision": replace(c, precision="int8-tensor"),
    }

    def implied(stage: str) -> set[str]:
        known = [record(c, state="rejected", reject=Rejection(reason="x", stage=stage, message=""))]
        return {name for name, other in others.items() if implied_rejection(study, other, known)}

    assert implied("accuracy") == {"streams", "batch"} and implied("engine") == {"streams"} and implied("load") == set()


def test_times_are_those_of_the_trial_that_made_the_artifact(study: StudyPlan) -> None:
    """The engine took 2 s when it was built and 0.01 s when it was found; what no stage covers is 9 − 2 − 3 − 1 = 3 s."""
    c = planned(study).grid[0]
    stages = {"engine": 2.0, "open": 3.0, "accuracy": 1.0}
    made = record(c, stage_s=stages, engine_key="e", state="rejected", reject=Rejection(reason="x", stage="load", message="m"))
    found = replace(made, stage_s={**stages, "engine": 0.01}, cached=("engine", "accuracy"))
    for order in ([made, found], [found, made]):
        table = compiled_table(study, {}, [c], record(c, role="reference"), {c: order}, {"name": "m"}, {})
        (engine,) = [a for a in table.artifacts if a.kind == "engine"]
        assert engine.seconds == 2.0
        assert table.points[0].probe_s == 1.0 and table.points[0].open_s == 3.0
        assert table.points[0].other_s == pytest.approx((3.0 + 4.99) / 2)


def test_messages_name_no_folders() -> None:
    """A table is handed to others: of a path only the file's name is kept."""
    assert without_folders("no /a/b-c/d.onnx and /x/y z; 3/4 of it") == "no …/d.onnx and …/y z; 3/4 of it"
