"""What a runtime does by itself, without an engine: a batch copied to the device and back, and memory from its pool.

    python -m gpu_stages.copies NAME SECONDS      # a JSON object on stdout

For machines on which TensorRT does not run: the same calls that its session makes, so that the libraries can still be compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

import numpy as np

from autotune.bench.statistics import mean_estimate
from autotune.cuda.runtime import DeviceRuntime
from autotune.cuda.select import VARIABLE
from autotune.errors import AutotuneError, CandidateRejected
from autotune.records import Estimate
from autotune.registry import RUNTIMES

BATCH_BYTES = 64 * 3 * 224 * 224 * 4
"""64 images in fp32, the batch that the other stages use where nothing is known."""
N_STREAMS = 2
_N_ALLOCATIONS = 32
_WINDOWS = 10
_MIB = 1 << 20


def measured(runtime: DeviceRuntime, seconds: float, n_bytes: int = BATCH_BYTES) -> dict[str, Any]:
    """Bytes per second there and back over two streams, allocations per second from a capped pool, and what came back."""
    with ExitStack() as things:

        def own(thing: Any) -> Any:
            return things.enter_context(closing(thing))

        pool = own(runtime.pool(cap_bytes=(N_STREAMS + 1) * n_bytes + _N_ALLOCATIONS * _MIB))
        lanes = []
        for _ in range(N_STREAMS):
            stream = own(runtime.stream())
            given, back = own(runtime.pinned(n_bytes)), own(runtime.pinned(n_bytes))
            given.array[:] = np.arange(n_bytes, dtype=np.uint8)
            lanes.append((stream, given, own(pool.allocate(n_bytes, stream)), back))

        def copy() -> None:
            for stream, given, there, back in lanes:
                runtime.copy_in(there, given, n_bytes, stream)
                runtime.copy_out(back, there, n_bytes, stream)
            for stream, *_ in lanes:
                stream.synchronize()

        def allocate() -> None:
            stream = lanes[0][0]
            for buffer in [pool.allocate(_MIB, stream) for _ in range(_N_ALLOCATIONS)]:
                buffer.close()
            stream.synchronize()

        copied = _rate(copy, seconds, 2 * N_STREAMS * n_bytes)
        digest = hashlib.sha256(b"".join(back.array.tobytes() for *_, back in lanes)).hexdigest()
        found = {"bytes_per_s": asdict(copied), "sha256": digest}
        return found | {
            "allocations_per_s": asdict(_rate(allocate, seconds, _N_ALLOCATIONS)),
            "pool_peak_mib": pool.peak_bytes() / _MIB,
        }


def _rate(work: Callable[[], None], seconds: float, amount: int) -> Estimate:
    """`amount` for each call, per second, over windows of at least one call, after a warm-up of a fifth of the time."""
    _called_for(work, seconds / 5)
    rates = []
    for _ in range(_WINDOWS):
        n, took_s = _called_for(work, seconds / _WINDOWS)
        rates.append(n * amount / took_s)
    return mean_estimate(np.array(rates))


def _called_for(work: Callable[[], None], seconds: float) -> tuple[int, float]:
    began, n = time.perf_counter(), 0
    while True:
        work()
        n += 1
        if (took_s := time.perf_counter() - began) >= seconds:
            return n, took_s


def under(name: str, seconds: float, limit_s: float) -> dict[str, Any]:
    """What the runtime of this name gave in a process of its own; {"error": …} where it gave nothing."""
    environment = {**os.environ, VARIABLE: name, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "gpu_stages.copies", name, f"{seconds:g}"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"did not end within {limit_s:g} s"}
    if ended.returncode != 0:
        return {"error": (ended.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(measured(RUNTIMES.load(sys.argv[1])(), float(sys.argv[2]))))
    except (AutotuneError, CandidateRejected) as problem:
        sys.exit(str(problem))
