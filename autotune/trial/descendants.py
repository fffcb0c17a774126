"""All that a process started, directly or through others, is found and ended, whatever group or session it is in (Linux).

A child subreaper is given every descendant whose own parent dies, so a walk over the parents that /proc names misses none. Only
the standard library: the keeper of the trials imports this, and should be small.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.1


class Descendant(NamedTuple):
    """A process below this one. `began`: its start in clock ticks since boot, which tells it from a later one with its id."""

    pid: int
    began: int


def adopt_orphans() -> None:
    """From now on this process is the parent of every descendant whose own parent has died. Forks do not inherit it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def signal_at_parents_death(number: int, parent: int) -> bool:
    """The kernel sends this process the signal when `parent` dies. False where that was so before the call."""
    _prctl(_PR_SET_PDEATHSIG, number)
    return os.getppid() == parent


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def has_children() -> bool:
    """True when this process has a child, also one that ended and was not waited for. One system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def descendants(spared: Collection[Descendant] = ()) -> list[Descendant]:
    """The processes below this one, parents before their children, without those of `spared` and what is below these.

    Those that ended and were not waited for are among them.
    """
    if not has_children():
        return []
    below: dict[int, list[Descendant]] = defaultdict(list)
    for parent, process in _processes():
        below[parent].append(process)
    found, places = [], [os.getpid()]
    while places:
        for process in below.pop(places.pop(), []):
            if process not in spared:
                found.append(process)
                places.append(process.pid)
    return found


def end_descendants(spared: Collection[Descendant] = (), within_s: float = 5.0) -> list[Descendant]:
    """None of them is left; those that SIGKILL has not ended in time are returned, for they hang in the kernel.

    The caller adopts orphans. What a process forks while it is being killed is found by the next look.
    """
    deadline, pause_s = time.monotonic() + within_s, _PAUSE_S
    while left := descendants(spared):
        if time.monotonic() > deadline:
            break
        # Children first: where this process is killed meanwhile, one of them that adopts orphans as well still ends the rest.
        for process in reversed(left):
            _kill(process)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        for process in left:
            with suppress(ChildProcessError):  # a child of another descendant; it comes to us when that one has gone
                os.waitpid(process.pid, os.WNOHANG)
    return left


def _kill(process: Descendant) -> None:
    """SIGKILL to the process, and to no other that was given its id since it was found."""
    try:
        held = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except (OSError, AttributeError):  # a kernel before 5.3: ids are given out in turn, so one just seen is not given again
        with suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
        return
    try:
        found = _stat(process.pid)
        if found is not None and found[1] == process:
            signal.pidfd_send_signal(held, signal.SIGKILL)
    except OSError:
        pass  # gone meanwhile, or another user's
    finally:
        os.close(held)


def _processes() -> Iterator[tuple[int, Descendant]]:
    """(parent's id, process) for each process of the machine that this one may see."""
    with suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208  # thousands of them: no Path objects
            if name.isdigit() and (found := _stat(int(name))) is not None:
                yield found


def _stat(pid: int) -> tuple[int, Descendant] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as handle:  # noqa: PTH123
            # After the name, which may hold blanks and brackets: state, parent, …, and as the 20th the start.
            fields = handle.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[1]), Descendant(pid=pid, began=int(fields[19]))
