"""One measurement at a time on a device of this host, whoever runs it: a lock of the operating system, which a crash releases.

The file lies where all users may write (`/run/lock`, else `/tmp`), so two users' studies take turns as well. Such a folder is
hostile ground: a file there is never followed through a link, never written to, and never opened with O_CREAT when it exists,
which the kernel refuses to others than its owner (fs.protected_regular). Whoever may read it can lock it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import EnvironmentProblem

_POLL_S = 0.1
_PREFIX, _HELD, _NEXT = "autotune-device-", ".lock", ".next"
_PLACES = ("/run/lock", "/tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who measures on a device, or is the next to. `pid` and `user` are None where another namespace hides the process."""

    device: str
    pid: int | None
    user: str | None
    waits: bool = False


def lock_folder() -> Path:
    """Where the devices' locks lie: $AUTOTUNE_LOCKS, else the first folder of the host that every user may write to."""
    if named := os.environ.get("AUTOTUNE_LOCKS"):
        return Path(named)
    return next((p for p in map(Path, _PLACES) if os.access(p, os.W_OK) and p.stat().st_mode & stat.S_ISVTX), Path("/tmp"))


def lock_path(device: str) -> Path:
    """The lock file of a device, the same for all processes of this host."""
    return lock_folder() / f"{_PREFIX}{device.replace(':', '-').replace('/', '-')}{_HELD}"


@contextmanager
def device_lock(device: str, should_stop: Callable[[], bool] = lambda: False) -> Iterator[float]:
    """Inside the block no other autotune process of this host measures on the device. Gives the seconds waited.

    Who waits comes next: a process that gives the device back and wants it again at once, as a study does between two trials,
    waits behind the one that waits. Raises InterruptedError when `should_stop`, asked ten times a second, turns true while
    waiting, EnvironmentProblem where a file is no lock of autotune's.
    """
    begin, path = time.monotonic(), lock_path(device)
    turn = _acquired(path.with_suffix(_NEXT), should_stop)
    try:
        file = _acquired(path, should_stop)
    finally:
        os.close(turn)
    try:
        yield time.monotonic() - begin
    finally:
        os.close(file)


def _acquired(path: Path, should_stop: Callable[[], bool]) -> int:
    """The lock's file once nobody else has it; closing it gives it back."""
    file = _opened(path)
    try:
        while True:
            if not _taken(file):
                if should_stop():
                    raise InterruptedError
                time.sleep(_POLL_S)
            elif _is_at(file, path):
                return file
            else:  # somebody cleared the folder: the next to come would lock another file
                again = _opened(path)
                os.close(file)
                file = again
    except BaseException:
        os.close(file)
        raise


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path) -> int:
    """The lock file, made if need be, readable for everybody; closed in programs that this process starts."""
    safely = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(10):
            try:
                return _checked(os.open(path, os.O_RDONLY | safely), path)
            except FileNotFoundError:
                pass
            try:
                file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | safely, 0o666)
            except FileExistsError:
                continue  # another process was faster
            os.fchmod(file, 0o666)  # whatever the umask is
            return file
    except OSError as exc:
        reason = "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror or str(exc)
        raise EnvironmentProblem(f"cannot lock the device: {path}: {reason}.", remedy=_remedy(path)) from exc
    raise EnvironmentProblem(f"cannot lock the device: {path} comes and goes.", remedy=_remedy(path))


def _checked(file: int, path: Path) -> int:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(file)
        raise EnvironmentProblem(f"cannot lock the device: {path} is no plain file of its own.", remedy=_remedy(path))
    return file


def _remedy(path: Path) -> str:
    return f"ls -l {path}, have its owner remove it, or set AUTOTUNE_LOCKS to another folder for all users of the device"


def holders() -> list[Holder]:
    """Who measures on which device of this host now, by device; after it who waits and is the next to measure there.

    One that waits keeps all others waiting behind it, which tells where it was suspended.
    """
    found = []
    for path in sorted(p for kind in (_HELD, _NEXT) for p in lock_folder().glob(f"{_PREFIX}*{kind}")):
        try:
            status = path.lstat()
        except OSError:
            continue
        pid = _locker(status)
        if pid is not None:
            device, waits = path.stem.removeprefix(_PREFIX), path.suffix == _NEXT
            found.append(Holder(device=device, pid=pid or None, user=_user_of(pid), waits=waits))
    return found


def who_holds() -> list[str]:
    """A line for each process that measures on a device of this host now, or is the next to."""
    return [
        f"device {h.device}: {f'process {h.pid} of {h.user}' if h.pid else 'a process of another container'} "
        f"{'is the next to measure' if h.waits else 'measures'}"
        for h in holders()
    ]


def _locker(status: os.stat_result) -> int | None:
    """The process that holds a flock on the file, 0 where it is in another namespace, None where none does."""
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # "1: FLOCK  ADVISORY  WRITE 23575 fe:00:5456351 0 EOF"; "1: -> FLOCK …" is one that waits.
        words = line.split()
        if words[1:2] == ["FLOCK"] and words[5] == place:
            return max(0, int(words[4]))
    return None


def _user_of(pid: int) -> str | None:
    try:
        uid = Path(f"/proc/{pid}").stat().st_uid if pid else None
        return None if uid is None else pwd.getpwuid(uid).pw_name
    except OSError:
        return None
    except KeyError:
        return str(uid)
