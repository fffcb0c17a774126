from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from sqlalchemy import text, update
from store_samples import ENVIRONMENT, complete, estimate, rejected
from unit.study.study_samples import study

from autotune.cli.context import OpenStudy
from autotune.errors import SpecError, StoreError
from autotune.store.repository import Store
from autotune.store.studies import StudyRow, changed_keys
from autotune.store.tables import environments
from autotune.store.worker import this_worker

WORKER = this_worker()


def ensure(store: Store, **changes: object) -> StudyRow:
    given = {
        "name": "s", "spec_json": {"seed": 0, "space": {"precision": ["fp32", "int8"]}}, "spec_digest": "d",
        "model_digest": "m", "objectives": ("accuracy", "throughput"), "environment": ENVIRONMENT, "target": 60,
    }  # fmt: skip
    return store.ensure_study(**(given | changes))  # type: ignore[arg-type]


def test_a_study_is_made_once_and_found_again(store: Store) -> None:
    """Opening a study a second time, with another target, is the same study."""
    first = ensure(store)
    again = ensure(store, target=90)
    assert again == replace(first, target_trials=90)
    assert store.study("s") == again
    assert store.studies() == [again]
    assert store.study("other") is None
    assert store.environment(first.environment_key) == ENVIRONMENT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_digest": "n"}, "model: found n, the study has m"),
        ({"objectives": ("accuracy",)}, "objectives: found accuracy; the study has accuracy, throughput"),
        (
            {"spec_digest": "e", "spec_json": {"seed": 0, "space": {"precision": ["fp32"]}}},
            r"space.precision: ['fp32', 'int8'] → ['fp32']",
        ),
    ],
)
def test_what_a_study_is_about_cannot_change(store: Store, change: dict[str, object], said: str) -> None:
    """Another model, other objectives or other choices under the same name are refused, saying what differs and the way out."""
    before = ensure(store)
    with pytest.raises(SpecError) as caught:
        ensure(store, **change, target=1000)
    assert said in str(caught.value)
    assert "another name as `study:`" in str(caught.value)
    assert store.study("s") == before


def test_the_differences_of_two_specs_are_leaves() -> None:
    """Only the leaves that differ are named, with their path."""
    then, now = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert list(changed_keys(then, now)) == ["a.c: 2 → 4", "d: 3 → None", "e: None → 5"]


def test_a_front_is_what_was_last_set(store: Store, study_id: int) -> None:
    """Setting the front replaces it; the trials that stay keep the time since when they are in it."""
    for number in range(4):
        store.save_finished(study_id, complete(number), WORKER)
    store.save_finished(study_id, complete(1, role="reference"), WORKER)
    store.set_front(study_id, [1, 2])
    since = store._read(lambda c: c.execute(text("SELECT number, front_since FROM at_v_front ORDER BY number")).all())
    store.set_front(study_id, [3, 2])
    assert store.front_numbers(study_id) == (2, 3)
    assert [(t.number, t.role) for t in store.front(study_id)] == [(2, "search"), (3, "search")]
    later = store._read(lambda c: c.execute(text("SELECT number, front_since FROM at_v_front ORDER BY number")).all())
    assert later[0] == since[1]
    with pytest.raises(ValueError, match=r"\[9\]"):
        store.set_front(study_id, [9])
    store.set_front(study_id, [])
    assert store.front_numbers(study_id) == ()


def test_views_say_what_the_records_say(store: Store, study_id: int) -> None:
    """Reports and Grafana read views: one row per trial, per member of the front, per study and per sample."""
    store.set_study_state(study_id, "running")
    store.save_finished(study_id, complete(0), WORKER)
    store.save_finished(study_id, complete(1, throughput_items_per_s=estimate(900.0, 5.0)), WORKER)
    store.save_finished(study_id, rejected(2), WORKER)
    store.set_front(study_id, [0])

    def rows(sql: str) -> list[dict[str, object]]:
        return store._read(lambda c: [dict(r) for r in c.execute(text(sql)).mappings()])

    first, second, third = rows("SELECT * FROM at_v_trials ORDER BY number")
    assert (first["study"], first["precision"], first["batch_size"], first["in_front"]) == ("s", "int8", 8, 1)
    assert (first["accuracy"], first["latency_p99_ms"], first["power_w"]) == (0.7518, 0.1 + 0.2, None)
    assert (second["throughput_low_items_per_s"], second["throughput_high_items_per_s"], second["in_front"]) == (895, 905, 0)
    assert (third["reject_reason"], third["accuracy"]) == ("build_failed", None)
    assert [r["number"] for r in rows("SELECT * FROM at_v_front")] == [0]
    [study] = rows("SELECT * FROM at_v_studies")
    assert (study["state"], study["n_complete"], study["n_rejected"], study["n_front"]) == ("running", 2, 1, 1)
    assert study["best_throughput_items_per_s"] == 812.5
    samples = rows("SELECT t_s, value, absent FROM at_v_telemetry WHERE number = 0 AND metric = 'cpu_percent' ORDER BY t_s")
    assert [(r["t_s"], r["value"]) for r in samples] == [(0.1, 99.5), (0.2, 100.0), (0.3, 1e-17)]
    [absent] = rows("SELECT value, absent FROM at_v_telemetry WHERE number = 0 AND metric = 'power_w'")
    assert absent == {"value": None, "absent": "no RAPL counter: permission denied"}


def test_an_unknown_environment_is_an_error(store: Store) -> None:
    """A key that is not stored is said to be so."""
    with pytest.raises(StoreError, match="nope"):
        store.environment("nope")
    assert store.known_environment("nope") is None


def test_a_database_that_does_not_answer_is_no_unknown_environment(store: Store) -> None:
    """Else a warm start would leave every earlier study aside, and a bundle would say nothing, during an outage."""
    key = ensure(store).environment_key
    with store._writer.begin() as connection:
        connection.execute(text("ALTER TABLE at_environments RENAME TO elsewhere"))
    with pytest.raises(StoreError):
        store.known_environment(key)


def test_an_environment_of_another_version_is_an_error_of_the_store(store: Store) -> None:
    """A field that this version does not know: said as such, so that a warm start leaves the study aside. Without the
    instructions that an earlier version did not know it is read."""
    key = ensure(store).environment_key
    then = {k: v for k, v in asdict(ENVIRONMENT).items() if k != "instructions"}
    _write_environment(store, key, then)
    assert store.environment(key) == ENVIRONMENT
    _write_environment(store, key, {**then, "colour": "red"})
    with pytest.raises(StoreError, match=r"another version.*colour.*Try: update autotune"):
        store.environment(key)
    opened = OpenStudy(store=store, row=ensure(store), spec=study())
    assert opened.environment() is None, "a report or a bundle of that study says nothing of it"


def _write_environment(store: Store, key: str, fingerprint: dict[str, object]) -> None:
    with store._writer.begin() as connection:
        connection.execute(update(environments).where(environments.c.key == key).values(fingerprint=fingerprint))
