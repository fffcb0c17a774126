"""The fake engine, which prints. Imported by the process that forks trials (`preload`).

PRINTING is what its sessions do: print so many bytes at once (a number), or print until their log has been cut ("until-cut").
"""

from __future__ import annotations

import os
import time

from autotune.candidate import Candidate
from autotune.engines.fake import FakeBackend, FakeSession
from autotune.engines.protocol import Engine
from autotune.errors import BuildFailed
from autotune.registry import ENGINES

NAME = "printing"
LINE = b"an engine that talks\n"
FIRST, LAST = b"the first line\n", b"the last line\n"
_BLOCK = LINE * (1 << 16)


class PrintingBackend(FakeBackend):
    """Its sessions begin with text on stdout, as native libraries write it."""

    name = NAME

    def open(self, engine: Engine, candidate: Candidate) -> FakeSession:
        """As the fake's. Raises BuildFailed where the log is never cut."""
        os.write(1, FIRST)
        if os.environ["PRINTING"] == "until-cut":
            _print_until_cut()
        else:
            left = int(os.environ["PRINTING"]) - len(FIRST) - len(LAST)
            while left > 0:
                left -= os.write(1, _BLOCK[: min(left, len(_BLOCK))])
        os.write(1, LAST)
        return super().open(engine, candidate)


def _print_until_cut() -> None:
    size = 0
    for _ in range(400):  # 550 MB
        os.write(1, _BLOCK)
        before, size = size, os.fstat(1).st_size
        if size < before:
            while os.fstat(1).st_size < 3 << 20:  # until the last part is there again
                time.sleep(0.01)
            return
        time.sleep(0.02)
    raise BuildFailed(f"the log was never cut: {size} bytes", stage="open")


if "PRINTING" in os.environ:  # not in the process that collects the tests, whose other tests list the engines
    ENGINES.add(NAME, f"{__name__}:PrintingBackend")
