"""Heartbeats, and who counts as dead."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from study_samples import candidate

from autotune.store.trials import RunningTrial
from autotune.store.worker import WorkerIdentity, this_worker
from autotune.study.heartbeat import Silence, heartbeat, is_dead

HERE = this_worker()
ELSEWHERE = WorkerIdentity(worker_id="w", host="another-host", pid=1, pid_started=1, boot_id="b")


class Flaky:
    """Stands for the store: fails twice, then answers, and says how often it was asked."""

    def __init__(self) -> None:
        self.n, self.enough = 0, threading.Event()

    def beat_once(self, worker_id: str) -> None:
        self.n += 1
        if self.n < 3:
            raise ConnectionError("the database is away")
        self.enough.set()


def running(worker: WorkerIdentity, age_s: float, at: str = "2026-01-01T00:00:00+00:00") -> RunningTrial:
    return RunningTrial(
        trial_id=1, number=1, role="search", candidate=candidate(), worker=worker, started_at=at, heartbeat_age_s=age_s,
        heartbeat_at=at,
    )  # fmt: skip


def test_heartbeats_go_on_after_errors() -> None:
    """Optuna's thread ends at the first error of the database, and its live trials are failed by others; this one goes on."""
    store: Any = Flaky()
    with heartbeat(store, "w", every_s=0.01):
        assert store.enough.wait(10)


def test_here_the_process_tells() -> None:
    """An old heartbeat is no matter while the process lives; another boot is death at once."""
    assert not Silence().is_dead(running(HERE, 1e6))
    assert Silence().is_dead(running(replace(HERE, boot_id="before"), 0))


def test_elsewhere_a_heartbeat_must_stand_still_while_one_looks() -> None:
    """After an outage of a night every heartbeat is old: who looks for 90 s sees the living ones move."""
    now = [0.0]
    silence = Silence(clock=lambda: now[0])
    old = running(ELSEWHERE, 30_000)
    assert is_dead(old)  # one look can be wrong
    assert not silence.is_dead(old)
    now[0] = 60
    moved = replace(old, heartbeat_at="2026-01-01T08:00:00+00:00")
    assert not silence.is_dead(moved)
    now[0] = 149
    assert not silence.is_dead(moved)
    now[0] = 151
    assert silence.is_dead(moved)
    assert not silence.is_dead(running(ELSEWHERE, 599))
