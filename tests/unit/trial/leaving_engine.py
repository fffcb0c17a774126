"""The fake engine, whose session starts processes in every way that leaves a process group.

Imported by the process that forks trials (`preload`), so that trials find it under its name. LEAVING_PIDS names the file in
which the started processes are listed, one per line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from autotune.candidate import Candidate
from autotune.engines.fake import FakeBackend, FakeSession
from autotune.engines.protocol import Engine
from autotune.registry import ENGINES

NAME = "leaving"
_SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
_STARTS_ONE = f"import subprocess; print(subprocess.Popen({_SLEEPS!r}, start_new_session=True, stdout=-3).pid)"


class LeavingBackend(FakeBackend):
    """Its sessions leave processes behind."""

    name = NAME

    def open(self, engine: Engine, candidate: Candidate) -> FakeSession:
        """As the fake's, with a child of its own session, one of the trial's group, and one whose parent is gone."""
        apart = subprocess.Popen(_SLEEPS, start_new_session=True)
        beside = subprocess.Popen(_SLEEPS)
        orphan = int(subprocess.check_output([sys.executable, "-c", _STARTS_ONE], env={}, start_new_session=True))
        with Path(os.environ["LEAVING_PIDS"]).open("a") as told:
            told.write(f"{apart.pid}\n{beside.pid}\n{orphan}\n")
        return super().open(engine, candidate)


if "LEAVING_PIDS" in os.environ:  # not in the process that collects the tests, whose other tests list the engines
    ENGINES.add(NAME, f"{__name__}:LeavingBackend")
