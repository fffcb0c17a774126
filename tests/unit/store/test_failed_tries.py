"""Failed tries in the database, and finished trials that arrive late."""

from __future__ import annotations

from dataclasses import replace

from store_samples import complete

from autotune.records import Rejection
from autotune.store.failed_tries import FailedTry
from autotune.store.repository import Store
from autotune.store.worker import this_worker

WORKER = this_worker()
CRASH = Rejection(reason="worker_crashed", stage="load", message="SIGSEGV \x00")


def test_tries_are_counted_per_candidate_and_once(store: Store, study_id: int) -> None:
    """A try that is told twice counts once; another candidate's does not count."""
    mine, other = complete(0).candidate, replace(complete(0).candidate, batch_size=31)
    for _ in range(2):
        store.add_failed_try(study_id, "search", mine, WORKER, FailedTry(number=4, attempt=0, rejection=CRASH))
    found = store.failed_tries(study_id, "search", mine, 9)
    assert [(f.number, f.attempt, f.rejection.reason) for f in found] == [(4, 0, "worker_crashed")]
    assert store.failed_tries(study_id, "search", other, 9) == []
    assert store.failed_tries(study_id, "final", mine, 4) == []


def test_a_repetition_counts_its_own_tries_only(store: Store, study_id: int) -> None:
    """The canary fails now and then over days; only the tries of the same repetition count together."""
    mine = complete(0).candidate
    store.add_failed_try(study_id, "canary", mine, WORKER, FailedTry(number=4, attempt=0, rejection=CRASH))
    assert len(store.failed_tries(study_id, "canary", mine, 4)) == 1
    assert store.failed_tries(study_id, "canary", mine, 5) == []


def test_who_came_through_begins_anew(store: Store, study_id: int) -> None:
    """A crash before a complete trial of the candidate is history."""
    store.add_failed_try(study_id, "search", complete(0).candidate, WORKER, FailedTry(number=0, attempt=0, rejection=CRASH))
    store.save_finished(study_id, complete(1), WORKER)
    assert store.failed_tries(study_id, "search", complete(1).candidate, 2) == []


def test_a_dead_workers_trial_is_gone_and_counted(store: Store, study_id: int) -> None:
    """Buried once: the row goes, the try stays; a finished trial is not buried."""
    begun = store.begin_trial(study_id, 0, "search", complete(0).candidate, WORKER)
    assert store.bury_trial(study_id, begun, WORKER) and not store.bury_trial(study_id, begun, WORKER)
    assert store.running(study_id) == []
    (found,) = store.failed_tries(study_id, "search", complete(0).candidate, 1)
    assert found.rejection.reason == "worker_died" and WORKER.worker_id in found.rejection.message
    store.save_finished(study_id, complete(1), WORKER)
    assert not store.bury_trial(study_id, begun + 1, WORKER)


def test_a_late_record_is_stored_where_its_trial_waits(store: Store, study_id: int) -> None:
    """The usual way from the journal: the trial still runs for the database; twice is as good as once."""
    begun = store.begin_trial(study_id, 0, "search", complete(0).candidate, WORKER)
    assert store.bring_trial(study_id, begun, complete(0), WORKER) == "stored"
    assert store.bring_trial(study_id, begun, complete(0), WORKER) == "known"
    assert store.trials(study_id) == [complete(0, telemetry=())]


def test_a_late_record_is_stored_although_its_trial_was_put_back(store: Store, study_id: int) -> None:
    """Nothing measured is lost: the row is made anew, unless the candidate was measured since."""
    begun = store.begin_trial(study_id, 0, "search", complete(0).candidate, WORKER)
    store.discard_trial(begun)
    assert store.bring_trial(study_id, begun, complete(0), WORKER) == "stored"
    again = store.begin_trial(study_id, 1, "search", replace(complete(1).candidate, batch_size=31), WORKER)
    store.discard_trial(again)
    late = replace(complete(1), candidate=complete(0).candidate)
    assert store.bring_trial(study_id, again, late, WORKER) == "superseded"
    assert [r.number for r in store.trials(study_id)] == [0]


def test_a_late_repetition_has_lost_its_place(store: Store, study_id: int) -> None:
    """Its row named the round; another may have measured that since."""
    store.save_finished(study_id, complete(0), WORKER)
    begun = store.begin_repetition(study_id, complete(0), "final", 1, WORKER)
    assert begun is not None
    store.discard_trial(begun.trial_id)
    assert store.bring_trial(study_id, begun.trial_id, complete(0, role="final"), WORKER) == "superseded"


def test_a_repetition_whose_beginning_was_not_confirmed_is_ones_own(store: Store, study_id: int) -> None:
    """The commit arrived and the answer did not: asked again, the same worker gets the same repetition, another none."""
    store.save_finished(study_id, complete(0), WORKER)
    first = store.begin_repetition(study_id, complete(0), "final", 1, WORKER)
    assert first is not None and store.begin_repetition(study_id, complete(0), "final", 1, WORKER) == first
    assert store.begin_repetition(study_id, complete(0), "final", 1, replace(WORKER, worker_id="other")) is None


def test_a_single_heartbeat_does_not_wait(store: Store, study_id: int) -> None:
    """`beat_once` is for another thread: it neither repeats nor sleeps."""
    store.begin_trial(study_id, 0, "search", complete(0).candidate, WORKER)
    before = store.running(study_id)[0].heartbeat_at
    store.beat_once(WORKER.worker_id)
    assert store.running(study_id)[0].heartbeat_at >= before


def test_patience_ends_with_its_block(store: Store) -> None:
    """Inside `waiting` a call waits without end, after it as before."""
    before = store.patience.for_s
    with store.waiting(lambda: False, lambda text: None):
        assert store.patience.for_s == float("inf")
    assert store.patience.for_s == before
