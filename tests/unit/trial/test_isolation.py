"""TrialProcess: whatever a trial does to its process, the study gets a record with the reason, and the next trial runs."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from faulty_study import fake_candidate, fake_spec, request

from autotune.cache.disk import disk_fault
from autotune.errors import DeadlineExceeded, SpecError
from autotune.records import PROCESS_ENDED, Rejection, TrialRecord
from autotune.spec.model import LimitsSpec, LoadSpec, ModelSpec, StudySpec
from autotune.trial import isolation
from autotune.trial.isolation import Interrupted, TrialProcess, _Watch
from autotune.trial.request import TrialRequest


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    """One study for all tests of this file; its cache is warm after the first."""
    return fake_spec(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def process(spec: StudySpec) -> Iterator[TrialProcess]:
    """One TrialProcess for all tests, so that each also shows that the one before left it usable."""
    with TrialProcess() as opened:
        assert opened.run(request(spec, fake_candidate())).state == "complete"
        yield opened


def with_limits(spec: StudySpec, **limits: float) -> StudySpec:
    return spec.model_copy(update={"limits": LimitsSpec.model_validate({"deadline_s": 60.0, **limits})})


def rejection(record: TrialRecord) -> Rejection:
    assert record.reject is not None, record.state
    assert record.throughput_items_per_s is None and record.finished_at is not None
    return record.reject


def assert_usable(process: TrialProcess, spec: StudySpec) -> None:
    """The next trial in the same TrialProcess is complete."""
    assert process.run(request(spec, fake_candidate(), number=99)).state == "complete"


def test_a_healthy_trial_measures_the_fakes_formulas(process: TrialProcess, spec: StudySpec) -> None:
    """The fake errs on numbers below 0.10: samples 0…19 of 200, so accuracy is 0.9 and the drop against itself is 0."""
    stages: list[str] = []
    record = process.run(request(spec, fake_candidate(), number=3), on_stage=stages.append)
    assert (record.state, record.number, record.reject) == ("complete", 3, None)
    assert record.accuracy is not None and record.accuracy.value == pytest.approx(0.9)
    assert record.accuracy_drop is not None and record.accuracy_drop.value == 0
    assert record.throughput_items_per_s is not None and record.throughput_items_per_s.value > 0
    assert list(dict.fromkeys(stages)) == ["data", "variant", "engine", "open", "accuracy", "load"]
    assert record.peak_memory_mib is not None and record.peak_memory_mib < 256


def test_segmentation_fault_is_a_crash_with_signal_and_traceback(process: TrialProcess, spec: StudySpec) -> None:
    """SIGSEGV is named, the record points to the log, and faulthandler's Python stack is in it."""
    found = rejection(process.run(request(spec, fake_candidate("segv"), number=11)))
    assert found.reason == "worker_crashed" and "SIGSEGV" in found.message
    assert "11.log" in found.message
    assert spec.cache.folder is not None and "_strike" in (spec.cache.folder / "logs" / "11.log").read_text()
    assert_usable(process, spec)


def test_exit_code_is_told(process: TrialProcess, spec: StudySpec) -> None:
    """A library that calls exit(7) leaves that number and the stage."""
    record = process.run(request(spec, fake_candidate("exit"), number=12))
    found = rejection(record)
    assert record.state == "crashed" and found.reason == "worker_crashed"
    assert "exit code 7" in found.message and found.stage == "accuracy"
    assert_usable(process, spec)


def test_a_bug_is_a_crash_with_its_traceback(process: TrialProcess, spec: StudySpec) -> None:
    """An unexpected exception is stored with file, line and message."""
    record = process.run(request(spec, fake_candidate("exception"), number=13))
    found = rejection(record)
    assert record.state == "crashed" and found.reason == "worker_crashed"
    assert "Traceback" in found.message and "ZeroDivisionError: the fake engine was told to fail" in found.message
    assert_usable(process, spec)


