"""Whether TensorRT starts on this GPU, and TensorRT for RTX builds for it: tried, for nothing that is installed says so."""

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


CURRENT_PROGRAM = "import sys; from autotune.engines.tensorrt_current import tell; tell(sys.argv[1])"


def why_current_fails(module: str, version: object) -> str:
    """Empty where TensorRT for RTX builds an engine for the GPU that is here, loads it and makes a context; else its words."""
    return why_it_fails(CURRENT_PROGRAM, module, ("CURRENT", str(version)))
