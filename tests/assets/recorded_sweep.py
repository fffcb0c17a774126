"""A small table made by hand: two engines, pruning, a rejected variant, two processes per point; every number is chosen."""

from __future__ import annotations

import math
from typing import Any

from autotune.candidate import Candidate
from autotune.fingerprint import DeviceFingerprint
from autotune.records import Estimate, Rejection, TrialRecord
from autotune.simulator.table import Artifact, EngineFacts, Load, Point, SweepTable
from autotune.spec.model import ConstraintsSpec, LoadSpec

ACCURACY = {"fp32": 0.90, "fp16": 0.895, "int8": 0.50}
VARIANT_S = {"fp32": 1.0, "fp16": 4.0, "int8": 8.0}
ENGINE_S, ACCURACY_S, OPEN_S, PROBE_S, OTHER_S, LOAD_S = 2.0, 3.0, 0.5, 0.25, 0.125, 5.0
REFERENCE_S = 10.0
PRUNE_S = 30.0
SPREAD = 0.02


def candidate(precision: str = "fp32", batch: int = 1, streams: int = 1, ratio: float = 0.0) -> Candidate:
    return Candidate(
        engine="box", precision=precision, pruning_ratio=ratio, batch_size=batch, streams=streams, worker_threads=None,
        memory_pool_mib=None,
    )  # fmt: skip


def rate(c: Candidate) -> float:
    """Items per second: faster with fp16, with larger batches up to 4 and with two streams."""
    speed = {"fp32": 100.0, "fp16": 160.0, "int8": 250.0}[c.precision]
    by_batch = {1: 1.0, 2: 1.5, 4: 2.0, 8: 1.8}[c.batch_size]
    by_streams = {1: 1.0, 2: 1.25, 3: 1.0}[c.streams or 1]
    return speed * by_batch * by_streams * (1 + c.pruning_ratio)


def grid() -> list[Candidate]:
    return [
        candidate(p, b, s, r) for p in ("fp32", "fp16", "int8") for r in (0.0, 0.5) for b in (1, 2, 4, 8) for s in (1, 2, 3)
    ]


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.01, n=100, method="by hand")


class Rows:
    """The table's artifacts as they are first named."""

    def __init__(self) -> None:
        self.artifacts: list[Artifact] = []
        self._row: dict[Any, int] = {}

    def row(self, key: Any, **values: Any) -> int:
        if key not in self._row:
            self._row[key] = len(self.artifacts)
            self.artifacts.append(Artifact(**values))
        return self._row[key]

    def of(self, c: Candidate) -> dict[Any, int]:
        accuracy = ACCURACY[c.precision] - 0.004 * c.pruning_ratio
        variant = (c.precision, c.pruning_ratio)
        found = {
            "variant": self.row(("v", *variant), kind="variant", seconds=VARIANT_S[c.precision]),
            "engine": self.row(("e", *variant, c.batch_size), kind="engine", seconds=ENGINE_S),
            "accuracy": self.row(
                ("a", *variant), kind="accuracy", seconds=ACCURACY_S, accuracy=estimate(accuracy), drop=estimate(0.9 - accuracy)
            ),
        }
        if c.pruning_ratio:
            found["prune"] = self.row(("p", c.pruning_ratio), kind="prune", seconds=PRUNE_S)
        return found


def point(c: Candidate, rows: Rows) -> Point:
    artifacts = rows.of(c)
    times = {"open_s": OPEN_S, "probe_s": PROBE_S, "other_s": OTHER_S}
    if c.precision == "int8":
        reject = Rejection(reason="accuracy_too_low", stage="accuracy", message="half of it is wrong")
        return Point(candidate=c, state="rejected", reject=reject, artifacts=artifacts, inferred=c.batch_size > 1, **times)
    loads = tuple(
        Load(
            items_per_s=rate(c) * math.exp(sign * SPREAD), half_width=0.01, windows=6, seconds=LOAD_S,
            p99_ms=1000 * c.batch_size / rate(c), memory_mib=50.0 + c.batch_size, energy_j=None,
        )
        for sign in (1, -1)
    )  # fmt: skip
    return Point(candidate=c, state="complete", artifacts=artifacts, loads=loads, **times)


def table(**changes: Any) -> SweepTable:
    """72 points, 48 of them feasible; the best of the unpruned ones is fp16, batch 4, two streams: 400 items/s."""
    rows = Rows()
    points = tuple(point(c, rows) for c in grid())
    reference = TrialRecord(
        number=0, role="reference", candidate=candidate(), state="complete", metric="top1", accuracy=estimate(0.9),
        accuracy_drop=estimate(0.0), throughput_items_per_s=estimate(100.0), scores_key="scores",
        stage_s={"variant": 1.0, "engine": 2.0, "accuracy": 3.0, "load": 3.0},
        started_at="2026-01-01T00:00:00.000+00:00", finished_at="2026-01-01T00:00:10.000+00:00",
    )  # fmt: skip
    values: dict[str, Any] = {
        "study": "recorded",
        "model": {"name": "tiny.onnx", "digest": "0" * 64},
        "device": DeviceFingerprint(device="a box × 2", kind="cpu", cores=2, memory_mib=1024, system="Linux"),
        "metric": "top1",
        "objectives": ("accuracy", "throughput"),
        "constraints": ConstraintsSpec(accuracy_drop=0.02),
        "load": LoadSpec(window_s=0.5, min_windows=6, max_s=4.0, warmup_s=1.0),
        "price_per_hour": None,
        "pairs": (("box", "fp32"), ("box", "fp16"), ("box", "int8")),
        "values": {"pruning_ratio": (0.0, 0.5), "batch_size": (1, 2, 4, 8), "streams": (1, 2, 3)},
        "engines": {
            "box": EngineFacts(
                knobs=frozenset({"batch_size", "streams"}),
                build_knobs=frozenset({"batch_size"}),
                defaults={"batch_size": 1, "streams": 1},
            )
        },
        "priors": (candidate(), candidate("fp16")),
        "reference": reference,
        "reference_artifacts": rows.of(candidate()),
        "artifacts": tuple(rows.artifacts),
        "points": points,
    }
    return SweepTable(**(values | changes))
