"""Does this machine hold still, and would a small probe of its processors tell when it does not?

    python benchmarks/stillness.py MODEL.onnx --seconds 150 --out benchmarks/results/stillness.json

By turns, for so long: probes of a fraction of a millisecond each, then some dozens of inferences on all processors (ONNX
Runtime, batch 1, random input). A neighbour on the other hardware thread of a core, or on the shared cache, slows the
inferences without a trace in /proc/stat; `steal` counts what the hypervisor admits. Printed, over means of five seconds: by how
much the inferences' time varies (standard deviation of its logarithm), how well each probe follows it (correlation), and what
is left of the variation once a line through the probe is taken off.

Needs: pip install 'autotune[onnxruntime]'
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.fingerprint import cpu_fingerprint, usable_cores

_SPAN_S = 5.0


def main() -> None:
    """Measures, prints and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    work = {**_probes(), "inference": _inference(arguments.model)}
    for run in work.values():
        run()
    rows: list[list[float]] = []
    began, stolen = time.monotonic(), _stolen_ticks()
    while (now := time.monotonic() - began) < arguments.seconds:
        rows.append([now, *(_seconds(run) for run in work.values())])
    table = np.array(rows)
    span = (table[:, 0] // _SPAN_S).astype(int)
    means = np.array([np.log(table[span == k, 1:]).mean(axis=0) for k in np.unique(span)])
    document = {
        "machine": _machine(),
        "seconds": arguments.seconds,
        "steal_share": (_stolen_ticks() - stolen) / 100 / arguments.seconds / usable_cores(),
        "inference_ms_by_span": [round(float(v) * 1000, 4) for v in np.exp(means[:, -1])],
        "inference_sd": float(means[:, -1].std(ddof=1)),
        "probes": {name: _follows(means[:, i], means[:, -1]) for i, name in enumerate(work) if name != "inference"},
    }
    print(json.dumps(document, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")


def _follows(probe: NDArray[np.float64], inference: NDArray[np.float64]) -> dict[str, float]:
    slope, intercept = np.polyfit(probe, inference, 1)
    left = inference - slope * probe - intercept
    return {
        "sd": float(probe.std(ddof=1)),
        "correlation": float(np.corrcoef(probe, inference)[0, 1]),
        "slope": float(slope),
        "sd_left": float(left.std(ddof=2)),
    }


def _probes() -> dict[str, Callable[[], Any]]:
    """Work that hangs on one thing each: a chain of instructions, the vector units, the second-level cache, memory."""
    rng = np.random.default_rng(0)
    data = rng.bytes(1 << 20)
    within_l2 = rng.random(1 << 15).astype(np.float32)  # 128 KiB
    source = rng.random(1 << 20)  # 8 MiB
    target = np.empty_like(source)
    large = rng.random(16 << 20).astype(np.float32)  # 64 MiB
    places = rng.integers(0, len(large), 20_000)

    def sums() -> None:
        for _ in range(60):
            within_l2.sum()

    return {
        "sha256 of 1 MiB": lambda: hashlib.sha256(data).digest(),
        "sums of 128 KiB": sums,
        "sums of 128 KiB on each core": lambda: _on_each_core(sums),
        "copy of 8 MiB": lambda: np.copyto(target, source),
        "random reads of 64 MiB": lambda: large.take(places),
    }


def _on_each_core(run: Callable[[], None]) -> None:
    threads = [threading.Thread(target=run) for _ in range(usable_cores())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _inference(model: Path) -> Callable[[], Any]:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = [n if isinstance(n, int) else 1 for n in given.shape]
    feed = {given.name: np.random.default_rng(0).random(shape).astype(np.float32)}

    def run() -> None:
        for _ in range(40):
            session.run(None, feed)

    return run


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _stolen_ticks() -> int:
    """Hundredths of a second that the hypervisor took from this machine's processors, all together (proc(5))."""
    stat = Path("/proc/stat")
    return int(stat.read_text().split(maxsplit=9)[8]) if stat.exists() else 0


def _machine() -> dict[str, Any]:
    found = cpu_fingerprint(("onnxruntime", "numpy"))
    return {"device": found.device, "system": found.system, "versions": dict(found.versions)}


if __name__ == "__main__":
    main()
