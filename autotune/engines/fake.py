"""A deterministic engine for tests: it reads the answer from the sample, errs at a known rate and takes a known time.

No number of it may ever be shown as a measurement of a real engine; it is offered only when a study names it.

* Model: any ONNX file; it is never run. Feature 0 of a sample is its class, feature 1 a number in [0, 1) that decides whether
  the engine errs on it: it does when the number is below `error_rate(candidate)`.
* Time: `service_s(candidate)` per submission on each of `min(streams, worker_threads)` servers, slept, so accuracy and
  throughput are closed formulas and the Pareto front can be written down by hand.
* The machine: sessions run at the speed that the file named by AUTOTUNE_FAKE_SPEED holds when they are opened (0.5: half), so
  that a test can slow the machine down in the middle of a study.
* Devices: besides the CPU it runs on simulated ones, `device: fake:N` (devices/simulated.py), which measure side by side.
* Faults, by memory_pool_mib: FAULTS lists the values that crash, hang, blow up, raise or fail to build.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from autotune.candidate import Candidate, Scalar
from autotune.devices.simulated import simulated_number
from autotune.engines.layer_roles import role_of
from autotune.engines.layers import Layer, LayerReport
from autotune.engines.protocol import Capabilities, Engine, Inputs, Outputs
from autotune.errors import BuildFailed, OutOfMemory
from autotune.variants.outline import outline_of
from autotune.variants.variant import ModelVariant, QuantScheme

FAULTS = {13: "segv", 14: "hang", 15: "blow-up", 16: "exception", 17: "build", 18: "out-of-memory", 19: "exit"}
_SPEED = {"fp32": 1.0, "fp16": 1.6, "int8": 2.5, "int8-tensor": 2.5}
_ERROR = {"fp32": 0.10, "fp16": 0.10, "int8": 0.12, "int8-tensor": 0.60}


def error_rate(candidate: Candidate) -> float:
    """Share of samples on which the fake errs: by precision, plus 0.1 for each 0.5 of pruning."""
    return _ERROR[candidate.precision] + 0.2 * candidate.pruning_ratio


def service_s(candidate: Candidate) -> float:
    """Seconds one submission takes: 2 ms and 0.5 ms per sample, divided by the precision's speed and by the pruning."""
    return (0.002 + 0.0005 * candidate.batch_size) / _SPEED[candidate.precision] * (1 - 0.5 * candidate.pruning_ratio)


def throughput_items_per_s(candidate: Candidate) -> float:
    """Items per second of the closed loop, by the formula above."""
    servers = min(candidate.streams or 1, candidate.worker_threads or 1)
    return servers * candidate.batch_size / service_s(candidate)


def machine_speed() -> float:
    """The speed that a test set, 1 where none did."""
    path = os.environ.get("AUTOTUNE_FAKE_SPEED")
    return float(Path(path).read_text()) if path else 1.0


class FakeBackend:
    """The backend; see the module's docstring for what it promises."""

    name = "fake"
    build_knobs = frozenset({"batch_size"})
    run_knobs = frozenset({"streams", "worker_threads", "memory_pool_mib"})
    preload: tuple[str, ...] = ()

    def capabilities(self) -> Capabilities:
        """Always available, with four precisions; bf16 is refused so that refusals can be tested."""
        return Capabilities(
            available=True,
            precisions=tuple(_SPEED),
            refused={"bf16": "the fake engine has no bf16"},
            limits={"worker_threads": (1, 4), "streams": (1, 4)},
            device="cpu" if simulated_number() is None else "fake",
            distributions=("numpy",),
            offered="only by name",
            knob_docs={k: "fake" for k in ("batch_size", "streams", "worker_threads", "memory_pool_mib")},
        )

    def scheme(self, precision: str) -> QuantScheme:
        """The default scheme."""
        return QuantScheme()

    def defaults(self) -> Mapping[str, Scalar | None]:
        """One sample, one stream, one thread."""
        return {"batch_size": 1, "streams": 1, "worker_threads": 1, "memory_pool_mib": None}

    def build(self, variant: ModelVariant, candidate: Candidate, folder: Path) -> None:
        """A file that names the batch. Raises BuildFailed for the fault "build"."""
        if FAULTS.get(candidate.memory_pool_mib or 0) == "build":
            raise BuildFailed("the fake engine was told not to build", stage="engine")
        (folder / "engine.txt").write_text(f"fake engine, batch {candidate.batch_size}\n")

    def open(self, engine: Engine, candidate: Candidate) -> FakeSession:
        """A session whose speed and errors follow the candidate."""
        return FakeSession(candidate, FAULTS.get(candidate.memory_pool_mib or 0), machine_speed())

    def layers(self, engine: Engine, candidate: Candidate, batches: Sequence[Inputs], *, n_runs: int = 20) -> LayerReport:
        """A layer per node, each of which takes the same share of the service time: a formula and no measurement."""
        outline = outline_of(engine.variant.path)
        total_us = service_s(candidate) * 1e6
        layers = tuple(
            Layer(
                name=n.name,
                kind=n.op,
                role=role_of(n.op, (n.op,)),
                precision=n.precision,
                time_us=total_us / len(outline),
                nodes=(n.name,),
            )
            for n in outline
        )
        return LayerReport(layers=layers, total_us=total_us, n_runs=n_runs, method="formula of the fake engine")

    def deployment(self, candidate: Candidate) -> dict[str, Any]:
        """The candidate itself."""
        return dict(candidate.as_json())


class FakeSession:
    """Sleeps for the service time and answers from the sample."""

    def __init__(self, candidate: Candidate, fault: str | None, speed: float = 1.0) -> None:
        self.slots = candidate.streams or 1
        self._service_s = service_s(candidate) / speed
        self._error_rate = error_rate(candidate)
        self._servers = threading.Semaphore(min(self.slots, candidate.worker_threads or 1))
        self._pending: list[Inputs] = [{}] * self.slots
        self._fault = fault

    def submit(self, inputs: Inputs, slot: int) -> None:
        """The inputs are remembered."""
        self._pending[slot] = inputs

    def wait(self, slot: int) -> Outputs:
        """Logits of two classes per answer after the service time; a fault strikes here."""
        if self._fault is not None:
            _strike(self._fault)
        with self._servers:
            time.sleep(self._service_s)
        (values,) = self._pending[slot].values()
        flat = values.reshape(len(values), -1)
        answer = flat[:, 0].astype(np.int64)
        wrong = flat[:, 1] < self._error_rate
        return {"logits": np.eye(10, dtype=np.float32)[(answer + wrong) % 10]}

    def close(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _strike(fault: str) -> None:
    if fault == "segv":
        ctypes.string_at(0)
    elif fault == "hang":
        threading.Event().wait()
    elif fault == "blow-up":
        hoard = []
        while True:
            hoard.append(np.ones(8 << 20, dtype=np.uint8))
            time.sleep(0.002)
    elif fault == "out-of-memory":
        raise OutOfMemory("the fake engine's pool ran out", stage="load")
    elif fault == "exit":
        os._exit(7)
    else:
        raise ZeroDivisionError("the fake engine was told to fail")


class NullSession:
    """Answers at once with nothing: what a load costs on it is the load's own."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def submit(self, inputs: Inputs, slot: int) -> None:
        """Nothing happens."""

    def wait(self, slot: int) -> Outputs:
        """No outputs."""
        return {}

    def close(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None
