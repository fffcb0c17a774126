from __future__ import annotations

import math
from dataclasses import replace

import pytest
from sqlalchemy import text
from store_samples import VARIANT, candidate, complete, estimate, rejected

from autotune.errors import StoreError
from autotune.records import Rejection, Series, TrialRecord
from autotune.store.repository import Store
from autotune.store.worker import this_worker

WORKER = this_worker()


def bare(record: TrialRecord) -> TrialRecord:
    return replace(record, telemetry=())


def test_a_record_comes_back_as_it_went_in(store: Store, study_id: int) -> None:
    """Every field of a TrialRecord survives the database, to the last bit; telemetry is read on its own."""
    record = complete(3)
    assert store.finish_trial(store.begin_trial(study_id, 3, "search", record.candidate, WORKER), record)
    assert store.trial(study_id, 3) == bare(record)
    assert store.trials(study_id) == [bare(record)]
    assert store.telemetry(study_id, 3) == record.telemetry


def test_each_outcome_is_a_row_with_its_reason(store: Store, study_id: int) -> None:
    """Rejected and crashed trials are kept with reason, stage and message; what was not measured stays None."""
    crash = rejected(1, state="crashed", reject=Rejection(reason="worker_crashed", stage="load", message="signal 11"))
    for record in (rejected(0), crash):
        store.save_finished(study_id, record, WORKER)
    assert store.trials(study_id) == [rejected(0), crash]
    assert store.trials(study_id, states=["crashed"]) == [crash]
    assert store.counts(study_id) == {"running": 0, "complete": 0, "rejected": 1, "crashed": 1}


def test_roles_number_their_trials_apart(store: Store, study_id: int) -> None:
    """The reference, the search and bench each count from 0, and counts speak of the search unless told otherwise."""
    records = [complete(0, role="reference"), complete(0), complete(1), complete(0, role="bench")]
    for record in records:
        store.save_finished(study_id, record, WORKER)
    assert store.trials(study_id, roles=["reference"]) == [bare(records[0])]
    assert store.counts(study_id)["complete"] == 2
    assert store.counts(study_id, roles=["bench"])["complete"] == 1
    assert store.next_number(study_id, "bench") == 1
    assert store.next_number(study_id, "search") == 2


def test_finishing_twice_keeps_what_was_stored_first(store: Store, study_id: int) -> None:
    """A finish whose commit was lost sight of can be repeated, and nothing is stored twice or changed."""
    trial_id = store.begin_trial(study_id, 0, "search", candidate(), WORKER)
    assert store.finish_trial(trial_id, complete(0))
    assert not store.finish_trial(trial_id, complete(0))
    assert not store.finish_trial(trial_id, rejected(0))
    assert store.trials(study_id) == [bare(complete(0))]
    assert len(store.telemetry(study_id, 0)) == 2


def test_saving_twice_is_one_trial_but_another_of_its_number_is_refused(store: Store, study_id: int) -> None:
    """save_finished may be repeated with the same record; a different one of that number is a mistake of the caller."""
    assert store.save_finished(study_id, complete(0), WORKER)
    assert not store.save_finished(study_id, complete(0), WORKER)
    with pytest.raises(StoreError, match="next free number"):
        store.save_finished(study_id, rejected(0), WORKER)


def test_a_running_trial_shows_who_has_it(store: Store, study_id: int) -> None:
    """A begun trial names its worker and the age of its heartbeat, in seconds by the database's clock."""
    trial_id = store.begin_trial(study_id, 0, "search", candidate(), WORKER)
    [running] = store.running(study_id)
    assert (running.trial_id, running.number, running.worker, running.candidate) == (trial_id, 0, WORKER, candidate())
    assert 0 <= running.heartbeat_age_s < 30
    assert store.heartbeat(WORKER.worker_id) == 1
    assert store.trial(study_id, 0).state == "running"
    store.finish_trial(trial_id, complete(0))
    assert store.running(study_id) == []
    assert store.heartbeat(WORKER.worker_id) == 0


