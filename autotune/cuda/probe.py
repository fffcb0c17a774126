"""Whether a runtime drives this GPU, tried in a process of its own: trying it here would leave a CUDA context here."""

from __future__ import annotations

from autotune.devices.gpu_probe import failure_of

_PROGRAM = """
import sys
from autotune.errors import AutotuneError, CandidateRejected
from autotune.registry import RUNTIMES
try:
    runtime = RUNTIMES.load(sys.argv[1])()
    stream, given, found = runtime.stream(), runtime.pinned(64), runtime.pinned(64)
    there = runtime.pool(cap_bytes=1 << 20).allocate(64, stream)
    given.array[:] = 42
    runtime.copy_in(there, given, 64, stream)
    runtime.copy_out(found, there, 64, stream)
    stream.synchronize()
    there.close()
except (AutotuneError, CandidateRejected) as exc:
    sys.exit(str(exc))
if not (found.array == 42).all():
    sys.exit("64 bytes were copied to the device and back, and came back changed")
"""


def why_runtime_fails(name: str) -> str:
    """Empty where the runtime of this name copied some bytes to the selected GPU and back, else the reason."""
    return failure_of(_PROGRAM, name)
