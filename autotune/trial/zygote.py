"""The trial's warm parent: a process that has imported the engines and forks a fresh child for every trial.

Imports are paid once, and yet each trial starts from the same clean memory: an arena that one trial capped, a thread pool that
it started or memory that it leaked cannot touch the next. The keeper, process PID, runs `python -m autotune.trial.zygote FD PID
MODULE…`, where FD is a socket to the study's process. Messages, all pickled tuples: ("run", TrialRequest) or ("profile",
TrialRequest, runs) in; ("started", pid), ("stage", name), ("answer", TrialRecord or TrialProfile), ("rejected", class of the
CandidateRejected, message, stage), ("error", exception name, message, traceback) and ("exit", status, processes that could not
be ended) out. What a trial started ends with it. When the keeper dies, so do the zygote, its child and all that this started.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from autotune.spec.model import see_users_modules
from autotune.trial.descendants import Descendant, adopt_orphans, descendants, end_descendants, signal_at_parents_death


def main() -> None:
    """Serves requests until the socket closes."""
    keeper = int(sys.argv[2])
    die_with_parent(keeper)
    adopt_orphans()
    conn = Connection(int(sys.argv[1]))
    for module in ("autotune.trial.pipeline", "onnx", *sys.argv[3:]):
        try:
            importlib.import_module(module)
        except ImportError:
            pass  # the trial that needs it says what is missing and how to get it
    while True:
        try:
            task, request, *details = conn.recv()
        except EOFError:
            return
        _warm(request, keeper)
        with _leaving_nothing(keeper) as spared:
            pid = _forked(partial(_child, conn, task, request, details))
            _lead_a_group(pid)
            conn.send(("started", pid))
            _, status = os.waitpid(pid, 0)
            left = end_descendants(spared)
        conn.send(("exit", status, [process.pid for process in left]))


@contextmanager
def _leaving_nothing(keeper: int) -> Iterator[list[Descendant]]:
    """Inside the block children run, and the keeper's death ends all below this process before this process itself.

    Gives what was there before, from imports: it stays. Outside the block the kernel kills this process at once, so that one
    which hangs in an import does not outlive the study.
    """
    spared = descendants()
    before = signal.signal(signal.SIGTERM, _end_all)
    if not signal_at_parents_death(signal.SIGTERM, keeper):
        os._exit(1)
    try:
        yield spared
    finally:
        die_with_parent(keeper)
        signal.signal(signal.SIGTERM, before)


def _end_all(*_: object) -> None:
    end_descendants()
    os._exit(1)


def _forked(work: Callable[[int], Any]) -> int:
    """The id of a fork that does `work(this process's id)` and does not heed SIGTERM as this process does."""
    zygote = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    if pid == 0:
        work(zygote)
        os._exit(1)
    return pid


def _lead_a_group(pid: int) -> None:
    """The child leads a process group of its own, so that what it starts can be ended with it. Parent and child both ask."""
    try:
        os.setpgid(pid, pid)
    except OSError:
        pass  # the other was first, or the child is gone already


def _warm(request: Any, keeper: int) -> None:
    """The study's samples are in memory for this and every later trial.

    A child prepares them in the cache first: exporting and checking the model runs it, and the threads that this starts (those
    of OpenMP among them, whose next user waits for them for ever) must not exist in the process that forks the trials.
    """
    from autotune.cache import Cache
    from autotune.trial.artifacts import cache_of, sharing
    from autotune.trial.stages import is_warm, warm

    # Without the second tier, whose threads must not exist in this process: what it needs is in the cache by then.
    spec, cache = request.spec, Cache(request.cache_root)
    if is_warm(spec, cache):
        # What the last request left behind: after the freeze below a collection takes microseconds, but the collector's own
        # next one is due only when a quarter of everything that was frozen has been left (0.8 KB a trial, 7 MB in 10,000).
        gc.collect()
        return
    see_users_modules(spec)

    def prepare() -> None:
        whole = cache_of(spec, request.cache_root)
        with sharing(whole, []):
            warm(spec, whole)

    if not _done_in_a_child(prepare, keeper):
        return  # the trial meets the same fault, and reports it as its own
    warm(spec, cache)
    # Children then neither scan nor copy what every one of them has.
    gc.collect()
    gc.freeze()


def _done_in_a_child(work: Callable[[], None], keeper: int) -> bool:
    """True when `work` returned in a fork of this process, False when it raised or the fork died. What it started has ended."""

    def alone(zygote: int) -> None:
        die_with_parent(zygote)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)

    with _leaving_nothing(keeper) as spared:
        _, status = os.waitpid(_forked(alone), 0)
        end_descendants(spared)
    return status == 0


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when `parent` dies (Linux; elsewhere nothing happens)."""
    if not signal_at_parents_death(signal.SIGKILL, parent):
        os._exit(1)


def _child(conn: Connection, task: str, request: Any, details: list[Any], parent: int) -> None:
    """Does the task and leaves the process without running the parent's exit handlers."""
    die_with_parent(parent)
    _lead_a_group(0)
    status = 1
    try:
        _redirect_output(request.log_path)
        _offer_to_oom_killer()
        conn.send(_answer(conn, task, request, details))
        status = 0
    except BaseException as exc:
        from autotune.cache.disk import disk_fault, disk_full
        from autotune.errors import AutotuneError

        if not isinstance(exc, AutotuneError) and (number := disk_fault(exc)) is not None:
            named = exc.filename if isinstance(exc, OSError) else None
            exc = disk_full(Path(named).parent if isinstance(named, str) else request.log_path.parent, number)
        kind = type(exc).__name__ if isinstance(exc, AutotuneError) else "bug"
        text = traceback.format_exc()
        conn.send(("error", kind, str(exc) or type(exc).__name__, text))
        with suppress(OSError):  # the log may lie on the disk that is full
            sys.stderr.write(text)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)


def _answer(conn: Connection, task: str, request: Any, details: list[Any]) -> tuple[Any, ...]:
    from autotune.errors import CandidateRejected

    def report(stage: str) -> None:
        conn.send(("stage", stage))

    if task == "run":
        from autotune.trial.pipeline import run_trial

        return ("answer", run_trial(request, report=report))
    from autotune.trial.profile import profile_trial

    try:
        return ("answer", profile_trial(request, details[0], report))
    except CandidateRejected as exc:
        return ("rejected", type(exc).__name__, str(exc), exc.stage)


def _redirect_output(log_path: Path) -> None:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)  # to append: it may be cut meanwhile
    with suppress(OSError):  # the cache removes no log of a trial under way, which this tells
        fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()


def _offer_to_oom_killer() -> None:
    """Out of memory, the kernel ends the trial and not the study."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        pass


if __name__ == "__main__":
    main()
