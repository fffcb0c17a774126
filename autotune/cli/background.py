"""Other processes that work on a study: those that help this one, and one that goes on without a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cache.disk import disk_full, fault_of
from autotune.cli.options import PASSED_STORAGE, writing
from autotune.cli.saying import say
from autotune.errors import StoreError

if TYPE_CHECKING:
    from autotune.spec.model import StudySpec
    from autotune.store.attendance import Order
    from autotune.store.repository import Store
    from autotune.study.plan import StudyPlan
    from autotune.study.session import StopSwitch

_START_S = 60.0
"""How long a detached study may take until it is seen in the database: imports on a cold disk, a slow database server."""


_WELL = (0, 130, -signal.SIGTERM)
"""How a helper leaves: done, asked to stop, or asked before it had begun."""


@contextmanager
def helpers(n: int, plan: StudyPlan, study_file: str, options: Sequence[str], switch: StopSwitch) -> Iterator[None]:
    """`n` more workers run while the block does. Whenever `switch` is pressed they are asked to stop, else when the block ends.

    They are in sessions of their own: Ctrl-C on the terminal reaches this process, which passes it on once and not twice.
    """
    folder = _log_folder(plan.spec) if n else Path()
    running: list[subprocess.Popen[bytes]] = []
    asked = set[int]()

    def stop() -> None:
        for process in running:
            asked.add(process.pid)
            process.send_signal(signal.SIGTERM)

    switch.on_press = stop
    try:
        for i in range(n):
            running.append(_spawn(folder / f"worker-{i + 1}.log", ["worker", study_file, *options]))
        yield
    finally:
        for process in running:
            if process.pid not in asked:  # nobody pressed, or it was begun at that very moment
                process.send_signal(signal.SIGTERM)
        for i, process in enumerate(running):
            if (code := process.wait()) not in _WELL:
                say(f"helper {i + 1} left with {code}; see {folder / f'worker-{i + 1}.log'}", before="note: ")


def detached(
    spec: StudySpec, study_file: str, options: Sequence[str], storage: str | None, is_at_work: Callable[[int], bool]
) -> int:
    """The study goes on in a session of its own; its exit code if it ended at once, else 0 as soon as it is at work.

    `is_at_work`: whether the process of that id, or one that it started, was seen at work on the study.
    """
    log_path = _log_folder(spec) / "start.log"
    process = _spawn(log_path, ["-v", "start", study_file, *options])
    ended = _ended_before_working(process, log_path, is_at_work)
    if ended and process.returncode == 0:
        click.echo(f"study {spec.study} is done; its log: {log_path}", err=True)
        return 0
    if ended:
        printed = log_path.with_suffix(".out") if "json" in options else log_path
        click.echo(f"autotune: study {spec.study} did not start; its log {printed} ends:", err=True)
        lines = printed.read_text(errors="replace").splitlines()[-5:]
        if not lines and (fault := fault_of(log_path.parent)) is not None:
            lines = [str(disk_full(log_path.parent, fault))]  # which left no room for the reason either
        click.echo("\n".join(lines), err=True)
        return process.returncode
    click.echo(f"study {spec.study} runs as process {process.pid}; log: {log_path}", err=True)
    click.echo(f"look: autotune status {study_file}    stop: autotune stop {study_file}", err=True)
    if pause := _pause_of(spec, storage):
        click.echo(f"it is paused since {pause.given_at} by {pause.given_by} and waits; autotune resume {study_file}", err=True)
    return 0


class WorkerCame:
    """Whether a worker came to the study that was not there before, on whatever host: so a fleet is seen at work."""

    def __init__(self, spec: StudySpec, storage: str | None) -> None:
        self._study, self._url = spec.study, storage or spec.storage
        self._store: Store | None = None
        self._before = self._workers()

    def __call__(self, pid: int) -> bool:
        """True once it is there. `pid` is the supervisor's, which works on no study itself."""
        return bool(self._workers() - self._before)

    def _workers(self) -> set[str]:
        from autotune.store.repository import open_store
        from autotune.study.kinds import parts_of

        try:
            store = self._store = self._store or open_store(self._url, create=False, retry_s=0.0)
            return {w.worker.worker_id for row in parts_of(self._study, store) for w in store.workers(row.id)}
        except StoreError:  # not there yet, or away
            self._store = None
            return set()


def _pause_of(spec: StudySpec, storage: str | None) -> Order | None:
    from autotune.store.repository import open_store
    from autotune.study.kinds import parts_of

    store = open_store(storage or spec.storage)
    return next((pause for row in parts_of(spec.study, store) if (pause := store.pause_of(row.id))), None)


def _ended_before_working(process: subprocess.Popen[bytes], log_path: Path, is_at_work: Callable[[int], bool]) -> bool:
    """True when the process ended before it was seen at work; False once it is, or when nobody can wait longer."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return True
        if is_at_work(process.pid):
            return False
        time.sleep(0.1)
    click.echo(f"it has not begun after {_START_S:.0f} s; see {log_path}", err=True)
    return False


def _spawn(log_path: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    words, environment = [*words, "--log-file", str(log_path)], dict(os.environ)
    if "--storage" in words:
        at = words.index("--storage")
        _, environment[PASSED_STORAGE] = words.pop(at), words.pop(at)
    command = [sys.executable, "-m", "autotune.cli.main", *words]
    # Until the process has set its log up, and for what it cannot log; then it rotates the file by itself.
    with writing(log_path), log_path.open("a") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )


def _log_folder(spec: StudySpec) -> Path:
    from autotune.trial.artifacts import cache_root_of

    folder = cache_root_of(spec) / "logs" / spec.study
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