def test_a_running_trial_can_be_taken_over_or_put_back(store: Store, study_id: int) -> None:
    """Beginning a running trial again moves it to the new worker; discarding removes it; a finished one stays."""
    trial_id = store.begin_trial(study_id, 0, "search", candidate(), WORKER)
    other = this_worker()
    assert store.begin_trial(study_id, 0, "search", candidate(batch_size=2), other) == trial_id
    [running] = store.running(study_id)
    assert (running.worker, running.candidate.batch_size) == (other, 2)
    assert store.discard_trial(trial_id)
    assert store.trials(study_id) == []
    with pytest.raises(StoreError, match="discarded"):
        store.finish_trial(trial_id, complete(0))
    store.save_finished(study_id, complete(0), WORKER)
    [(again,)] = store._read(lambda c: c.execute(text("SELECT id FROM at_trials")).all())
    assert again > trial_id
    assert not store.discard_trial(again)


def test_a_finished_candidate_is_found_again(store: Store, study_id: int) -> None:
    """Equal knobs are found whatever the number: a complete trial before a rejected one, never a crash or a bench."""
    store.save_finished(study_id, complete(0, role="bench"), WORKER)
    store.save_finished(study_id, rejected(0, state="crashed"), WORKER)
    assert store.find_finished(study_id, candidate()) is None
    store.save_finished(study_id, complete(1), WORKER)
    store.save_finished(study_id, rejected(2), WORKER)
    assert store.find_finished(study_id, candidate()) == bare(complete(1))
    assert store.find_finished(study_id, candidate(batch_size=9)) is None


def test_a_number_that_is_not_finite_is_never_stored(store: Store, study_id: int) -> None:
    """NaN and infinity in a result are refused whole; a telemetry sample that is not finite is left out."""
    with pytest.raises(ValueError, match=r"accuracy\.value is nan"):
        store.save_finished(study_id, complete(0, accuracy=estimate(math.nan)), WORKER)
    with pytest.raises(ValueError, match="peak_memory_mib is inf"):
        store.save_finished(study_id, complete(0, peak_memory_mib=math.inf), WORKER)
    assert store.trials(study_id) == []
    series = Series(metric="m", unit="", t_s=(0.0, 0.1, 0.2), values=(1.0, math.nan, 3.0))
    store.save_finished(study_id, complete(0, telemetry=(series,)), WORKER)
    assert store.telemetry(study_id, 0)[0].values == (1.0, 3.0)
    assert store.telemetry(study_id, 0)[0].t_s == (0.0, 0.2)


def test_text_that_a_database_cannot_hold_does_not_lose_the_trial(store: Store, study_id: int) -> None:
    """A dying engine's message may hold NUL and broken Unicode; the trial is stored with replacement characters."""
    broken = Rejection(reason="worker_crashed", stage="load", message="a\x00b\ud800c")
    store.save_finished(study_id, rejected(0, reject=broken), WORKER)
    found = store.trial(study_id, 0).reject
    assert found is not None and found.message == "a\N{REPLACEMENT CHARACTER}b?c"


def test_a_variant_of_one_key_keeps_each_trials_own_notes(store: Store, study_id: int) -> None:
    """The same key made on two hosts may differ in its notes; each trial returns its own."""
    other = replace(VARIANT, notes=("made elsewhere",))
    store.save_finished(study_id, complete(0), WORKER)
    store.save_finished(study_id, complete(1, variant=other), WORKER)
    assert [t.variant for t in store.trials(study_id)] == [VARIANT, other]


def test_a_record_of_another_trial_is_refused(store: Store, study_id: int) -> None:
    """A record cannot be stored under another trial's id, nor while it still runs."""
    trial_id = store.begin_trial(study_id, 0, "search", candidate(), WORKER)
    with pytest.raises(ValueError, match="search trial 1"):
        store.finish_trial(trial_id, complete(1))
    with pytest.raises(ValueError, match="only a finished trial"):
        store.finish_trial(trial_id, complete(0, state="running"))


def test_a_missing_trial_says_how_to_see_the_others(store: Store, study_id: int) -> None:
    """Asking for a number that is not there names the role, the number and the command."""
    with pytest.raises(StoreError, match=r"no search trial 7 .*autotune trials"):
        store.trial(study_id, 7)