def test_a_build_that_fails_is_a_rejection(process: TrialProcess, spec: StudySpec) -> None:
    """BuildFailed is the candidate's property: rejected, in stage engine, with what was known before kept."""
    record = process.run(request(spec, fake_candidate("build", batch_size=5), number=14))
    found = rejection(record)
    assert (record.state, found.reason, found.stage) == ("rejected", "build_failed", "engine")
    assert record.variant is not None and record.variant.params == 20
    assert_usable(process, spec)


def test_an_engine_out_of_memory_is_a_rejection(process: TrialProcess, spec: StudySpec) -> None:
    """OutOfMemory that the engine itself reports."""
    record = process.run(request(spec, fake_candidate("out-of-memory"), number=15))
    assert (record.state, rejection(record).reason) == ("rejected", "out_of_memory")
    assert_usable(process, spec)


def test_a_hang_ends_at_the_deadline(process: TrialProcess, spec: StudySpec) -> None:
    """A trial that never returns is ended after limits.deadline_s, and its process is gone."""
    begin = time.monotonic()
    record = process.run(request(with_limits(spec, deadline_s=2), fake_candidate("hang"), number=16))
    assert 2 <= time.monotonic() - begin < 10
    found = rejection(record)
    assert (record.state, found.reason) == ("rejected", "deadline_exceeded")
    assert "limits.deadline_s 2" in found.message
    assert _children(process) == []
    assert_usable(process, spec)


def test_memory_that_blows_up_ends_at_the_limit(process: TrialProcess, spec: StudySpec) -> None:
    """A trial that takes more and more memory is ended at limits.memory_mib, long before the machine is out of it."""
    record = process.run(request(with_limits(spec, memory_mib=512), fake_candidate("blow-up"), number=17))
    found = rejection(record)
    assert (record.state, found.reason) == ("rejected", "out_of_memory")
    assert "512 MiB (limits.memory_mib)" in found.message
    assert_usable(process, spec)


def test_a_trial_can_be_interrupted(process: TrialProcess, spec: StudySpec) -> None:
    """should_abort ends a trial under way at once, without a record; the next one runs."""
    begun: list[str] = []
    begin = time.monotonic()
    with pytest.raises(Interrupted):
        process.run(
            request(spec, fake_candidate("hang"), number=18), on_stage=begun.append, should_abort=lambda: "accuracy" in begun
        )
    assert time.monotonic() - begin < 10 and _children(process) == []
    assert_usable(process, spec)


