"""Whether a vendor's library works on this GPU, tried in a process of its own: here it would leave a CUDA context."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from autotune.fingerprint import digest_of

_TIMEOUT_S = 120


def why_it_fails(program: str, argument: str, about: object, telling: Sequence[str] = ()) -> str:
    """Empty where Python runs `program` with `argument` to its end, else the last line that it wrote to stderr.

    A line that has one of `telling` in it comes before the last. `about` is what the answer depends on besides; it is asked
    once for each and kept in the environment, so that the processes of a study's trials have it too.
    """
    name = f"AUTOTUNE_PROBED_{digest_of((argument, about, os.environ.get('CUDA_VISIBLE_DEVICES')))}"
    if name not in os.environ:
        os.environ[name] = failure_of(program, argument, telling)
    return os.environ[name]


def failure_of(program: str, argument: str, telling: Sequence[str] = ()) -> str:
    """As `why_it_fails`, and tried at each call."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", program, argument]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"{argument} did not answer within {_TIMEOUT_S} s"
    if ended.returncode == 0:
        return ""
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    chosen = [line for line in lines if any(words in line for words in telling)]
    return (chosen or lines or [f"{argument} ended with status {ended.returncode}"])[-1][:500]
