"""What a trial started ends with it, however the trial ends and whichever of the processes above it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import leaving_engine
import psutil
import pytest
from faulty_study import fake_candidate, fake_spec, request

from autotune.spec.model import LimitsSpec, StudySpec
from autotune.trial.isolation import Interrupted, TrialProcess
from autotune.trial.request import TrialRequest


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    return fake_spec(tmp_path, engines=(leaving_engine.NAME,))


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that lists what was started; nothing of it is left after the test, whatever it shows."""
    path = tmp_path / "pids"
    monkeypatch.setenv("LEAVING_PIDS", str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    yield path
    for pid in started(path):
        if runs(pid):
            os.kill(pid, signal.SIGKILL)


def started(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int]) -> bool:
    """True once none of them runs, soon."""
    for _ in range(100):
        if not any(map(runs, pids)):
            return True
        time.sleep(0.1)
    return False


def leaving(spec: StudySpec, fault: str = "", deadline_s: float = 60.0) -> TrialRequest:
    candidate = fake_candidate(fault, engine=leaving_engine.NAME)
    return request(spec.model_copy(update={"limits": LimitsSpec(deadline_s=deadline_s)}), candidate)


@pytest.mark.parametrize(
    ("fault", "deadline_s", "state"),
    [("", 60, "complete"), ("segv", 60, "crashed"), ("exit", 60, "crashed"), ("hang", 3, "rejected")],
)
def test_it_ends_with_a_trial_that_ends_in_any_way(
    spec: StudySpec, pids: Path, fault: str, deadline_s: float, state: str
) -> None:
    """Of its group, of a session of its own, or an orphan: when the record is there, none of the three runs any more."""
    with TrialProcess((leaving_engine.__name__,)) as process:
        assert process.run(leaving(spec, fault, deadline_s)).state == state
        assert len(started(pids)) == 3 and not any(map(runs, started(pids)))
        assert process.run(leaving(spec)).state == "complete" and len(started(pids)) == 6
        assert not any(map(runs, started(pids)))


def test_it_ends_with_a_trial_that_is_interrupted(spec: StudySpec, pids: Path) -> None:
    """A second SIGTERM puts the trial back and leaves nothing of it."""
    with TrialProcess((leaving_engine.__name__,)) as process:
        with pytest.raises(Interrupted):
            process.run(leaving(spec, "hang"), should_abort=lambda: len(started(pids)) == 3)
        assert not any(map(runs, started(pids)))


def keeper_of(process: TrialProcess) -> psutil.Process:
    assert process._process is not None
    return psutil.Process(process._process.pid)


def zygote_of(process: TrialProcess) -> psutil.Process:
    (zygote,) = keeper_of(process).children()
    return zygote


def killing(process: TrialProcess, whom: Callable[[TrialProcess], psutil.Process]) -> Callable[[str], None]:
    return lambda stage: whom(process).kill() if stage == "accuracy" else None


@pytest.mark.parametrize("whom", [keeper_of, zygote_of])
def test_it_ends_when_a_process_above_the_trial_is_killed(
    spec: StudySpec, pids: Path, whom: Callable[[TrialProcess], psutil.Process]
) -> None:
    """kill -9 of the process that forks trials, or of its keeper: the next trial finds the device free."""
    with TrialProcess((leaving_engine.__name__,)) as process:
        assert process.run(leaving(spec, "hang"), on_stage=killing(process, whom)).state == "crashed"
        assert len(started(pids)) == 3 and gone(started(pids))
        assert process.run(leaving(spec)).state == "complete"


def test_other_children_of_the_worker_stay(spec: StudySpec, pids: Path) -> None:
    """Its database helpers and sibling workers are none of the trial's business, in whatever session they are."""
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    others = [subprocess.Popen(sleeps), subprocess.Popen(sleeps, start_new_session=True)]
    try:
        with TrialProcess((leaving_engine.__name__,)) as process:
            assert process.run(leaving(spec, "hang"), on_stage=killing(process, zygote_of)).state == "crashed"
            assert process.run(leaving(spec)).state == "complete"
        assert all(other.poll() is None for other in others)
    finally:
        for other in others:
            other.kill()
            other.wait()


WORKER = """
    import sys
    from pathlib import Path
    import leaving_engine
    from faulty_study import fake_candidate, fake_spec, request
    from autotune.trial.isolation import TrialProcess
    process = TrialProcess((leaving_engine.__name__,))
    spec = fake_spec(Path(sys.argv[1]), engines=(leaving_engine.NAME,))
    told = lambda stage: print(stage, process._process.pid, flush=True)
    process.run(request(spec, fake_candidate("hang", engine=leaving_engine.NAME)), on_stage=told)
"""


@pytest.mark.parametrize("others", [0, 1, 2], ids=["the worker", "the worker and the keeper", "the worker and the zygote"])
def test_it_ends_when_the_worker_is_killed(pids: Path, tmp_path: Path, others: int) -> None:
    """kill -9 of the worker, alone or with either of the two processes between it and its trial at the same moment."""
    (tmp_path / "worker.py").write_text(textwrap.dedent(WORKER))
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        keeper = next(int(line.split()[1]) for line in worker.stdout if line.startswith("accuracy"))
        below = [keeper, *(p.pid for p in psutil.Process(keeper).children(recursive=True))]
        struck = {0: [], 1: [keeper], 2: [psutil.Process(keeper).children()[0].pid]}[others]
        for pid in (worker.pid, *struck):
            os.kill(pid, signal.SIGKILL)
    assert len(started(pids)) == 3 and set(started(pids)) <= set(below) and gone(below)


ENDING = """
    import subprocess, sys
    from autotune.trial.descendants import adopt_orphans, descendants, end_descendants
    adopt_orphans()
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    spared = subprocess.Popen(sleeps)
    known = descendants()
    forks = "import os, time\\nfor _ in range(8):\\n    os.fork() or os.setsid()\\n    time.sleep(0.02)\\ntime.sleep(60)"
    subprocess.Popen([sys.executable, "-c", forks])
    while len(descendants()) < 9:
        pass
    left = end_descendants(known)
    print(left, descendants() == known, spared.poll())
    spared.kill()
"""


def test_processes_that_fork_while_they_are_killed_end_too() -> None:
    """One whose number doubles every 20 ms, in ever new sessions, is ended to the last; what was there before stays."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(ENDING)], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "[] True None\n"
