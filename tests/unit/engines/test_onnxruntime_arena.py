"""memory_pool_mib of ONNX Runtime: a cap on its arena that is really kept, tried in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

PROGRAM = """
import json, sys, tempfile
from pathlib import Path
import numpy as np
from autotune.candidate import Candidate
from autotune.engines.onnxruntime_cpu import OnnxRuntimeCpu
from autotune.engines.protocol import Engine
from autotune.errors import CandidateRejected

backend, folder = OnnxRuntimeCpu(), Path(tempfile.mkdtemp())
class Variant:
    path = Path(sys.argv[1])
found = []
for pool in map(int, sys.argv[2:]):
    candidate = Candidate(engine="onnxruntime", precision="fp32", pruning_ratio=0.0, batch_size=1, streams=1,
                          worker_threads=1, memory_pool_mib=pool or None)
    backend.build(Variant, candidate, folder)
    try:
        with backend.open(Engine(key="k", backend="onnxruntime", variant=Variant, folder=folder), candidate) as session:
            session.submit({"x": np.ones((1, 1, 1024, 1024), np.float32)}, 0)
            found.append(float(session.wait(0)["y"].ravel()[0]))
    except CandidateRejected as exc:
        found.append([type(exc).__name__, str(exc), exc.stage])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1024×1024 → 16 channels in fp32 (64 MiB of activations) → their mean, which is 1 for an input of ones."""
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("wide") / "wide.onnx"
    weight = numpy_helper.from_array(np.ones((16, 1, 1, 1), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["wide"]), helper.make_node("ReduceMean", ["wide"], ["y"], keepdims=0)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 1024, 1024])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "wide", [given], [result], [weight])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def outcomes(model: Path, *pools_mib: int) -> list[object]:
    """What came of each pool, in order, in one fresh process; 0 stands for no cap."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", PROGRAM, str(model), *map(str, pools_mib)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    found: list[object] = json.loads(ended.stdout)
    return found


def test_a_cap_below_the_activations_is_out_of_memory(wide_model: Path) -> None:
    """64 MiB do not fit into 32: OutOfMemory with the cap in the message."""
    (found,) = outcomes(wide_model, 32)
    assert isinstance(found, list)
    assert found[0] == "OutOfMemory" and "memory_pool_mib=32" in found[1]


def test_a_cap_above_the_activations_runs(wide_model: Path) -> None:
    """In 160 MiB they fit, with the copy that a change of memory layout takes, and so they do without a cap."""
    assert outcomes(wide_model, 160) == [1.0]
    assert outcomes(wide_model, 0) == [1.0]


def test_a_process_has_one_cap(wide_model: Path) -> None:
    """The same cap may be used again, a session without one is not affected, and another one is refused, not ignored."""
    same, uncapped, other = outcomes(wide_model, 160, 0, 32)
    assert (same, uncapped) == (1.0, 1.0)
    assert isinstance(other, list) and other[0] == "Unsupported" and "160 MiB" in other[1]
