"""What a thread asks of the kernel so that it is not late."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading

import pytest

from autotune.bench.workers import prompt

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}


def slice_ns() -> int:
    """This thread's slice as the kernel tells it, nanoseconds (sched_getattr(2)); kernels before 6.12 have none."""
    number = _SCHED_GETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        pytest.skip(f"no sched_getattr(2) known for {sys.platform} on {platform.machine()}")
    found = ctypes.create_string_buffer(56)
    assert ctypes.CDLL(None).syscall(number, 0, found, len(found), 0) == 0
    return int(struct.unpack_from("=IIQiIQ", found)[5])


def test_a_prompt_thread_has_the_shortest_slice_while_it_lasts() -> None:
    """0.1 ms inside, what it was before afterwards, also after an error; its nice value stays."""
    before, nice = slice_ns(), os.getpriority(os.PRIO_PROCESS, 0)
    if before == 0:
        pytest.skip("this kernel, before 6.12, gives ordinary threads no slice of their own")
    with pytest.raises(ValueError), prompt():
        assert slice_ns() == 100_000
        assert os.getpriority(os.PRIO_PROCESS, 0) == nice
        raise ValueError
    assert slice_ns() == before and os.getpriority(os.PRIO_PROCESS, 0) == nice


def test_a_thread_of_another_policy_keeps_it() -> None:
    """As that of a process begun by chrt -b: only ordinary threads have such a slice, and it must not become one for it."""
    if not hasattr(os, "SCHED_BATCH"):
        pytest.skip("this system has no SCHED_BATCH")
    found = []

    def run() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with prompt():
            found.append(os.sched_getscheduler(0))
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)  # the policy is a thread's own
    thread.start()
    thread.join()
    assert found == [os.SCHED_BATCH, os.SCHED_BATCH]


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose system call is not known the block runs all the same."""
    before = slice_ns()
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with prompt():
        monkeypatch.undo()
        assert slice_ns() == before
