"""Workers in processes of their own, with a limit on memory and a deadline for each input; one that dies is replaced."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`address_mib`: what a worker may map. `resident_mib`: what it may ever hold. `deadline_s`: wall time of one input."""

    address_mib: int = 6144
    resident_mib: int = 1024
    deadline_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input: its kind, the seed that makes it, and which of its mutations, all of them if None."""

    kind: str
    seed: str
    only: tuple[int, ...] | None = None


class Worker:
    """One process that is fed one input after the other."""

    def __init__(self, limits: Limits, python_path: str) -> None:
        self._limits = limits
        # Memory-backed where there is such a place: twenty thousand inputs are no work for a disk.
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._box = Path(tempfile.mkdtemp(prefix="autotune-fuzz-", dir=place))
        self._environment = {**os.environ, "PYTHONPATH": python_path, "TMPDIR": str(self._box), "PYTHONDONTWRITEBYTECODE": "1",
                             "HOME": str(self._box), "OMP_NUM_THREADS": "1"}  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.errors = self._box / "stderr"

    def run(self, case: Case) -> dict[str, Any]:
        """The outcome, as `feeding.Outcome` has it; also crash and hang, after which the next input meets a fresh process."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write((json.dumps([case.kind, case.seed, case.only]) + "\n").encode())
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended()
        ready, _, _ = select.select([process.stdout], [], [], self._limits.deadline_s)
        if not ready:
            self.close(keep_box=True)
            return {"kind": "hang", "what": f"no answer within {self._limits.deadline_s:g} s", "cpu_s": 0.0, "peak_mib": 0.0}
        line = process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else self._ended()

    def close(self, *, keep_box: bool = False) -> None:
        """The process is gone, and its folders."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if not keep_box:
            shutil.rmtree(self._box, ignore_errors=True)

    def _ended(self) -> dict[str, Any]:
        assert self._process is not None
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
        tail = self.errors.read_text(errors="replace").strip().splitlines()[-1:] or [""]
        self.close(keep_box=True)
        return {"kind": "crash", "what": f"{how} {tail[0][:200]}", "cpu_s": 0.0, "peak_mib": 0.0}

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            shutil.rmtree(self._box / "box", ignore_errors=True)
            command = [sys.executable, "-m", "fuzzing.pool", str(self._box / "box"), str(self._limits.resident_mib)]
            with self.errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=FOLDER, env=self._environment,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (self._limits.address_mib << 20,) * 2),
                )  # fmt: skip
        return self._process


def run_all(
    cases: Iterator[Case], n_workers: int, limits: Limits, hear: Callable[[Case, dict[str, Any]], None], python_path: str
) -> None:
    """Every case is run by one of the workers; `hear` gets each outcome, one at a time."""
    lock = threading.Lock()

    def work() -> None:
        worker = Worker(limits, python_path)
        try:
            while True:
                with lock:
                    case = next(cases, None)
                if case is None:
                    return
                outcome = worker.run(case)
                with lock:
                    hear(case, outcome)
        finally:
            worker.close()

    threads = [threading.Thread(target=work) for _ in range(n_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve() -> None:
    """The worker's side: cases in on stdin, outcomes out on what stdout was; nothing else reaches either."""
    import logging
    import warnings

    from fuzzing.feeding import Feeder

    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    feeder = Feeder(Path(sys.argv[1]), int(sys.argv[2]))
    for line in sys.stdin:
        kind, seed, only = json.loads(line)
        answers.write((json.dumps(feeder.feed(kind, seed, only).as_json()) + "\n").encode())


if __name__ == "__main__":
    serve()
