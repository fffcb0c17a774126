"""The fake engine, whose builds keep a CPU busy for a while and write down where and when.

Imported by the command line and by the processes that fork trials (`preload`), so that studies find it under its name.
SPINNING_LOG names the file that lists the builds: the CPUs a build might run on, what it built, its begin and its end.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from autotune.candidate import Candidate
from autotune.engines.fake import FakeBackend
from autotune.registry import ENGINES
from autotune.variants.variant import ModelVariant

NAME = "spinning"
BUILD_S = 0.8


class SpinningBackend(FakeBackend):
    """Its builds take BUILD_S of CPU time, however often they are stopped."""

    name = NAME
    preload = (__name__,)

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """As the fake's, later."""
        begin, used = time.monotonic(), time.process_time()
        while time.process_time() - used < BUILD_S:
            pass
        super().build(variant, candidate, folder)
        took = {"begin": begin, "end": time.monotonic()}
        told = {"cpus": sorted(os.sched_getaffinity(0)), "engine": [variant.info.key, candidate.batch_size], **took}
        with Path(os.environ["SPINNING_LOG"]).open("a") as log:
            log.write(json.dumps(told) + "\n")


if "SPINNING_LOG" in os.environ:  # not in the process that collects the tests, whose other tests list the engines
    ENGINES.add(NAME, f"{__name__}:SpinningBackend")
