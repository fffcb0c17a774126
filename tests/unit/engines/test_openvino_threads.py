"""OpenVINO's first call from many threads at once, which used to wait for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.testing import EngineContract

PROCESSES = 6
PROGRAM = """
import json, sys, tempfile, threading
from pathlib import Path
import numpy as np
from autotune.candidate import Candidate
from autotune.engines.openvino_cpu import OpenVinoCpu
from autotune.engines.protocol import Engine

class Variant:
    path = Path(sys.argv[1])
backend, folder = OpenVinoCpu(), Path(tempfile.mkdtemp())
candidate = Candidate(engine="openvino", precision="fp32", pruning_ratio=0.0, batch_size=2, streams=8,
                      worker_threads=1, memory_pool_mib=None)
backend.build(Variant, candidate, folder)
session = backend.open(Engine(key="k", backend="openvino", variant=Variant, folder=folder), candidate)
start, n_done = threading.Barrier(8), []
def drive(slot):
    inputs = {"input": np.ones((2, 1, 8, 8), np.float32)}
    start.wait()
    for _ in range(20):
        session.submit(inputs, slot)
        session.wait(slot)
    n_done.append(slot)
threads = [threading.Thread(target=drive, args=(slot,), daemon=True) for slot in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(30)
print(json.dumps(sorted(n_done)), flush=True)
import os; os._exit(0)
"""


def test_eight_threads_may_submit_first(tmp_path: Path) -> None:
    """The deadlock struck in the first call of a process only: so fresh processes, 8 threads let go at once, several times."""
    pytest.importorskip("openvino")

    class Contract(EngineContract):
        def backend(self):  # type: ignore[no-untyped-def]
            from autotune.engines.openvino_cpu import OpenVinoCpu

            return OpenVinoCpu()

    variant = Contract()._variant(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", PROGRAM, str(variant.path)]
    for _ in range(PROCESSES):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=True)
        assert json.loads(ended.stdout) == list(range(8)), "some threads never came back"
