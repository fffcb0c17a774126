"""Whether TensorRT starts on this GPU: its distributions say nothing of missing libraries or of a driver that is too old."""

from __future__ import annotations

from autotune.devices.gpu_probe import why_it_fails

PROGRAM = """
import importlib
import sys
from autotune.engines.tensorrt_log import make_log
trt = importlib.import_module(sys.argv[1])
log = make_log(trt)
try:
    made = [trt.Builder(log), trt.Runtime(log)]
except Exception as exc:
    made = [exc, None]
if None in made:
    told = [line.text for line in log.lines if line.severity in ("INTERNAL_ERROR", "ERROR")]
    sys.exit(" ".join([*told[:1], *(str(x) for x in made if isinstance(x, Exception))]) or "it makes no builder or no runtime")
"""


def why_tensorrt_fails(module: str, version: object) -> str:
    """Empty where this module makes a builder and a runtime here, else the reason in its own words."""
    return why_it_fails(PROGRAM, module, str(version))
