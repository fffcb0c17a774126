"""Repetitions, regimes and reported throughput: each once, cascading with their trial, and never over what was measured."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sqlalchemy import text
from store_samples import as_measured, complete, estimate, rejected

from autotune.errors import StoreError
from autotune.records import FAILED_AGAIN, LatencySummary, Regime, Repetition, TrialRecord, with_reported
from autotune.store.repository import Store
from autotune.store.worker import this_worker

WORKER = this_worker()
RATE = "throughput_items_per_s"
LATER = "2026-03-01T13:00:00.000+00:00"


@pytest.fixture
def first(store: Store, study_id: int) -> TrialRecord:
    """A stored search trial."""
    store.save_finished(study_id, complete(3), WORKER)
    return store.trial(study_id, 3)


def repeated(store: Store, study_id: int, of: TrialRecord, round_: int, **changes: object) -> None:
    begun = store.begin_repetition(study_id, of, "final", round_, WORKER)
    assert begun is not None and begun.candidate == of.candidate
    store.finish_trial(begun.trial_id, complete(begun.number, role="final", **changes))


def test_a_repetition_belongs_to_its_trial(store: Store, study_id: int, first: TrialRecord) -> None:
    """It is read with the trial, numbered by its own role, and counts for no search."""
    repeated(store, study_id, first, 1, throughput_items_per_s=estimate(800.0))
    repeated(store, study_id, first, 2, throughput_items_per_s=estimate(790.0))
    found = store.trial(study_id, 3)
    assert [(p.role, p.round, p.regime, p.state) for p in found.repetitions] == [
        ("final", 1, 1, "complete"),
        ("final", 2, 1, "complete"),
    ]
    assert [p.throughput_items_per_s for p in found.repetitions] == [estimate(800.0), estimate(790.0)]
    assert as_measured(found) == as_measured(first)
    assert store.counts(study_id)["complete"] == 1
    assert [r.number for r in store.trials(study_id, roles=["final"])] == [0, 1]


def test_nobody_measures_a_round_twice(store: Store, study_id: int, first: TrialRecord) -> None:
    """Under way or finished: who asks second is told so. One that was put back may be asked for again."""
    begun = store.begin_repetition(study_id, first, "final", 1, WORKER)
    assert begun is not None
    assert store.begin_repetition(study_id, first, "final", 1, replace(WORKER, worker_id="another")) is None
    assert store.trial(study_id, 3).repetitions == ()
    assert store.discard_trial(begun.trial_id)
    repeated(store, study_id, first, 1)
    assert store.begin_repetition(study_id, first, "final", 1, WORKER) is None
    assert store.begin_repetition(study_id, first, "canary", 1, WORKER) is not None


def test_only_stored_trials_can_be_repeated(store: Store, study_id: int) -> None:
    """There is nothing to belong to."""
    with pytest.raises(StoreError, match="search trial 9"):
        store.begin_repetition(study_id, complete(9), "final", 1, WORKER)


def test_a_failed_repetition_flags_its_trial(store: Store, study_id: int, first: TrialRecord) -> None:
    """What crashed in a later process has no throughput there, and its trial says so."""
    begun = store.begin_repetition(study_id, first, "final", 1, WORKER)
    assert begun is not None
    store.finish_trial(begun.trial_id, rejected(begun.number, role="final", state="crashed"))
    found = store.trial(study_id, 3)
    assert found.repetitions[0].throughput_items_per_s is None and found.repetitions[0].state == "crashed"
    assert FAILED_AGAIN in found.flags and found.throughput_items_per_s == first.throughput_items_per_s


def test_what_is_reported_stands_beside_what_was_measured(store: Store, study_id: int, first: TrialRecord) -> None:
    """It can be learnt anew as often as needed, is shown by record and view, and finishing again does not touch it."""
    store.set_reported(study_id, {("search", 3): {RATE: estimate(700.0)}, ("search", 99): {RATE: estimate(1.0)}})
    store.set_reported(study_id, {("search", 3): {RATE: estimate(750.0)}})
    found = store.trial(study_id, 3)
    assert (found.throughput_items_per_s, found.throughput_one_run) == (estimate(750.0), first.throughput_items_per_s)
    with store._reader.begin() as connection:
        rows = connection.execute(
            text("SELECT throughput_items_per_s, throughput_one_run_items_per_s, n_repetitions, regime FROM at_v_trials")
        ).all()
    assert [tuple(r) for r in rows] == [(750.0, 812.5, 0, 1)]


def test_latency_and_energy_are_reported_as_throughput_is(store: Store, study_id: int, first: TrialRecord) -> None:
    """Each metric by itself; what is not reported anew stays; the load's own values stand beside, in record, JSON and view."""
    store.set_reported(study_id, {("search", 3): {"latency_p99": estimate(0.5), "energy_j_per_item": estimate(0.05)}})
    store.set_reported(study_id, {("search", 3): {"latency_p99": estimate(0.4)}})
    found = store.trial(study_id, 3)
    assert found.latency_ms == replace(first.latency_ms, p99=estimate(0.4))
    assert found.latency_one_run_ms == LatencySummary(p99=first.latency_ms.p99)
    assert (found.energy_j_per_item, found.energy_one_run_j_per_item) == (estimate(0.05), first.energy_j_per_item)
    assert (found.throughput_items_per_s, found.throughput_one_run) == (first.throughput_items_per_s, None)
    assert TrialRecord.from_json(found.as_json()) == found and with_reported(found, {}) == first
    with store._reader.begin() as connection:
        rows = connection.execute(
            text("SELECT latency_p50_ms, latency_p99_ms, latency_p99_one_run_ms, energy_j_per_item FROM at_v_trials")
        ).all()
    assert [tuple(r) for r in rows] == [(9.81, 0.4, 0.1 + 0.2, 0.05)]
    (run,) = store.single_runs(study_id, ["latency_p99", "latency_p50"])
    assert run.own == {"latency_p50": first.latency_ms.p50, "latency_p99": first.latency_ms.p99}
    assert run.reported == {"latency_p99": estimate(0.4)}


