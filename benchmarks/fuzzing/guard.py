"""What an input may do while it is loaded: read inside its own folder, write inside the cache, and nothing else."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PATHS_WRITTEN = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
    "os.setxattr": (0,),
}
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect",
          "socket.bind", "pickle.find_class", "os.kill", "ftplib.connect", "urllib.Request")  # fmt: skip
_RELATIVE = ("os.remove", "os.rmdir")
"""Events whose last argument is the descriptor of the folder that the path is relative to, or -1."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """An audit hook, which can never be taken off again; it watches only inside `watching`."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self._on = False
        self._writable: tuple[str, ...] = ()
        self._secret = ""
        sys.addaudithook(self._heard)

    @contextmanager
    def watching(self, writable: tuple[Path, ...], secret: Path) -> Iterator[list[str]]:
        """Gives the list of what was broken inside the block: writes elsewhere, reads of `secret`, programs, connections."""
        self.broken, self._secret = [], str(secret)
        self._writable = (*(str(p) for p in writable), tempfile.gettempdir() + "/tmp")
        self._on = True
        try:
            yield self.broken
        finally:
            self._on = False

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and any(c in mode for c in "wax+")) or (isinstance(flags, int) and flags & _WRITES)
            self._judge(event, path, bool(writes))
        elif event in _PATHS_WRITTEN:
            descriptors = [a for a in arguments[1:] if isinstance(a, int) and a >= 0] if event in _RELATIVE else []
            for i in _PATHS_WRITTEN[event]:
                self._judge(event, arguments[i], True, descriptors[-1] if descriptors else None)
        elif event in _NEVER or (event == "ctypes.dlopen" and "/" in str(arguments[0])):  # a bare name is the system's
            self.broken.append(f"{event} {str(arguments)[:200]}")

    def _judge(self, event: str, path: Any, writes: bool, beside: int | None = None) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor, opened before
        self._on = False  # what follows opens nothing, but may be audited itself
        try:
            folder = "" if beside is None else os.readlink(f"/proc/self/fd/{beside}")  # noqa: PTH115  # no Path in a hook
            place = os.path.realpath(os.path.join(folder, os.fsdecode(path)))  # noqa: PTH118
        except (ValueError, OSError):
            place = os.fsdecode(path)
        self._on = True
        if place.startswith(self._secret):
            self.broken.append(f"{event} of {place}, which is outside the study's folder")
        elif writes and place != os.devnull and not any(place.startswith(p) for p in self._writable):
            self.broken.append(f"{event} writes {place}")


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Path → (size, time of change) of everything below the folder."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(place, name))  # noqa: PTH118
            found[os.path.join(place, name)] = (status.st_size if name in files else 0, status.st_mtime_ns)  # noqa: PTH118
    return found
