"""Stage rtx: does TensorRT for RTX serve this GPU, with a name for it or without? Every step's answer, in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from autotune.devices.gpu import select_gpu
from autotune.engines.tensorrt_backend import TensorRtRtx
from autotune.engines.tensorrt_probe import CURRENT_PROGRAM
from gpu_stages.bench import Bench

_LIMIT_S = 120.0
_MARGIN_S = 10.0


def run(bench: Bench) -> dict[str, Any]:
    """Engine validity, a build for CURRENT, its loading and its context; and whether the next stages use the library."""
    gpu, backend = select_gpu("cuda"), TensorRtRtx()
    head: dict[str, Any] = {"sm": gpu.sm, "library": backend.library.title}
    if (gap := backend.library.gap()) is not None:
        return {**head, "absent": gap[0], "served": False}
    module = backend.library.module_name() or backend.library.modules[0]
    answers, ended = answers_of(module, max(1.0, min(_LIMIT_S, bench.left_s - _MARGIN_S)))
    bench.keep({**head, "steps": answers, "ended": ended})
    able = backend.capabilities()
    return {**head, "steps": answers, "ended": ended, "served": able.available, "why_not": able.missing}


def answers_of(module: str, limit_s: float) -> tuple[list[dict[str, Any]], str]:
    """What each step answered before the process ended, and how it ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", CURRENT_PROGRAM, module], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit_s)
        last = (err.strip().splitlines() or [""])[-1][:500]
        ended = f"with status {process.returncode}" + (f": {last}" if process.returncode else "")
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        ended = f"not within {limit_s:g} s"
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")], ended
