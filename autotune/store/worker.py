"""Who measures a trial: enough of a process's identity to tell later whether it still lives."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """One worker process. `pid_started`: clock ticks from boot to the process's start, 0 where the system does not say."""

    worker_id: str
    host: str
    pid: int
    pid_started: int
    boot_id: str


def this_worker() -> WorkerIdentity:
    """This process under a new worker id; call once per worker and keep the result."""
    pid = os.getpid()
    host = socket.gethostname()
    worker_id = f"{host[:40]}-{pid}-{uuid.uuid4().hex[:8]}"
    return WorkerIdentity(worker_id=worker_id, host=host, pid=pid, pid_started=_start_ticks(pid) or 0, boot_id=_boot_id())


def is_alive(worker: WorkerIdentity) -> bool | None:
    """Whether the worker's process runs. None on another host: only the age of its heartbeat can tell.

    A process id is used again by the system, so the start time must agree too; a machine that booted since ran out of workers.
    """
    if worker.host != socket.gethostname():
        return None
    if worker.boot_id != _boot_id():
        return False
    if worker.pid_started:
        return _start_ticks(worker.pid) == worker.pid_started
    return _answers(worker.pid)


def is_this_boot(worker: WorkerIdentity) -> bool | None:
    """Whether the worker began on this host since it booted; False: before; None: on another host."""
    return worker.boot_id == _boot_id() if worker.host == socket.gethostname() else None


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, which no clock adjustment moves; None for no process, a zombie, or no /proc."""
    try:
        # The second field is the command in parentheses and may itself hold blanks and parentheses.
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if after[0] in "ZX" else int(after[19])
    except (OSError, ValueError, IndexError):
        return None


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
