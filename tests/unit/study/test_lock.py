"""device_lock between processes: one measures, the others wait, and a kill releases it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from autotune.errors import EnvironmentProblem
from autotune.study.device_lock import Holder, holders, who_holds
from autotune.study.lock import device_lock, lock_path

HOLDER = """
import sys, time
from autotune.study.lock import device_lock
with device_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def own_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other study on this machine is waited for, nor kept waiting."""
    monkeypatch.setenv("AUTOTUNE_LOCKS", str(tmp_path))


@contextmanager
def held_elsewhere(device: str = "cpu", seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the device for so long, or until it is killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", HOLDER, device, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_free_device_is_not_waited_for() -> None:
    """The seconds waited are what the block is given."""
    with device_lock("cpu") as waited_s:
        assert waited_s < 0.4


def test_the_device_is_waited_for_until_the_other_is_done() -> None:
    """Another process holds it for a second more: so long this one waits, and then has it."""
    with held_elsewhere(seconds=1):
        begin = time.monotonic()
        with device_lock("cpu") as waited_s:
            assert 0.5 < waited_s <= time.monotonic() - begin < 10


def test_kill_minus_nine_releases_the_device() -> None:
    """The lock is the operating system's: nothing of a killed process keeps the next from measuring."""
    with held_elsewhere() as process:
        process.kill()
        process.wait()
        with device_lock("cpu") as waited_s:
            assert waited_s < 5


def test_a_stop_ends_the_waiting() -> None:
    """should_stop is asked while waiting, until it says yes; the device is still the other's."""
    answers = iter([False, True])
    with held_elsewhere(), pytest.raises(InterruptedError), device_lock("cpu", lambda: next(answers)):
        pytest.fail("the lock was given away")
    assert next(answers, None) is None


def test_devices_have_locks_of_their_own() -> None:
    """A GPU is free while the CPU is held; a colon of a device name is no part of a file name."""
    assert lock_path("cuda:0") != lock_path("cuda:1") and ":" not in lock_path("cuda:0").name
    with held_elsewhere("cpu"), device_lock("cuda:0") as waited_s:
        assert waited_s < 0.4


def test_another_user_waits_too(tmp_path: Path) -> None:
    """The file is everybody's to lock whatever the umask was, so studies of two users take turns."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    before = os.umask(0o077)
    try:
        with device_lock("cpu"):
            pass
    finally:
        os.umask(before)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    tmp_path.chmod(0o1777)
    code = (
        "import fcntl, os, sys; os.setuid(65534); f = os.open(sys.argv[1], os.O_RDONLY);"
        "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(lock_path("cpu"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(InterruptedError), device_lock("cpu", lambda: True):
            pytest.fail("the lock was given away")
        [holder] = holders()
        assert (holder.device, holder.pid) == ("cpu", process.pid)
        process.kill()


@pytest.mark.parametrize("planted", ["symlink", "folder", "hard link"])
def test_what_somebody_planted_is_no_lock(planted: str, tmp_path: Path) -> None:
    """In a folder that everybody writes to, a link might lead anywhere; it is refused by name and left as it is."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = lock_path("cpu")
    if planted == "symlink":
        path.symlink_to(victim)
    elif planted == "folder":
        path.mkdir()
    else:
        path.hardlink_to(victim)
    with pytest.raises(EnvironmentProblem, match=r"cannot lock the device: .*autotune-device-cpu\.lock"), device_lock("cpu"):
        pytest.fail("it was taken for a lock")
    assert victim.read_text() == "precious"


def test_who_measures_can_be_seen() -> None:
    """The kernel says which process holds a device, without a word from that process; nobody, once it is released."""
    with device_lock("cuda-GPU-1"):
        [holder] = holders()
        assert isinstance(holder, Holder) and (holder.device, holder.pid) == ("cuda-GPU-1", os.getpid())
    assert holders() == []


def test_who_waits_in_front_can_be_seen() -> None:
    """Whoever is the next keeps all others waiting: were it suspended, nobody would know whom to end."""
    waiting = threading.Event()

    def wait() -> None:
        def is_over() -> bool:
            waiting.set()
            return over.is_set()

        with suppress(InterruptedError), device_lock("cpu", is_over):
            pytest.fail("the lock was given away")

    over = threading.Event()
    with device_lock("cpu"):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(20)
        assert [(h.device, h.pid, h.waits) for h in holders()] == [("cpu", os.getpid(), False), ("cpu", os.getpid(), True)]
        measures, follows = who_holds()
        assert measures.endswith(" measures") and follows.endswith(" is the next to measure")
        over.set()
        thread.join()
        assert [h.waits for h in holders()] == [False]


def test_a_cleared_folder_gives_no_second_lock(tmp_path: Path) -> None:
    """Whoever waited on a file that was removed meanwhile takes the one that is there now."""
    with held_elsewhere(seconds=1):
        first = lock_path("cpu").stat().st_ino
        taken = tmp_path / "taken"
        lock_path("cpu").rename(taken)
        with device_lock("cpu") as waited_s:
            assert waited_s < 0.4 and lock_path("cpu").stat().st_ino != first


TURNS = """
import sys, time
from autotune.study.lock import device_lock
for _ in range(4):
    with device_lock("cpu"):
        with open(sys.argv[1], "a") as file:
            file.write(sys.argv[2])
        time.sleep(0.4)
"""


def test_two_that_want_it_again_at_once_take_turns(tmp_path: Path) -> None:
    """Neither waits while the other measures twice, once both are there."""
    said, environment = tmp_path / "said", {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with device_lock("cpu"):
        commands = [[sys.executable, "-c", TURNS, str(said), name] for name in "ab"]
        started = [subprocess.Popen(command, env=environment) for command in commands]
        # Both are there when one waits for the device and the other behind it: their files are open.
        _until(lambda: all(_has_open(p.pid, lock_path("cpu").with_suffix(".next")) for p in started))
    assert [p.wait(60) for p in started] == [0, 0]
    assert said.read_text() in ("ab" * 4, "ba" * 4)


def _has_open(pid: int, path: Path) -> bool:
    found = Path(f"/proc/{pid}/fd")
    return any(os.path.realpath(link) == str(path) for link in found.iterdir()) if found.exists() else False


def _until(told: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not told():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)
