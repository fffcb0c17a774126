"""Reading a study in columns and counts, on every database: the same as reading it whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from store_samples import ENVIRONMENT, complete, estimate, rejected

from autotune.records import Regime
from autotune.store.repository import Store
from autotune.store.worker import this_worker


def fill(store: Store, study_id: int) -> None:
    """Trials 1 to 3 complete, the second repeated, 4 and 5 rejected, 6 crashed; a reference."""
    worker = this_worker()
    store.save_finished(study_id, complete(0, role="reference"), worker)
    for number in (1, 2, 3):
        found = complete(number, throughput_items_per_s=estimate(100.0 * number, 5.0), load=None)
        store.save_finished(study_id, found, worker)
    for number in (4, 5):
        store.save_finished(study_id, rejected(number), worker)
    store.save_finished(study_id, rejected(6, state="crashed"), worker)
    begun = store.begin_repetition(study_id, store.trial(study_id, 2), "final", 1, worker)
    assert begun is not None
    store.finish_trial(begun.trial_id, complete(begun.number, role="final"))


def test_columns_hold_what_the_records_hold(store: Store, study_id: int) -> None:
    """Values in the order of numbers, NaN where nothing was measured, and the throughput that is reported."""
    fill(store, study_id)
    store.set_reported(study_id, {("search", 3): {"throughput_items_per_s": estimate(300.0, 50.0)}})
    found = store.outcomes(study_id, ["throughput_items_per_s", "accuracy", "within_slo"])
    records = store.trials(study_id, ("complete", "rejected", "crashed"), ("search",))
    assert list(found.number) == [1, 2, 3, 4, 5, 6] and len(found) == 6
    assert list(found.complete) == [r.state == "complete" for r in records]
    assert list(found.repeated) == [False, True, False, False, False, False] and not found.failed_again.any()
    rates = found.measured["throughput_items_per_s"]
    np.testing.assert_array_equal(rates.value, [100, 200, 300, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(rates.low, [95, 195, 250, np.nan, np.nan, np.nan])
    wanted = [np.nan if r.accuracy is None else r.accuracy.value for r in records]
    np.testing.assert_array_equal(found.measured["accuracy"].value, wanted)
    assert np.isnan(found.measured["within_slo"].value).all() and np.isnan(found.slo_percentile).all()
    assert list(found.precision) == ["int8"] * 6
    assert len(store.outcomes(study_id + 1, ["accuracy"])) == 0


def test_regimes_count_from_when_a_trial_began(store: Store, study_id: int) -> None:
    """A trial that began after a change is of the second regime, in the columns as in its record."""
    fill(store, study_id)
    since = complete().started_at or ""
    store.add_regime(study_id, Regime(number=2, since=since, steady_until=since, ratio=0.9, reason="slower"))
    found = store.outcomes(study_id, ["accuracy"])
    assert list(found.regime) == [r.regime for r in store.trials(study_id, None, ("search",))]
    assert 2 in found.regime


def test_the_pulse_moves_with_every_change(store: Store, study_id: int) -> None:
    """It is the same as long as nothing happens, and another after a trial began, after it ended, and after a change."""
    fill(store, study_id)
    pulses = [store.pulse(study_id), store.pulse(study_id)]
    assert pulses[0] == pulses[1]
    trial_id = store.begin_trial(study_id, 7, "search", complete(7).candidate, this_worker())
    pulses.append(store.pulse(study_id))
    assert pulses[-1].under_way == {trial_id} and pulses[-1].newest_id == trial_id
    store.finish_trial(trial_id, complete(7))
    pulses.append(store.pulse(study_id))
    since = complete().started_at or ""
    store.add_regime(study_id, Regime(number=2, since=since, steady_until=since, ratio=0.9, reason="slower"))
    pulses.append(store.pulse(study_id))
    assert all(a != b for a, b in pairwise(pulses[1:]))
    assert pulses[-1].n_finished("search") == 7 and pulses[-1].n_finished("final", "reference") == 2


def test_parts_of_a_study(store: Store, study_id: int) -> None:
    """By number, the newest, a page before, by state, repeated, since an id, by flag: each the very records."""
    fill(store, study_id)
    whole = {r.number: r for r in store.trials(study_id, None, ("search",))}
    assert store.numbered(study_id, [5, 1, 99]) == [whole[1], whole[5]] and store.numbered(study_id, []) == []
    assert store.last(study_id, 2) == [whole[5], whole[6]]
    assert store.last(study_id, 2, before=5) == [whole[3], whole[4]]
    assert store.last(study_id, 9, ("rejected",)) == [whole[4], whole[5]]
    assert [(r.role, r.number) for r in store.repeated(study_id)] == [("reference", 0), ("search", 2)]
    assert [n for n, _ in store.digests(study_id)] == list(whole)
    newest = store.pulse(study_id).newest_id
    assert store.finished_since(study_id, newest, ()) == [] and len(store.finished_since(study_id, 0, ())) == 6
    store.save_finished(study_id, complete(8, flags=("warm_start:other",)), this_worker())
    assert [r.number for r in store.flagged(study_id, "warm_start:")] == [8]
    assert [run.number for run in store.single_runs(study_id)] == [1, 3, 8]
    assert store.measured_s(study_id, ("search",)) == sum(r.duration_s for r in store.trials(study_id, None, ("search",)))


def test_rejections_are_counted_by_reason(store: Store, study_id: int) -> None:
    """The most frequent first, with what the first of each said."""
    fill(store, study_id)
    found = [(r.state, r.reason, r.stage, r.n) for r in store.rejections(study_id)]
    assert found == [("rejected", "build_failed", "engine", 2), ("crashed", "build_failed", "engine", 1)]
    assert store.rejections(study_id)[0].message.startswith("no kernel for 'Foo'")


def test_every_study_at_a_glance(store: Store, study_id: int) -> None:
    """Counts, repetitions, and of the stored front the fastest, or the best in the last objective where speed is none."""
    fill(store, study_id)
    store.set_front(study_id, [1, 3])
    other = store.ensure_study("b", {}, "spec", "model", ("accuracy", "memory"), ENVIRONMENT, 5).id
    for number, mib in ((1, 900.0), (2, 300.0)):
        store.save_finished(other, complete(number, peak_memory_mib=mib), this_worker())
    store.set_front(other, [1, 2])
    store.ensure_study("empty", {}, "spec", "model", ("accuracy",), ENVIRONMENT, 5)
    b, empty, s = store.summaries()
    assert (b.name, empty.name, s.name) == ("b", "empty", "s")
    assert s.n_trials == {"running": 0, "complete": 3, "rejected": 2, "crashed": 1} and s.n_repetitions == 1
    assert s.best == store.trial(study_id, 3) and b.best == store.trial(other, 2)
    assert empty.best is None and sum(empty.n_trials.values()) == 0
