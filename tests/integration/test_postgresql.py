from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from autotune.candidate import Candidate
from autotune.errors import StoreError
from autotune.fingerprint import cpu_fingerprint
from autotune.records import Estimate, TrialRecord
from autotune.store.repository import Store, open_store
from autotune.store.worker import this_worker

if TYPE_CHECKING:
    from tests.conftest import PostgresqlServer


def record(number: int) -> TrialRecord:
    estimate = Estimate(value=1.5, low=1.25, high=1.75, n=10, method="t")
    candidate = Candidate(
        engine="fake",
        precision="fp32",
        pruning_ratio=0.0,
        batch_size=1 + number,
        streams=1,
        worker_threads=1,
        memory_pool_mib=None,
    )
    return TrialRecord(number=number, state="complete", candidate=candidate, throughput_items_per_s=estimate)


def begin_study(store: Store) -> int:
    return store.ensure_study("s", {}, "d", "m", ("accuracy", "throughput"), cpu_fingerprint(), 60).id


def test_a_restart_of_the_server_is_survived(
    postgresql_server: PostgresqlServer, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker goes on through a crash of the server: everything told as stored is there once, and no password is logged."""
    store, worker = open_store(postgresql_url), this_worker()
    study_id = begin_study(store)
    store.save_finished(study_id, record(0), worker)
    trial_id = store.begin_trial(study_id, 1, "search", record(1).candidate, worker)
    postgresql_server.stop()
    back = threading.Timer(2.0, postgresql_server.start)
    back.start()
    with caplog.at_level(logging.WARNING, "autotune"):
        assert store.finish_trial(trial_id, record(1))
    back.join()
    assert store.trials(study_id) == [record(0), record(1)]
    assert "retry_in_s" in caplog.text and "not-to-be-shown" not in caplog.text


def test_a_server_that_stays_away_is_given_up(postgresql_server: PostgresqlServer, postgresql_url: str) -> None:
    """After the given time the error names the server without its password."""
    store = open_store(postgresql_url, retry_s=0.5)
    postgresql_server.stop()
    begin = time.monotonic()
    with pytest.raises(StoreError, match=r"tester:\*\*\*@127\.0\.0\.1.*did not answer for 0\.5 s") as caught:
        store.studies()
    assert time.monotonic() - begin < 10
    assert "not-to-be-shown" not in str(caught.value)
    postgresql_server.start()
    assert store.studies() == []


def test_a_wrong_password_is_not_shown(postgresql_url: str) -> None:
    """A refused login says what to check, at once, and shows no password."""
    with pytest.raises(StoreError, match="user and password") as caught:
        open_store(postgresql_url.replace("not-to-be-shown", "hunter2"))
    assert "hunter2" not in str(caught.value)


def test_many_workers_write_at_once(postgresql_url: str) -> None:
    """Eight writers, each with a store of its own, lose and double nothing, with the front rewritten in between."""
    study_id = begin_study(open_store(postgresql_url))

    def write(first: int) -> None:
        store, worker = open_store(postgresql_url), this_worker()
        for number in range(first, 80, 8):
            store.save_finished(study_id, record(number), worker)
            store.set_front(study_id, [number])
        store.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    store = open_store(postgresql_url)
    assert [t.number for t in store.trials(study_id)] == list(range(80))
    assert len(store.front_numbers(study_id)) == 1
