"""Whether one of ONNX Runtime's GPU providers computes on this GPU, tried in a process of its own.

`get_available_providers` lists what the wheel was compiled with, libraries or not; and a wheel without code for this GPU fails
only at its first kernel. Trying it in the asking process would leave a CUDA context there.
"""

from __future__ import annotations

import os
import subprocess
import sys

from autotune.fingerprint import digest_of, library_version

_TIMEOUT_S = 120

PROGRAM = """
import sys
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper
from autotune.engines.onnxruntime_gpu import load_gpu_libraries
provider = sys.argv[1]
if provider not in ort.get_available_providers():
    sys.exit(f"this onnxruntime was not compiled with {provider}: it has {', '.join(ort.get_available_providers())}")
load_gpu_libraries()
ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 8, 8]) for n in "xy"]
graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], "probe", ends[:1], ends[1:],
                          [helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = ort.InferenceSession(model.SerializeToString(), providers=[provider])
if session.get_providers()[0] != provider:
    sys.exit(f"{provider} was asked for, and ONNX Runtime took {session.get_providers()[0]}")
(found,) = session.run(None, {"x": np.ones((1, 1, 8, 8), np.float32)})
if found[0, 0, 4, 4] != 9.0:
    sys.exit(f"{provider} computed {found[0, 0, 4, 4]} where 9 is right")
"""


def why_provider_fails(provider: str) -> str:
    """Empty where the provider computed a convolution on this GPU, else the reason in its own words.

    Asked once: the answer is kept in the environment, so that the processes of a study's trials have it too.
    """
    about = (provider, library_version("onnxruntime-gpu"), os.environ.get("CUDA_VISIBLE_DEVICES"))
    name = f"AUTOTUNE_PROBED_{digest_of(about)}"
    if name not in os.environ:
        os.environ[name] = _tried(provider)
    return os.environ[name]


def _tried(provider: str) -> str:
    command = [sys.executable, "-c", PROGRAM, provider]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"{provider} did not answer within {_TIMEOUT_S} s"
    if ended.returncode == 0:
        return ""
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "Failed to load library" in line or "no kernel image" in line]
    return (telling or lines or [f"{provider} ended with status {ended.returncode}"])[-1][:500]
