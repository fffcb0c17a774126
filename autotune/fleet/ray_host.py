"""What runs inside a Ray actor: it starts the worker's process on its host, hears how it ends, and hands over its log.

Nothing here imports Ray, so that the class is an ordinary one, which Ray makes an actor of.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from autotune.fleet.launcher import SLOT

_PR_SET_PDEATHSIG = 1  # prctl(2)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)
_AT_ONCE = 1 << 20
"""Bytes of a log that one answer carries."""
_BLOCK = 1 << 12
"""A hole is made of whole blocks. It always begins at 0, so that larger blocks of the file system go with a later one."""


class WorkerHost:
    """One worker process beside this actor. It dies with the actor: a trial that nobody watches would hold the device."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._forgotten = 0
        self._log = tempfile.TemporaryFile(prefix="autotune-worker-")  # noqa: SIM115  # open as long as the actor lives

    def start(self, words: Sequence[str], environment: Mapping[str, str], slot: str) -> tuple[str, int]:
        """The worker runs; its host and process id. `slot` is put where the words say so."""
        command = [sys.executable, "-m", "autotune.cli.main", *(w.replace(SLOT, slot) for w in words)]
        parent = os.getpid()

        def die_with_actor() -> None:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log.fileno(),
            stderr=self._log.fileno(),
            start_new_session=True,
            env={**os.environ, **environment},
            preexec_fn=die_with_actor,
        )
        return socket.gethostname(), self._process.pid

    def look(self, offset: int) -> tuple[int | None, bytes]:
        """The exit code, None while the worker runs, and what its log holds from `offset` on, at most a MiB of it.

        What is before `offset` has been gathered, and takes no disk here any more.
        """
        code = None if self._process is None else self._process.poll()
        self._forget(offset)
        return code, os.pread(self._log.fileno(), _AT_ONCE, offset)

    def _forget(self, offset: int) -> None:
        whole = offset // _BLOCK * _BLOCK
        if whole > self._forgotten:
            # The file keeps its length, so offsets stay. A file system that cannot do it keeps the text.
            begin, length = ctypes.c_int64(0), ctypes.c_int64(whole)
            ctypes.CDLL(None).fallocate(self._log.fileno(), _PUNCH_HOLE | _KEEP_SIZE, begin, length)
            self._forgotten = whole

    def send(self, number: int) -> None:
        """The worker has the signal, if it still runs."""
        if self._process is not None:
            self._process.send_signal(number)