def test_preparing_the_samples_may_hang_or_crash(process: TrialProcess, spec: StudySpec, tmp_path: Path) -> None:
    """A user's module that never returns meets the deadline too, and one that ends its process is a crash of that trial."""
    (tmp_path / "hanging_net.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "dying_net.py").write_text("import os\nos.abort()\n")
    for name, state, deadline_s in (("hanging_net", "rejected", 3), ("dying_net", "crashed", 60)):
        model = ModelSpec(torch=f"{name}:make", input_shape=(2,))
        bad = with_limits(spec, deadline_s=deadline_s).model_copy(update={"model": model, "file": tmp_path / "study.yaml"})
        assert process.run(request(bad, fake_candidate(), number=21)).state == state
        assert_usable(process, spec)
        assert _children(process) == []


def test_a_fault_of_the_study_is_raised(process: TrialProcess, spec: StudySpec) -> None:
    """Labels that the metric cannot take are no candidate's fault: SpecError in the study's process, with the message."""
    wrong = spec.model_copy(update={"data": spec.data.model_copy(update={"metric": "mse"})})
    with pytest.raises(SpecError, match=r"data\.metric: the metric failed"):
        process.run(request(wrong, fake_candidate(), number=19))
    assert_usable(process, spec)


def test_the_warm_process_may_die(process: TrialProcess, spec: StudySpec) -> None:
    """Killed while a trial runs, the process that forks trials takes its child along; the record says so; a new one starts."""
    pids: list[int] = []

    def kill(stage: str) -> None:
        if stage == "accuracy":
            pids.extend(_children(process))
            os.kill(_zygote(process), signal.SIGKILL)

    record = process.run(request(spec, fake_candidate("hang"), number=20), on_stage=kill)
    found = rejection(record)
    assert (record.state, found.reason, found.stage) == ("crashed", "worker_crashed", "accuracy")
    assert len(pids) == 1 and _gone(pids)
    assert_usable(process, spec)


def test_the_warm_process_may_die_between_trials(process: TrialProcess, spec: StudySpec) -> None:
    """A dead one is noticed before the next request is sent: that trial already has a new one."""
    assert process._process is not None
    process._process.kill()
    process._process.wait(10)
    assert_usable(process, spec)


def test_closing_ends_the_warm_process(spec: StudySpec) -> None:
    """After `with` neither the warm process nor a child of it is left."""
    with TrialProcess() as opened:
        opened.run(request(spec, fake_candidate(), number=21))
        pids = [_keeper(opened), _zygote(opened)]
    assert _gone(pids)


def test_killing_the_study_kills_its_trial(spec: StudySpec, tmp_path: Path) -> None:
    """kill -9 of the study's process: the warm process and the trial under way follow, so that no orphan loads the device."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            from pathlib import Path
            from faulty_study import fake_candidate, fake_spec, request
            from autotune.trial.isolation import TrialProcess
            process = TrialProcess()
            told = lambda stage: print(stage, process._process.pid, flush=True)
            process.run(request(fake_spec(Path(sys.argv[1])), fake_candidate("hang")), on_stage=told)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        keeper = next(int(line.split()[1]) for line in parent.stdout if line.startswith("accuracy"))
        pids = [keeper, *(child.pid for child in psutil.Process(keeper).children(recursive=True))]
        assert len(pids) == 3
        parent.kill()
    assert _gone(pids)


def test_a_process_that_is_stopped_ends_at_the_deadline(process: TrialProcess, spec: StudySpec) -> None:
    """SIGSTOP for good, as a debugger or a frozen container does: no signal but SIGKILL ends it, and that is the one sent."""

    def stop(stage: str) -> None:
        if stage == "accuracy":
            os.kill(_children(process)[0], signal.SIGSTOP)

    record = process.run(request(with_limits(spec, deadline_s=2), fake_candidate("hang"), number=22), on_stage=stop)
    assert rejection(record).reason == "deadline_exceeded" and PROCESS_ENDED in record.flags
    assert _children(process) == []
    assert_usable(process, spec)


def test_a_stopped_parent_is_replaced(spec: StudySpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm process is stopped: the child's answer stands although nobody reaps it, and the next trial has a parent."""
    monkeypatch.setattr(isolation, "_REAP_S", 0.5)
    with TrialProcess() as opened:
        opened.run(request(spec, fake_candidate(), number=23))
        first = _zygote(opened)
        record = opened.run(
            request(spec, fake_candidate(), number=24),
            on_stage=lambda stage: os.kill(first, signal.SIGSTOP) if stage == "load" else None,
        )
        assert record.state == "complete" and _gone([first])
        assert_usable(opened, spec)


def test_what_a_trial_started_ends_with_it(process: TrialProcess, spec: StudySpec, tmp_path: Path) -> None:
    """A process that the user's code left behind would load the device in the next trial: it is killed with its trial."""
    (tmp_path / "starting_net.py").write_text(
        "import subprocess, sys, os\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'a').write(f'{{child.pid}} {{os.getpgid(child.pid)}} {{os.getpid()}}\\n')\n"
        "def make():\n    raise RuntimeError('no')\n"
    )
    model = ModelSpec(torch="starting_net:make", input_shape=(2,))
    bad = spec.model_copy(update={"model": model, "file": tmp_path / "study.yaml"})
    with pytest.raises(SpecError):
        process.run(request(bad, fake_candidate(), number=25))
    started = [line.split() for line in (tmp_path / "pid").read_text().splitlines()]
    in_trial = [int(pid) for pid, group, parent in started if group == parent]
    assert in_trial and _gone(in_trial)
    for pid, *_ in started:
        if _runs(int(pid)):
            os.kill(int(pid), signal.SIGKILL)


def test_a_full_disk_is_no_candidates_fault() -> None:
    """ENOSPC, also deep in a chain of other errors, stops the study with what to do, instead of counting as a crash."""
    full = OSError(errno.ENOSPC, "No space left on device")
    outer = RuntimeError("could not export")
    outer.__cause__ = full
    assert disk_fault(full) and disk_fault(outer)
    assert not disk_fault(OSError(errno.ENOENT, "no such file")) and not disk_fault(ValueError("no"))


# The deadline of the load stage, on a clock of its own


def watched(spec: StudySpec) -> tuple[_Watch, list[float]]:
    """A watch whose clock is the list's last entry."""
    now = [1000.0]
    asked: TrialRequest = request(spec, fake_candidate())
    return _Watch(asked, lambda stage: None, clock=lambda: now[-1]), now


def test_a_load_that_takes_twice_its_plan_and_a_minute_hangs(spec: StudySpec) -> None:
    """60 + 2·(10 warm-up cap + 1 + 15 + 1) = 114 s after the load began, although the trial may take 900 s."""
    load = LoadSpec(window_s=1.0, max_s=15.0, warmup_s=1.0)
    watch, now = watched(with_limits(spec, deadline_s=900).model_copy(update={"load": load}))
    now.append(1500.0)
    watch.hear(("stage", "load"))
    now.append(1613.0)
    watch.check_limits()
    now.append(1615.0)
    with pytest.raises(DeadlineExceeded, match=r"stage load after 615 s.*114 s for the load"):
        watch.check_limits()


def test_the_load_never_extends_the_deadline(spec: StudySpec) -> None:
    """A load that begins late has only what is left of limits.deadline_s."""
    watch, now = watched(with_limits(spec, deadline_s=100))
    now.append(1099.0)
    watch.hear(("stage", "load"))
    watch.check_limits()
    now.append(1101.0)
    with pytest.raises(DeadlineExceeded):
        watch.check_limits()


def _keeper(process: TrialProcess) -> int:
    assert process._process is not None
    return process._process.pid


def _zygote(process: TrialProcess) -> int:
    (zygote,) = psutil.Process(_keeper(process)).children()
    return zygote.pid


def _children(process: TrialProcess) -> list[int]:
    return [child.pid for child in psutil.Process(_zygote(process)).children()]


def _gone(pids: list[int]) -> bool:
    """True once none of the processes runs any more; a zombie that waits to be reaped does not run."""
    for _ in range(100):
        if not any(_runs(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("stops_count", [True, False])
def test_a_process_that_somebody_stops_and_lets_go_on_has_its_time(spec: StudySpec, stops_count: bool) -> None:
    """Stopped for nine of ten seconds of a clock of its own, with a deadline of five: only where stops count is it over."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    now = [0.0]
    watch = _Watch(
        request(with_limits(spec, deadline_s=5.0), fake_candidate()),
        lambda stage: None,
        lambda: now[0],
        stops_count=stops_count,
    )
    watch.hear(("started", process.pid))
    try:
        now[0] = 1.0
        watch.check_limits()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        now[0] = 10.0
        if stops_count:
            with pytest.raises(DeadlineExceeded, match="after 10 s"):
                watch.check_limits()
        else:
            watch.check_limits()
            process.send_signal(signal.SIGCONT)
            os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOWAIT)
            now[0] = 15.0
            with pytest.raises(DeadlineExceeded, match="after 6 s"):
                watch.check_limits()
        assert watch.stopped_s == 9.0
    finally:
        process.kill()
        process.wait()
