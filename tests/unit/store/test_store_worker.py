from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from autotune.store.worker import WorkerIdentity, is_alive, this_worker


def test_this_process_is_alive() -> None:
    """A worker sees itself as alive, under a new id each time."""
    me, again = this_worker(), this_worker()
    assert is_alive(me) is True
    assert me.worker_id != again.worker_id and len(me.worker_id) <= 64
    assert replace(me, worker_id="") == replace(again, worker_id="")


def test_a_reused_process_id_is_not_the_worker() -> None:
    """A process of the same id that started at another time, or before a reboot, is not the worker."""
    me = this_worker()
    assert is_alive(replace(me, pid_started=me.pid_started - 1)) is False
    assert is_alive(replace(me, boot_id="another boot")) is False


def test_another_hosts_worker_cannot_be_judged() -> None:
    """Whether a process of another host lives cannot be told from here."""
    assert is_alive(replace(this_worker(), host="elsewhere.example")) is None


def test_an_ended_worker_is_dead_even_before_it_was_waited_for() -> None:
    """A killed worker is dead at once, although its parent has not collected it yet (a zombie)."""
    code = "from autotune.store.worker import this_worker as w; print(repr(w()), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout
    worker: WorkerIdentity = eval(child.stdout.readline())  # noqa: S307  # our own repr
    assert is_alive(worker) is True
    child.kill()
    child.stdout.read()
    for _ in range(1000):
        if is_alive(worker) is False:
            break
    assert is_alive(worker) is False
    child.wait()
    assert is_alive(worker) is False
