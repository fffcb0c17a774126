"""What all stages share: where things lie, how long they load, and the facts of the machine that each result carries."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from autotune.spec.model import LoadSpec

MOBILENET = "mobilenet_v2_1.0_224.onnx"
MLPERF_H200_ITEMS_PER_S = 94_620
"""ResNet-50, offline, per H200: what MLPerf Inference's published results come to, in int8, with trained weights, on servers of
eight. Set beside our figures for its scale: neither software, accuracy nor host are the same."""
LIMIT_S = 480.0
"""A stage that takes longer is ended: whoever lends a GPU may take it back after ten minutes."""
_TELLING = ("tensorrt", "torch", "onnx", "cuda", "nvidia", "pycuda", "numpy", "optuna", "autotune")


def _nowhere(result: Mapping[str, Any]) -> None:
    """The result so far is not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of the benchmark. `quick` shortens the loads, so that its figures say nothing.

    `limit_s`: wall time of a stage, which began at `began` (monotonic seconds). `before`: what an earlier run of the stage left
    unfinished. `anew`: what there was is of another machine. `keep`: writes the result so far, so that a stage that is killed
    loses at most what is under way.
    """

    out: Path
    data: Path | None = None
    trials: int = 40
    rounds: int = 3
    engines: tuple[str, ...] = ()
    quick: bool = False
    limit_s: float = LIMIT_S
    began: float = field(default_factory=time.monotonic)
    before: Mapping[str, Any] = field(default_factory=dict)
    anew: bool = False
    keep: Callable[[Mapping[str, Any]], None] = _nowhere

    @staticmethod
    def of(arguments: argparse.Namespace) -> Bench:
        """As asked for on the command line."""
        return Bench(
            out=arguments.out.resolve(),
            data=None if arguments.data is None else arguments.data.resolve(),
            trials=arguments.trials,
            rounds=arguments.rounds,
            engines=tuple(arguments.engine or ()),
            quick=arguments.quick,
            limit_s=arguments.limit_s,
        )

    @property
    def left_s(self) -> float:
        """Seconds until the stage is ended."""
        return self.began + self.limit_s - time.monotonic()

    @property
    def work(self) -> Path:
        """Models, studies, engines: what may be used again by the next run. Those of quick runs are apart, for a study with
        another load is another study."""
        return self.out / ("work-quick" if self.quick else "work")

    @property
    def load(self) -> LoadSpec:
        """The load of a comparison: windows until the interval is 0.5 %, 6 s at most."""
        if self.quick:
            return LoadSpec(window_s=0.05, min_windows=3, max_s=0.2, warmup_s=0.1, precision=0.5)
        return LoadSpec(window_s=0.3, min_windows=8, max_s=6.0, warmup_s=1.0, precision=0.005)

    def command(self, stage: str) -> list[str]:
        """The command line that runs one stage in the process that it starts."""
        script = str(Path(__file__).parents[1] / "gpu.py")
        words = [sys.executable, script, "--in-process", "--stage", stage, "--out", str(self.out)]
        words += ["--trials", str(self.trials), "--rounds", str(self.rounds), "--limit-s", f"{self.limit_s:g}"]
        words += ["--data", str(self.data)] if self.data else []
        words += [word for engine in self.engines for word in ("--engine", engine)]
        return [*words, "--quick"] if self.quick else words


def machine_facts() -> dict[str, Any]:
    """The GPU, its driver, the host, and the versions of every package that can matter. Raises EnvironmentProblem."""
    from autotune.devices.gpu import select_gpu
    from autotune.fingerprint import cpu_fingerprint

    gpu, host = select_gpu("cuda"), cpu_fingerprint()
    return {
        "gpu": asdict(gpu),
        "host": {"device": host.device, "cores": host.cores, "memory_mib": host.memory_mib, "system": host.system},
        "python": sys.version.split()[0],
        "versions": package_versions(),
    }


def package_versions() -> Mapping[str, str]:
    """Installed packages of NVIDIA's, the frameworks and ours, by name."""
    found = {str(d.metadata["Name"]).lower(): d.version for d in distributions() if d.metadata["Name"]}
    return {name: found[name] for name in sorted(found) if name.startswith(_TELLING)}
