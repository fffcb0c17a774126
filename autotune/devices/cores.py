"""Cores set apart: the last ones that this process may use, whole physical cores, on which no measurement runs from then on.

Like a GPU they are selected for a process and for those that it starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from autotune.errors import EnvironmentProblem
from autotune.fingerprint import CORES, cpu_fingerprint, usable_cores

VARIABLE = "AUTOTUNE_CORES_APART"
"""Names them to the processes that this one starts: these may not use them any more and must not set others apart."""
_SYSFS = Path("/sys/devices/system/cpu")


def set_apart(n: int) -> tuple[int, ...]:
    """The numbers of `n` CPUs that this process and those it starts no longer use, but for threads that ask for them.

    The same ones at every call. Raises EnvironmentProblem where none would be left, where only a part of a physical core would
    be taken, or where a quota of the container counts the time of all of them.
    """
    os.environ.pop(CORES, None)
    mine = os.sched_getaffinity(0)
    if usable_cores() < len(mine):
        raise EnvironmentProblem(
            f"build_ahead: this container may use {usable_cores()} CPUs' time on any of {len(mine)}; a build would use up what "
            "the measurements need.",
            remedy="a container with a set of CPUs (cpuset) instead of a quota, or build_ahead: off",
        )
    earlier = _named() - mine
    if len(earlier) == n:
        mine -= earlier
        apart = tuple(sorted(earlier))
    else:
        apart = _last_whole_cores(n, mine | earlier, {cpu: siblings(cpu) for cpu in mine | earlier})
        mine = (mine | earlier) - set(apart)
    os.environ[VARIABLE], os.environ[CORES] = ",".join(map(str, apart)), str(len(mine))
    for thread in Path("/proc/self/task").iterdir():  # the affinity is each thread's own
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), mine)
    cpu_fingerprint.cache_clear()
    return apart


def _named() -> set[int]:
    """The CPUs that a process above this one set apart, as far as there are any."""
    named = {int(word) for word in os.environ.get(VARIABLE, "").split(",") if word.isdigit()}
    return {cpu for cpu in named if (_SYSFS / f"cpu{cpu}").is_dir()}


def siblings(cpu: int, sysfs: Path = _SYSFS) -> frozenset[int]:
    """The CPUs that share a physical core with this one, itself included; alone where the system does not tell."""
    try:
        text = (sysfs / f"cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return frozenset({cpu})
    found = {cpu}
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _last_whole_cores(n: int, usable: set[int], core_of: Mapping[int, frozenset[int]]) -> tuple[int, ...]:
    """`n` of the usable CPUs, physical cores from the last on. Raises EnvironmentProblem."""
    if n >= len(usable):
        raise EnvironmentProblem(
            f"build_ahead: {n} cores to build on leave none to measure on: this process may use {len(usable)}.",
            remedy="build_ahead: {cores: fewer}, or build_ahead: off",
        )
    taken: list[int] = []
    for cpu in sorted(usable, reverse=True):
        if len(taken) < n and cpu not in taken:
            taken += sorted(core_of[cpu] & usable)
    if len(taken) != n:
        raise EnvironmentProblem(
            f"build_ahead: {n} cores would share a physical core with those that are measured: the last ones come in groups, "
            f"and {len(taken)} make whole ones.",
            remedy=f"build_ahead: {{cores: {len(taken)}}}, where that leaves some",
        )
    return tuple(sorted(taken))
