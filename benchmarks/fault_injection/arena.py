"""Arena: one study under fire, with the supervisor that starts it again, as systemd does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from autotune.cli.options import PASSED_STORAGE
from autotune.store.journal import read
from fault_injection.databases import Database
from fault_injection.disks import Disk
from fault_injection.study import ROOT

NOBODY = {"stage": "start"}
Event = dict[str, Any]


class NotNow(Exception):
    """The fault has nothing to strike at present."""


@dataclass(slots=True, kw_only=True)
class Arena:
    """One study and its processes. `launch`: "start", or "daemon" for `start --detach --workers 2`."""

    folder: Path
    study_file: Path
    study: str
    database: Database
    database_disk: Disk
    cache: Disk
    launch: str = "start"
    struck: set[str] = field(default_factory=set)
    codes: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _daemon: int | None = None
    _read: int = 0

    # Processes

    @property
    def environment(self) -> dict[str, str]:
        """That of the study's processes: its own locks, the faulty engines, and the folder of the orders."""
        runtime = self.folder / "run"
        runtime.mkdir(exist_ok=True, mode=0o700)
        here = Path(__file__).resolve().parent
        path = [str(ROOT), str(here.parent), str(here / "plugin"), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ, "XDG_RUNTIME_DIR": str(runtime), "AUTOTUNE_LOCKS": str(runtime), "AUTOTUNE_FAULTS": str(self.folder),
            "PYTHONPATH": os.pathsep.join(p for p in path if p), "COLUMNS": "200", PASSED_STORAGE: self.database.url,
        }  # fmt: skip

    def start(self, launch: str = "start") -> None:
        """The study's process runs, or will soon."""
        words = [sys.executable, "-m", "autotune.cli.main", "-v", "start", str(self.study_file)]
        with (self.folder / "start.log").open("ab") as log:
            if launch == "daemon":
                words += ["--detach", "--workers", "2"]
                told = subprocess.run(
                    words, env=self.environment, cwd=self.folder, stderr=subprocess.PIPE, text=True, check=False
                )
                log.write(told.stderr.encode())
                found = re.search(r"runs as process (\d+)", told.stderr)
                self._daemon = int(found[1]) if found else None
                if found is None:
                    self.codes.append(told.returncode)
                return
            self._daemon = None
            self._process = subprocess.Popen(
                words, env=self.environment, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def main(self) -> psutil.Process | None:
        """The process of `autotune start`, None where it is gone."""
        pid = self._daemon or (self._process.pid if self._process else None)
        if self._process is not None and self._daemon is None and self._process.poll() is not None:
            return None
        try:
            found = None if pid is None else psutil.Process(pid)
            return None if found is None or found.status() == psutil.STATUS_ZOMBIE else found
        except psutil.NoSuchProcess:
            return None

    def workers(self) -> list[psutil.Process]:
        """Every process that works on the study: `start` and the helpers, that of a daemon that was killed too."""
        return [p for p in self.everybody() if _is(p, "autotune.cli.main")]

    def measuring(self) -> tuple[psutil.Process, psutil.Process]:
        """A trial's process and its parent. Raises NotNow where no trial is under way."""
        for worker in self.workers():
            for parent in (p for keeper in _children(worker) for p in _children(keeper)):
                for child in _children(parent) if _is(parent, "autotune.trial.zygote") else []:
                    return child, parent
        raise NotNow

    def everybody(self) -> list[psutil.Process]:
        """All processes of the study that run, whoever is their parent."""
        mark, found = f"AUTOTUNE_FAULTS={self.folder}\0".encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if int(path.name) != os.getpid() and mark in (path / "environ").read_bytes() + b"\0":
                    process = psutil.Process(int(path.name))
                    found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
            except (OSError, psutil.Error):
                continue
        return sorted(found, key=lambda p: p.pid)

    def code(self) -> int | None:
        """With what the process of `start` ended; None for one that runs, or of which nobody can know."""
        return None if self._process is None or self._daemon else self._process.poll()

    def supervise(self) -> bool:
        """A study whose process is gone is started again. True when it said that it is done."""
        if self.main() is not None:
            return False
        code = self.code()
        if code is not None:
            self.codes.append(code)
            if code == 0:
                return True
        self.database.up()
        self.cache.free()
        self.start()
        return False

    def end(self) -> None:
        """No process of the study is left."""
        for process in self.everybody():
            try:
                process.kill()
            except psutil.Error:
                continue
        if self._process is not None:
            self._process.wait()

    def keep_logs(self) -> None:
        """The logs of its daemon, helpers and trials are in the study's folder: the cache's disk does not outlive the run."""
        logs = self.cache.folder / "cache" / "logs" / self.study
        if logs.is_dir():
            shutil.copytree(logs, self.folder / "logs", dirs_exist_ok=True)

    # What the study says

    def look(self) -> list[Event]:
        """What happened since the last look."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as log:
            log.seek(self._read)
            new = [line for line in log.read().splitlines(keepends=True) if line.endswith(b"\n")]
        self._read += sum(map(len, new))
        found = [json.loads(line) for line in new]
        self.events += found
        return found

    def now(self, pid: int | None = None, *, dead: bool = False) -> Event:
        """The trial under way and its stage, of the process `pid` or of the one that spoke last; of a dead one if so asked."""
        self.look()
        speaker = pid or (self.events[-1]["pid"] if self.events else None)
        state: Event = dict(NOBODY)
        for event in self.events if speaker is not None and (dead or _runs(speaker)) else []:
            if event["pid"] != speaker:
                continue
            if event["event"] == "trial_began":
                state = {k: event[k] for k in ("role", "number", "candidate")} | {"stage": "begun"}
            elif event["event"] == "stage_began" and "role" in state:
                state["stage"] = event["stage"]
            elif event["event"] in ("trial_ended", "repeated", "planned"):
                state = {"stage": "between trials"}
        return state

    def wait_for(self, told: Callable[[], bool], limit_s: float) -> bool:
        """True as soon as it is so; False when it did not become so in time."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if told():
                return True
            time.sleep(0.004)
        return False

    def spare(self, killed: int | None = None) -> None:
        """What is under way has been struck once: a second time would be a rejection, as it should be.

        `killed`: a process that has just been killed, which may have begun a trial while the blow fell.
        """
        self.struck |= set(_names(self.now() if killed is None else self.now(killed, dead=True)))

    def may_strike(self) -> Event:
        """What is under way. Raises NotNow where it was struck before."""
        state = self.now()
        if self.struck.intersection(_names(state)):
            raise NotNow
        return state

    def at_stake(self) -> set[str]:
        """What dies with all workers: the trials under way, and what waits in their journals, which may then be damaged."""
        found = {name for worker in self.workers() for name in _names(self.now(worker.pid))}
        for path in (self.cache.folder / "cache" / "journal").glob("*/*.jsonl"):
            for entry in read(path).entries:
                found |= {str(entry.record.candidate), f"{entry.record.role} {entry.record.number}"}
        return found

    def journal(self) -> Path | None:
        """A worker's journal in which something waits."""
        found = sorted((self.cache.folder / "cache" / "journal").glob("*/*.jsonl"))
        return next((p for p in found if p.stat().st_size), None)


def _names(state: Event) -> Iterator[str]:
    if "role" in state:
        yield state["candidate"]
        yield f"{state['role']} {state['number']}"


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is(process: psutil.Process, module: str) -> bool:
    try:
        return module in process.cmdline()
    except psutil.Error:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [p for p in process.children() if p.status() != psutil.STATUS_ZOMBIE]
    except psutil.Error:
        return []
