"""What is found on columns is what `scoring` finds on whole records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stored_study import StoredStudy

from autotune.spec.model import ConstraintsSpec
from autotune.study.scoring import best, best_ties, front, is_feasible, ties_of
from autotune.study.standing import Standing

LIMITED = ConstraintsSpec(accuracy_drop=0.02, latency_p99_ms=10.0, memory_mib=200, throughput=60.0)
STUDIES: list[dict[str, Any]] = [
    {},
    {"constraints": ConstraintsSpec(accuracy_drop=0.02)},
    {"constraints": LIMITED, "objectives": ("throughput", "latency_p99")},
    {"objectives": ("memory", "cost"), "price_per_hour": 2.0},
    {"objectives": ("throughput",), "constraints": ConstraintsSpec(accuracy=0.85)},
]


def check(study: StoredStudy) -> None:
    standing, records = Standing(study.store, study.id, study.spec), study.finished()
    members = front(records, study.spec)
    assert standing.front == members
    assert standing.ties() == ties_of(members, records, study.spec)
    assert [r.number for r in records if is_feasible(r, study.spec)] == list(standing.outcomes.number[standing.feasible])
    for prefer in ("", "accuracy", "latency_p99", "memory"):
        standing = Standing(study.store, study.id, study.spec, prefer)
        assert standing.best_ties(prefer) == [r.number for r in best_ties(records, study.spec, prefer)]
        assert standing.best(prefer) == best(records, study.spec, prefer)


@pytest.mark.parametrize("seed", range(len(STUDIES)))
def test_columns_tell_what_records_tell(seed: int, tmp_path: Path) -> None:
    """Front, ties and best of thirty random trials, then with finalists, one of which fails, and after the machine changed."""
    study = StoredStudy(tmp_path, seed, **STUDIES[seed])
    check(study)
    study.add(30)
    check(study)
    some = front(study.finished(), study.spec)[:4]
    some += [r for r in study.finished() if r.state == "complete" and r.number not in {s.number for s in some}][:3]
    for round_ in (1, 2, 3):
        for record in some:
            study.repeat(record, "final", round_, fails=record is some[1] and round_ == 2)
    study.add(10)
    check(study)
    study.change()
    study.add(10)
    check(study)
    for record in front(study.finished(), study.spec)[:2]:
        study.repeat(record, "final", 4)
    study.add(10)
    check(study)
    assert len(Standing(study.store, study.id, study.spec)) == 60
