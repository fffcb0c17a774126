"""Locks of the operating system on files that whoever holds them alone may also remove. A crash releases them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_in_use: dict[Path, int] = {}
"""Files that this process has in use → the open descriptor that says so. A forked child has them in use as well."""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Inside the block nobody else holds the lock file `path`, made if need be; False where somebody does, unless `wait`.

    Who holds it may remove the file: others then find that theirs is not the one at the path any more, and begin again.
    """
    descriptor = _acquired(path, wait=wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _acquired(path: Path, *, wait: bool) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def use(path: Path) -> None:
    """The file is in use by this process until it ends, which `is_free` tells every process. Once per file is enough."""
    known = _in_use.get(path)
    if known is not None and _is_at(known, path):
        return
    with suppress(OSError):  # no lock, no protection: better than no artifact
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if known is not None:
            os.close(known)
        _in_use[path] = descriptor


def is_free(path: Path) -> bool:
    """True when no process has the file in use; False also where nobody can tell."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
