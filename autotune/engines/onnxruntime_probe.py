"""Whether one of ONNX Runtime's GPU providers computes on this GPU, tried in a process of its own.

`get_available_providers` lists what the wheel was compiled with, libraries or not; and a wheel without code for this GPU fails
only at its first kernel.
"""

from __future__ import annotations

from autotune.devices.gpu_probe import why_it_fails
from autotune.fingerprint import library_version

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
    """Empty where the provider computed a convolution on this GPU, else the reason in its own words."""
    telling = ("Failed to load library", "no kernel image")
    return why_it_fails(PROGRAM, provider, library_version("onnxruntime-gpu"), telling)