def test_a_repetition_brings_its_latency(store: Store, study_id: int, first: TrialRecord) -> None:
    """All that its load measured, one repetition for each although it has many rows; a failed one has none."""
    repeated(store, study_id, first, 1, latency_ms=LatencySummary(p50=estimate(9.0), p99=estimate(0.2)))
    begun = store.begin_repetition(study_id, first, "final", 2, WORKER)
    assert begun is not None
    store.finish_trial(begun.trial_id, rejected(begun.number, role="final", state="crashed"))
    one, failed = store.trial(study_id, 3).repetitions
    assert one.latency_ms == LatencySummary(p50=estimate(9.0), p99=estimate(0.2)) and one.energy_j_per_item == estimate(0.0421)
    assert failed.latency_ms == LatencySummary() and failed.throughput_items_per_s is None
    assert Repetition.from_json(asdict(one)) == one


def test_trials_belong_to_the_regime_in_which_they_began(store: Store, study_id: int, first: TrialRecord) -> None:
    """The first regime has no row; a repetition may be of a later one than its trial, which is then reported for that."""
    assert store.regimes(study_id) == []
    regime = Regime(number=2, since=LATER, steady_until=LATER, ratio=0.84, reason="slower")
    assert store.add_regime(study_id, regime) and not store.add_regime(study_id, replace(regime, ratio=0.5))
    assert store.regimes(study_id) == [regime]
    store.save_finished(study_id, complete(4, started_at="2026-03-01T13:00:00.001+00:00"), WORKER)
    assert [r.regime for r in store.trials(study_id)] == [1, 2]
    repeated(store, study_id, first, 1, started_at=LATER)
    assert store.trial(study_id, 3).regime == 2


def test_views_of_repetitions_and_regimes(store: Store, study_id: int, first: TrialRecord, tmp_path: Path) -> None:
    """Grafana reads which trial was measured again with what result, and when the machine changed."""
    repeated(store, study_id, first, 1, throughput_items_per_s=estimate(800.0))
    store.add_regime(study_id, Regime(number=2, since=LATER, steady_until=LATER, ratio=0.84, reason="slower"))
    with store._reader.begin() as connection:
        again = connection.execute(
            text("SELECT study, role, round, of_role, of_number, throughput_items_per_s FROM at_v_repetitions")
        )
        assert [tuple(r) for r in again] == [("s", "final", 1, "search", 3, 800.0)]
        assert [tuple(r) for r in connection.execute(text("SELECT study, regime, ratio FROM at_v_regimes"))] == [("s", 2, 0.84)]


def test_workers_may_learn_at_once(store: Store, study_id: int, first: TrialRecord) -> None:
    """Four that write what is reported, each its own number, twenty times over: none fails, one of them stays."""
    from concurrent.futures import ThreadPoolExecutor

    def write(n: int) -> None:
        for _ in range(20):
            store.set_reported(study_id, {("search", 3): {RATE: estimate(700.0 + n)}})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    found = store.trial(study_id, 3).throughput_items_per_s
    assert found is not None and found.value in {700.0, 701.0, 702.0, 703.0}
