"""Cores set apart for builds: whole physical ones from the last on, the same for all processes of a study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from autotune.devices import cores
from autotune.devices.cores import siblings
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import cpu_fingerprint, usable_cores

needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")


def chosen(n: int, *groups: tuple[int, ...]) -> tuple[int, ...]:
    """`n` CPUs of a machine whose physical cores have these."""
    core_of = {cpu: frozenset(group) for group in groups for cpu in group}
    return cores._last_whole_cores(n, set(core_of), core_of)


def test_the_last_cores_are_taken() -> None:
    """Two of four, without siblings."""
    assert chosen(2, (0,), (1,), (2,), (3,)) == (2, 3)


def test_both_threads_of_a_core_go_together() -> None:
    """With hyperthreads 0+4, 1+5, 2+6, 3+7, four are 2, 3, 6, 7: nothing is measured on the other half of a core."""
    assert chosen(4, (0, 4), (1, 5), (2, 6), (3, 7)) == (2, 3, 6, 7)


@pytest.mark.parametrize(("n", "told"), [(1, "2 make whole ones"), (3, "4 make whole ones"), (4, "leave none")])
def test_what_cannot_be_set_apart_is_refused(n: int, told: str) -> None:
    """Half a core, one core and a half, and all of them."""
    with pytest.raises(EnvironmentProblem, match=told):
        chosen(n, (0, 2), (1, 3))


def test_siblings_are_read_from_sysfs(tmp_path: Path) -> None:
    """Lists and ranges; alone where nothing is said."""
    for cpu, text in {0: "0-1\n", 8: "0,8\n"}.items():
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/thread_siblings_list").write_text(text)
    assert siblings(0, tmp_path) == {0, 1} and siblings(8, tmp_path) == {0, 8} and siblings(5, tmp_path) == {5}


def test_a_quota_of_cpu_time_is_no_place_for_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run on 64 CPUs and use the time of four: what a build used, the measurement would lack."""
    monkeypatch.setattr(cores, "usable_cores", lambda: len(os.sched_getaffinity(0)) - 1)
    with pytest.raises(EnvironmentProblem, match="quota"):
        cores.set_apart(1)


@needs_two
def test_a_process_and_its_children_leave_them_alone() -> None:
    """Set apart twice, and once more in a child: the same cores, and no thread runs on them unless it asks to."""
    script = """
        import json, os, subprocess, sys, threading
        from autotune.devices.cores import set_apart
        from autotune.fingerprint import cpu_fingerprint
        before, n_before = os.sched_getaffinity(0), cpu_fingerprint().cores
        waits = threading.Event()
        thread = threading.Thread(target=waits.wait); thread.start()
        first, second = set_apart(1), set_apart(1)
        other = os.sched_getaffinity(thread.native_id); waits.set()
        child = "import json, os; from autotune.devices.cores import set_apart; " \\
            "print(json.dumps([set_apart(1), sorted(os.sched_getaffinity(0))]))"
        told = json.loads(subprocess.check_output([sys.executable, "-c", child]))
        left = sorted(before - set(first))
        assert first == second and other == os.sched_getaffinity(0) == set(left), (first, second, other)
        assert told == [list(first), left], told
        assert cpu_fingerprint().cores == min(n_before, len(left)) and os.environ["AUTOTUNE_CORES"] == str(len(left))
        os.sched_setaffinity(0, first)
        print(json.dumps(sorted(os.sched_getaffinity(0))))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert len(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)) == 1


def test_what_is_built_elsewhere_is_known_by_the_device_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cores are measured on, wherever this process runs: engines' keys, limits and defaults are the same."""
    cpu_fingerprint.cache_clear()
    monkeypatch.setenv("AUTOTUNE_CORES", "3")
    assert usable_cores() == 3 and cpu_fingerprint().device.endswith("× 3")
    cpu_fingerprint.cache_clear()


def test_cores_that_this_machine_lacks_are_not_taken_for_set_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable may come from elsewhere."""
    monkeypatch.setenv(cores.VARIABLE, "0,99999,x")
    assert cores._named() == {0}
