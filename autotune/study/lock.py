"""Who works on a study on this host, and takes turns with whom: locks of the operating system, which a crash releases."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autotune.fingerprint import digest_of
from autotune.store.studies import StudyRow
from autotune.study.device_lock import device_lock as device_lock  # re-exported: the one that everybody asks for first
from autotune.study.device_lock import lock_path as lock_path


def runtime_folder() -> Path:
    """Where locks lie: the user's runtime folder, even if a cron job's environment does not name it, or a temporary one."""
    if named := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(named)
    usual = Path(f"/run/user/{os.getuid()}")
    return usual if usual.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def finalists_lock(study: StudyRow, should_stop: Callable[[], bool] = lambda: False) -> Iterator[float]:
    """Inside the block no other worker of this user on this host measures the study's finalists. Gives the seconds waited.

    Raises InterruptedError when `should_stop`, asked twice a second, turns true while waiting.
    """
    with _held(FileLock(runtime_folder() / f"{_stem(study)}-finalists"), should_stop) as waited_s:
        yield waited_s


@contextmanager
def reference_lock(study: StudyRow, should_stop: Callable[[], bool] = lambda: False) -> Iterator[float]:
    """Inside the block no other worker on this host measures the study's reference. As `finalists_lock`."""
    with _held(FileLock(runtime_folder() / f"{_stem(study)}-reference"), should_stop) as waited_s:
        yield waited_s


@contextmanager
def _held(lock: FileLock, should_stop: Callable[[], bool]) -> Iterator[float]:
    begin = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            if should_stop():
                raise InterruptedError from None
    try:
        yield time.monotonic() - begin
    finally:
        lock.release()


def asking_lock(study: StudyRow) -> FileLock:
    """Whoever holds it is the only one on this host to take a candidate from Optuna's queue.

    On SQLite, Optuna reads a waiting trial and marks it in two steps: two workers were given the same number (Optuna 5.0).
    """
    return FileLock(runtime_folder() / f"{_stem(study)}-asking")


@contextmanager
def presence(study: StudyRow) -> Iterator[None]:
    """Inside the block `workers_here` lists this process, also between its trials."""
    path = runtime_folder() / f"{_stem(study)}-{os.getpid()}.lock"
    with FileLock(path):
        yield
        path.unlink(missing_ok=True)


def workers_here(study: StudyRow) -> list[int]:
    """The process ids of the study's workers on this host, of this user."""
    found = []
    for path in sorted(runtime_folder().glob(f"{_stem(study)}-*.lock")):
        # The folder may be one that everybody writes to, and the ids are what `autotune stop` signals.
        try:
            if path.stat().st_uid != os.getuid():
                continue
        except FileNotFoundError:  # its worker left this moment
            continue
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)  # its process was killed
        except Timeout:
            found.append(int(path.stem.rpartition("-")[2]))
    return found


def is_anybody_here() -> bool:
    """False when surely no worker of this user works on any study on this host."""
    return any(runtime_folder().glob(f"autotune-{os.getuid()}-study-*.lock"))


def is_present(pid: int) -> bool:
    """True when the process works on some study."""
    return any(runtime_folder().glob(f"autotune-{os.getuid()}-study-*-{pid}.lock"))


def _stem(study: StudyRow) -> str:
    # Where the database lies may be written in several ways, when the study began in only one.
    identity = digest_of({"id": study.id, "name": study.name, "created_at": study.created_at})
    return f"autotune-{os.getuid()}-study-{identity}"
