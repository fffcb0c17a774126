"""Warm start: which earlier studies count, what is taken from them, and how its gain is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_samples import candidate, record, study

from autotune.candidate import Candidate, Choices
from autotune.fingerprint import DeviceFingerprint
from autotune.store.repository import Store, open_store
from autotune.store.studies import StudyRow
from autotune.store.worker import this_worker
from autotune.study.plan import make_plan
from autotune.study.warm_start import FLAG, kin_of, warm_candidates, warm_flags, warm_start_gain

HERE = DeviceFingerprint(device="CPU A × 2", kind="cpu", cores=2, memory_mib=4096, system="Linux", versions={})
ELSEWHERE = replace(HERE, device="CPU B × 8")
SPACE = {"precision": Choices(values=("fp32", "fp16")), "batch_size": Choices(values=(1, 2, 4, 8, 16))}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"sqlite:///{tmp_path / 'study.db'}")


def add(store: Store, name: str, model: str, device: DeviceFingerprint, front: dict[int, float]) -> StudyRow:
    """A study whose front is one trial per batch size, with these items/s."""
    row = store.ensure_study(name, {}, "digest", model, ("accuracy", "throughput"), device, 9)
    for number, (batch, rate) in enumerate(front.items(), start=1):
        found = replace(record(number, rate=rate), candidate=candidate(batch_size=batch))
        store.save_finished(row.id, found, this_worker())
    store.set_front(row.id, range(1, len(front) + 1))
    return row


def space(**sections: Any) -> Any:
    return make_plan(study(**({"space": SPACE} | sections))).space


def test_kin_are_the_same_model_or_the_same_device_nearest_first(store: Store) -> None:
    """Another model on another device, a study without a front and the study itself are none."""
    add(store, "stranger", "other", ELSEWHERE, {1: 1.0})
    add(store, "other-model", "other", HERE, {2: 1.0})
    add(store, "other-device", "mine", ELSEWHERE, {4: 1.0})
    add(store, "renamed", "mine", HERE, {8: 1.0})
    add(store, "empty", "mine", HERE, {})
    mine = add(store, "new", "mine", HERE, {16: 1.0})
    assert [k.study.name for k in kin_of(store, mine, HERE)] == ["renamed", "other-device", "other-model"]
    assert str(kin_of(store, mine, HERE)[1]) == "other-device (the same model on another device, CPU B × 8)"


def test_a_cpu_with_other_instructions_is_another_device(store: Store) -> None:
    """Whatever its name: what was best with AMX says less of a CPU without, and nothing of another model there."""
    plain, amx = (replace(HERE, instructions=i) for i in (("avx2",), ("amx_bf16", "avx2")))
    add(store, "other-model", "other", amx, {2: 1.0})
    add(store, "with-amx", "mine", amx, {4: 1.0})
    add(store, "before", "mine", HERE, {8: 1.0})
    mine = add(store, "new", "mine", plain, {16: 1.0})
    assert [str(k).partition(" (")[0] for k in kin_of(store, mine, plain)] == ["before", "with-amx"]
    assert kin_of(store, mine, plain)[1].kinship == 1


def test_the_best_of_each_comes_before_the_second_of_any(store: Store) -> None:
    """Fastest first within a study; a candidate that two studies share counts once, for the nearer one."""
    add(store, "a", "mine", HERE, {1: 10.0, 2: 30.0, 4: 20.0})
    add(store, "b", "mine", ELSEWHERE, {2: 5.0, 16: 4.0})
    found = warm_candidates(kin_of(store, add(store, "new", "mine", HERE, {}), HERE), space(), at_most=3)
    assert [(c.batch_size, origin) for c, origin in found.items()] == [(2, "a"), (4, "a"), (16, "b")]


def test_of_other_models_one_candidate_comes_over(store: Store) -> None:
    """The fastest of the newest study; none where a study was of this model, and none where none is wanted."""
    add(store, "older", "other", HERE, {1: 10.0, 2: 30.0})
    add(store, "newer", "another", HERE, {4: 20.0, 8: 40.0})
    new = add(store, "new", "mine", HERE, {})
    found = warm_candidates(kin_of(store, new, HERE), space(), at_most=6)
    assert [(c.batch_size, origin) for c, origin in found.items()] == [(8, "newer")]
    assert warm_candidates(kin_of(store, new, HERE), space(), at_most=0) == {}
    add(store, "elsewhere", "mine", ELSEWHERE, {1: 5.0, 16: 4.0})
    found = warm_candidates(kin_of(store, new, HERE), space(), at_most=6)
    assert [(c.batch_size, origin) for c, origin in found.items()] == [(1, "elsewhere"), (16, "elsewhere")]


def test_candidates_move_into_the_new_space(store: Store) -> None:
    """A batch that this space lacks becomes its nearest one; a precision that it lacks leaves the candidate out."""
    row = store.ensure_study("a", {}, "digest", "mine", ("accuracy", "throughput"), HERE, 9)
    for number, c in enumerate((candidate(batch_size=100), candidate(precision="int8", batch_size=2)), start=1):
        store.save_finished(row.id, replace(record(number, rate=10.0 * number), candidate=c), this_worker())
    store.set_front(row.id, (1, 2))
    found = warm_candidates(kin_of(store, add(store, "new", "mine", HERE, {}), HERE), space(), at_most=9)
    assert [c.batch_size for c in found] == [16]


def trial(number: int, rate: float, origin: str = "", **changes: Any) -> Any:
    flags = (FLAG + origin,) if origin else ()
    return replace(record(number, rate=rate, half=0.0), candidate=candidate(batch_size=number), flags=flags, **changes)


def test_the_gain_is_told_against_the_trials_of_the_search() -> None:
    """90 of the best 100 items/s came from the earlier study, which the others reached with their third trial."""
    found = warm_start_gain(
        [trial(1, 90, "earlier"), trial(2, 50, "earlier"), trial(3, 60), trial(4, 80), trial(5, 100)], study(space=SPACE)
    )
    assert found is not None
    assert (found.n_trials, found.n_others, found.others_caught_up_after) == (2, 3, 3)
    assert found.share_of_best == pytest.approx(0.9)
    assert (
        str(found)
        == "warm start: 2 first trials from earlier reached 90% of the best throughput; the others were so at their 3."
    )


def test_no_gain_is_claimed_where_there_is_none() -> None:
    """Without trials from elsewhere there is nothing to tell; trials that break the constraints gained nothing."""
    spec = study(space=SPACE, constraints={"throughput": 95})
    assert warm_start_gain([trial(1, 100)], spec) is None
    found = warm_start_gain([trial(1, 90, "earlier"), trial(2, 100)], spec)
    assert found is not None and found.share_of_best is None
    assert str(found) == "warm start: 1 first trial from earlier; none of them kept to the constraints"


def test_a_flag_names_the_study() -> None:
    """Only candidates that came from a study carry it."""
    there: dict[Candidate, str] = {candidate(batch_size=2): "earlier"}
    assert warm_flags(there, candidate(batch_size=2)) == ("warm_start:earlier",)
    assert warm_flags(there, candidate(batch_size=4)) == ()
