"""One measurement at a time on a device: a lock of the operating system, which a crash releases."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def lock_path(device: str) -> Path:
    """The lock file of a device, the same for all processes of this user on this host."""
    root = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    return root / f"autotune-{os.getuid()}-{device.replace(':', '-')}.lock"


@contextmanager
def device_lock(device: str, should_stop: Callable[[], bool] = lambda: False) -> Iterator[float]:
    """Inside the block no other autotune process of this user measures on the device. Gives the seconds waited.

    Raises InterruptedError when `should_stop` turns true while waiting.
    """
    lock = FileLock(lock_path(device))
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
