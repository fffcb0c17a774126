"""TrialProcess: runs trials in child processes that a deadline, a memory limit or a crash ends without ending the study."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Self

from autotune import errors
from autotune.bench.load import MAX_WARMUP_S
from autotune.cache import Cache
from autotune.cache.trial_logs import log_bytes
from autotune.devices.gpu import device_fingerprint, device_kind
from autotune.errors import CandidateRejected, DeadlineExceeded, EnvironmentProblem, OutOfMemory, WorkerCrashed
from autotune.fingerprint import cpu_fingerprint
from autotune.records import PROCESS_ENDED, Rejection, TrialRecord
from autotune.trial.log_file import keep_short, last_lines, settle
from autotune.trial.pipeline import now_utc
from autotune.trial.profile import TrialProfile
from autotune.trial.request import TrialRequest

_log = logging.getLogger(__name__)
_POLL_S = 0.1
_REAP_S = 10.0
"""A killed process is gone in milliseconds. Where it is not, it hangs in the kernel, or its parent is stopped."""
_DEFAULT_MEMORY_SHARE = 0.9


class Interrupted(Exception):
    """The trial was ended because `should_abort` said so; it has no record and may be put back."""


class TrialProcess:
    """A warm process that forks a child per trial. One trial at a time; use as a context manager, from one thread."""

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._preload = tuple(preload)
        self._process: subprocess.Popen[bytes] | None = None
        self._conn: Connection | None = None
        self._under_way: _Watch | None = None
        self.stopped_s = 0.0
        """How long the last trial's process was stopped by a signal, as far as looking ten times a second tells."""

    @property
    def child(self) -> int | None:
        """The process of the trial under way, which leads a group of its own; None where there is none. For any thread."""
        watch = self._under_way
        return None if watch is None else watch.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The warm process has ended, its keeper, and all that a trial of theirs started."""
        if self._process is not None:
            _end(self._process)
        if self._conn is not None:
            self._conn.close()
        self._process = self._conn = None

    def run(
        self,
        request: TrialRequest,
        on_stage: Callable[[str], None] = lambda stage: None,
        should_abort: Callable[[], bool] = lambda: False,
        *,
        stops_count: bool = True,
    ) -> TrialRecord:
        """The trial's record, crashed and killed trials included. Unless `stops_count` its deadline is put off by the time in
        which it was stopped by a signal, as somebody does who lets it go on.

        Raises Interrupted when `should_abort` turns true, and SpecError or EnvironmentProblem when the study, and not the
        candidate, is at fault.
        """
        started_at = now_utc()
        watch = _Watch(request, on_stage, stops_count=stops_count)
        try:
            found: TrialRecord = self._ask(("run", request), watch, should_abort)
        except CandidateRejected as exc:
            return watch.crashed(exc, started_at)
        return found

    def profile(
        self,
        request: TrialRequest,
        n_runs: int,
        on_stage: Callable[[str], None] = lambda stage: None,
        should_abort: Callable[[], bool] = lambda: False,
    ) -> TrialProfile:
        """The profile of the request's candidate. Raises CandidateRejected where there is none, WorkerCrashed and
        DeadlineExceeded among them, and what `run` raises.
        """
        found: TrialProfile = self._ask(("profile", request, n_runs), _Watch(request, on_stage), should_abort)
        return found

    def _ask(self, message: tuple[Any, ...], watch: _Watch, should_abort: Callable[[], bool]) -> Any:
        """The child's answer. Raises CandidateRejected for a child that has none, whatever became of it."""
        while True:
            watch.begin()
            self._under_way = watch
            fresh = self._process is None
            try:
                conn = self._connect()
                conn.send(message)
                self._follow(conn, watch, should_abort)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                self.close()
                if watch.pid is None and not fresh:
                    continue  # the warm process died between two trials, which is not this candidate's doing
                raise WorkerCrashed("the process that forks trials died", stage=watch.stage) from None
            finally:
                self._under_way = None
                self.stopped_s = watch.stopped_s
                watch.settle_log()
            return watch.outcome()

    def _connect(self) -> Connection:
        if self._process is not None and self._process.poll() is None and self._conn is not None:
            return self._conn
        self.close()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "autotune.trial.keeper", str(theirs.fileno()), str(os.getpid()), *self._preload]
        # A session of its own: Ctrl-C on the terminal is for the study, which decides what becomes of the trial.
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        theirs.close()
        self._conn = Connection(ours.detach())
        return self._conn

    def _follow(self, conn: Connection, watch: _Watch, should_abort: Callable[[], bool]) -> None:
        while True:
            if conn.poll(_POLL_S):
                message = conn.recv()
                if message[0] == "exit":
                    _, watch.status, left = message
                    _name_what_is_left(left)
                    return
                watch.hear(message)
                continue
            if should_abort():
                self._kill(conn, watch)
                raise Interrupted
            if watch.is_overdue():
                self._kill(conn, watch)
                return
            keep_short(watch.request.log_path)
            try:
                watch.check_limits()
            except CandidateRejected:
                self._kill(conn, watch)
                raise

    def _kill(self, conn: Connection, watch: _Watch) -> None:
        """The child is dead and the connection is ready for the next request, or there is none and the next opens another."""
        if watch.pid is None:  # the study's samples are still being prepared, in a process of which only the zygote knows
            self.close()
            return
        for kill in (os.killpg, os.kill):  # its group as well, unless it died before it had one
            try:
                kill(watch.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + _REAP_S
        try:
            while conn.poll(max(0.0, deadline - time.monotonic())):
                message = conn.recv()
                if message[0] == "exit":
                    _name_what_is_left(message[2])
                    return
            _log.warning(
                "process=%d was killed and is not gone after %.0f s; the trials get another parent", watch.pid, _REAP_S
            )
        except (EOFError, OSError):
            pass  # its parent died
        self.close()


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """The keeper has ended, and before it all that is below it, as far as SIGKILL reaches."""
    keeper.terminate()
    with suppress(ProcessLookupError):
        keeper.send_signal(signal.SIGCONT)  # one that was stopped heeds nothing else
    try:
        keeper.wait(_REAP_S)
    except subprocess.TimeoutExpired:
        keeper.kill()
        try:
            keeper.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            _log.warning("process=%d cannot be ended; it hangs in the kernel", keeper.pid)
            return
    if keeper.stdout is not None:
        with keeper.stdout:
            _name_what_is_left([int(word) for word in keeper.stdout.read().split()])


def _name_what_is_left(pids: Sequence[int]) -> None:
    for pid in pids:
        _log.warning("process=%d of a trial cannot be ended; it hangs in the kernel", pid)


class _Watch:
    """What the study's process knows of the trial under way."""

    def __init__(
        self,
        request: TrialRequest,
        on_stage: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        stops_count: bool = True,
    ) -> None:
        self.request = request
        self._on_stage = on_stage
        self._clock = clock
        self._stops_count = stops_count
        share = int(_DEFAULT_MEMORY_SHARE * cpu_fingerprint().memory_mib)
        self._limit_mib = request.spec.limits.memory_mib or share
        self._logged_bytes = log_bytes(request.log_path)
        self.begin()

    def begin(self) -> None:
        """Nothing is known of the trial yet, and its time counts from now."""
        self.stage = "start"
        self.pid: int | None = None
        self.status = 0
        self._answer: Any = None
        self._answered: float | None = None
        self._error: tuple[str, str, str] | None = None
        self._began = self._clock()
        # Windows that are left to a build are measured again.
        more_s = self.request.spec.load.longest_s if self.request.build_group is not None else 0.0
        self._deadline = self._began + self.request.spec.limits.deadline_s + more_s
        self._looked, self.stopped_s = self._began, 0.0

    def hear(self, message: tuple[Any, ...]) -> None:
        """A message of the child is taken in."""
        kind, *rest = message
        if kind == "started":
            self.pid = rest[0]
        elif kind == "stage":
            self.stage = rest[0]
            if self.stage == "load":
                self._deadline = min(self._deadline, self._clock() + self._longest_load_s())
            self._on_stage(self.stage)
        elif kind == "answer":
            self._answer = rest[0]
            self._answered = self._clock()
        elif kind == "rejected":
            self._answer = getattr(errors, rest[0])(rest[1], stage=rest[2])
        elif kind == "error":
            self._error = (rest[0], rest[1], rest[2])

    def is_overdue(self) -> bool:
        """True when the child has answered, and yet does not end: its answer stands, and the process is of no use any more."""
        return self._answered is not None and self._clock() - self._answered > _REAP_S

    def check_limits(self) -> None:
        """Raises DeadlineExceeded or OutOfMemory when the child has taken more than it may."""
        limits, now = self.request.spec.limits, self._clock()
        if self.pid is not None and _is_stopped(self.pid):
            self.stopped_s += now - self._looked
        self._looked = now
        spared_s = 0.0 if self._stops_count else self.stopped_s
        if now - spared_s > self._deadline:
            raise DeadlineExceeded(
                f"the trial was still in stage {self.stage} after {now - spared_s - self._began:.0f} s; allowed: "
                f"limits.deadline_s {limits.deadline_s:g} in all, of which {self._longest_load_s():.0f} s for the load",
                stage=self.stage,
            )
        resident = None if self.pid is None else _resident_mib(self.pid)
        if resident is not None and resident > self._limit_mib:
            raise OutOfMemory(
                f"the trial held {resident:.0f} MiB in stage {self.stage}; allowed: {self._limit_mib} MiB (limits.memory_mib)",
                stage=self.stage,
            )

    def _longest_load_s(self) -> float:
        """Twice what the load plan allows, beside a build four times, and a minute: a load that takes longer hangs."""
        load = self.request.spec.load
        times = 2 if self.request.build_group is None else 4
        return 60 + times * (MAX_WARMUP_S + load.warmup_s + load.longest_s + load.window_s)

    def outcome(self) -> Any:
        """The child's answer. Raises CandidateRejected where that is its answer or what its end means."""
        if isinstance(self._answer, CandidateRejected):
            raise self._answer
        if self._answer is not None:
            return self._answer
        if self._error is not None:
            kind, message, trace = self._error
            if kind == "bug":
                raise WorkerCrashed(trace, stage=self.stage)
            raise _raised_again(kind, message)
        raise WorkerCrashed(self._death(), stage=self.stage)

    def crashed(self, exc: CandidateRejected, started_at: str) -> TrialRecord:
        """A record of a trial that could not write its own."""
        _log.warning("trial=%d stage=%s %s: %s", self.request.number, exc.stage, exc.reason, str(exc).splitlines()[-1])
        limits = isinstance(exc, DeadlineExceeded | OutOfMemory)
        return TrialRecord(
            number=self.request.number,
            role=self.request.role,
            candidate=self.request.candidate,
            state="rejected" if limits else "crashed",
            flags=(PROCESS_ENDED,),
            reject=Rejection(reason=exc.reason, stage=exc.stage, message=str(exc)),
            metric=self.request.spec.data.metric,
            device=device_fingerprint(device_kind()).device,
            started_at=started_at,
            finished_at=now_utc(),
        )

    def _death(self) -> str:
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            how = f"was ended by {signal.Signals(number).name}"
            how += " (perhaps the kernel's out-of-memory killer)" if number == signal.SIGKILL else ""
        else:
            how = f"left with exit code {os.waitstatus_to_exitcode(self.status)}"
        return f"the trial's process {how} in stage {self.stage}{self._log_tail()}"

    def _log_tail(self) -> str:
        lines = last_lines(self.request.log_path, 12)
        return f". Log: {self.request.log_path}" + "".join(f"\n  {line}" for line in lines) if lines else ""

    def settle_log(self) -> None:
        """The child has ended, and its log is short, or gone where it is empty, and counted in the cache's bound."""
        request, before = self.request, self._logged_bytes
        settle(request.log_path)
        self._logged_bytes = log_bytes(request.log_path)
        if self._logged_bytes > before and request.log_path.is_relative_to(request.cache_root):
            Cache(request.cache_root, max_gib=request.spec.cache.max_gib).keep_bound(self._logged_bytes - before)


def _raised_again(kind: str, message: str) -> Exception:
    if kind == "EnvironmentProblem":
        return EnvironmentProblem(message)
    found: type[Exception] = getattr(errors, kind, errors.AutotuneError)
    return found(message)


def _is_stopped(pid: int) -> bool:
    """True while a signal such as SIGSTOP keeps the process from running (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as handle:  # noqa: PTH123  # ten times a second: no Path object
            return handle.read().rpartition(b")")[2].split()[0] == b"T"
    except (OSError, IndexError):
        return False


def _resident_mib(pid: int) -> float | None:
    try:
        with open(f"/proc/{pid}/statm") as handle:  # noqa: PTH123  # ten times a second: no Path object
            return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return None
