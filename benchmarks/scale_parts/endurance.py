"""Thousands of trials in one study process, and what they leave behind in it.

The study is the product's own: proposer, database, canary, forked trials. Of a trial only the load is left out, because the
fake engine sleeps through it; its throughput is the engine's closed formula with noise. No figure says anything of an engine.
"""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.engines.fake import throughput_items_per_s
from autotune.records import Estimate, LatencySummary, TrialRecord, seconds_between
from autotune.spec.load import load_spec
from autotune.store.repository import open_store
from autotune.store.worker import this_worker
from autotune.study import loop
from autotune.study.observer import Silent
from autotune.study.plan import make_plan
from autotune.study.session import StopSwitch
from autotune.trial.isolation import TrialProcess
from autotune.trial.request import TrialRequest

EVERY, SETTLED = 50, 500
"""A sample every so many trials; what happens before that many is warming up, while memories that are bounded fill."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STUDY = """\
study: endurance
model: {{path: model.onnx}}
data:
  validation: {{npz: val.npz, inputs: x, labels: y}}
  calibration: {{npz: val.npz, inputs: x}}
  metric: top1
engines: [fake]
space:
  precision: [fp32, fp16, int8]
  pruning_ratio: 0.0
  batch_size: {{low: 1, high: 512}}
  streams: [1, 2, 3, 4]
  worker_threads: [1, 2, 3, 4]
  memory_pool_mib: {{low: 32, high: 64}}
constraints: {{accuracy_drop: 0.05}}
load: {{window_s: 0.05, min_windows: 3, max_s: 0.2, warmup_s: 0.1}}
budget: {{trials: {trials}}}
search: {{strategy: {strategy}}}
finalists: {{rounds: 1, at_most: 4, max_s: 60}}
canary: {{every_minutes: 100000}}
storage: sqlite:///endurance.db
cache: cache
seed: 1
"""


class _WithoutLoad(TrialProcess):
    """Trials in forked children as ever, but for the load."""

    latest: _WithoutLoad | None = None

    def __init__(self, preload: Sequence[str] = ()) -> None:
        super().__init__(preload)
        self._rng = random.Random(0)
        _WithoutLoad.latest = self

    @property
    def pid(self) -> int | None:
        """Of the process that forks trials."""
        return self._process.pid if self._process is not None else None

    def run(
        self,
        request: TrialRequest,
        on_stage: Callable[[str], None] = lambda stage: None,
        should_abort: Callable[[], bool] = lambda: False,
    ) -> TrialRecord:
        """The record, with a throughput by formula."""
        record = super().run(replace(request, with_load=False), on_stage, should_abort)
        if record.state != "complete":
            return record
        rate = throughput_items_per_s(record.candidate) * self._rng.lognormvariate(0, 0.02)
        p99 = 1e3 * record.candidate.batch_size * (record.candidate.streams or 1) / rate
        found = Estimate(value=rate, low=rate * 0.99, high=rate * 1.01, n=10, method="formula of the fake engine")
        tail = Estimate(value=p99, low=p99 * 0.9, high=p99 * 1.1, n=1000, method="formula of the fake engine")
        return replace(record, throughput_items_per_s=found, latency_ms=LatencySummary(p99=tail), peak_memory_mib=100.0)


@dataclass(slots=True)
class _Watcher(Silent):
    """Takes a sample every EVERY trials."""

    database: Path
    samples: list[dict[str, float]] = field(default_factory=list)
    outside_s: list[float] = field(default_factory=list)
    n: int = 0
    inside_s: float = 0.0
    last: float = field(default_factory=time.monotonic)

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        """One more trial: what it took outside its own process is noted."""
        now = time.monotonic()
        inside_s = self.inside_s + seconds_between(record.started_at, record.finished_at)
        self.outside_s.append(max(0.0, now - self.last - inside_s))
        self.last, self.inside_s = now, 0.0
        self.n += record.role == "search"
        if record.role == "search" and self.n % EVERY == 0:
            self.samples.append(self._sample(len(front)))
            print({k: round(v, 4) for k, v in self.samples[-1].items()}, flush=True)
            self.outside_s.clear()
            self.last = time.monotonic()

    def repeated(self, of: TrialRecord, record: TrialRecord, round_: int) -> None:
        """The canary's own process does not count as time outside."""
        self.inside_s += seconds_between(record.started_at, record.finished_at)

    def _sample(self, n_front: int) -> dict[str, float]:
        forker = _WithoutLoad.latest.pid if _WithoutLoad.latest is not None else None
        return {
            "n_trials": self.n,
            "resident_mib": _resident_mib(os.getpid()),
            "forker_resident_mib": _resident_mib(forker) if forker is not None else float("nan"),
            "open_files": len(list(Path("/proc/self/fd").iterdir())),
            "threads": len(list(Path("/proc/self/task").iterdir())),
            "outside_median_s": statistics.median(self.outside_s),
            "outside_mean_s": statistics.fmean(self.outside_s),
            "outside_max_s": max(self.outside_s),
            "database_bytes": _database_bytes(self.database),
            "n_front": n_front,
        }


def endure(folder: Path, n_trials: int, strategy: str) -> dict[str, Any]:
    """So many trials with the strategy; the samples, and what they say."""
    _write_study(folder, n_trials, strategy)
    os.environ["XDG_RUNTIME_DIR"] = os.environ["AUTOTUNE_LOCKS"] = str(folder)
    plan = make_plan(load_spec(folder / "study.yaml"))
    database = folder / "endurance.db"
    store = open_store(f"sqlite:///{database}")
    watcher = _Watcher(database)
    loop.TrialProcess = _WithoutLoad  # type: ignore[misc]  # the one part of the study that is not the product's own
    began = time.monotonic()
    result = loop.run_study(plan, store, this_worker(), watcher, StopSwitch())
    verdicts = judged(watcher.samples)
    for name, verdict in verdicts.items():
        print(f"{name}: {'flat' if verdict['flat'] else 'NOT FLAT'}: {verdict['said']}")
    return {
        "strategy": strategy,
        "n_trials": dict(result.n_trials),
        "wall_s": time.monotonic() - began,
        "samples": watcher.samples,
        "verdicts": verdicts,
        "met": all(v["flat"] for v in verdicts.values()),
    }


def judged(samples: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """By what was sampled, whether it stayed flat once settled, and the rule in words."""
    settled = [s for s in samples if s["n_trials"] >= min(SETTLED, samples[-1]["n_trials"] / 3)]
    n = np.array([s["n_trials"] for s in settled])
    found: dict[str, dict[str, Any]] = {}
    for name in ("resident_mib", "forker_resident_mib"):
        v = np.array([s[name] for s in settled])
        growth = float(v[-1] / v[0] - 1)
        found[name] = _verdict(growth < 0.05, f"from {v[0]:.1f} to {v[-1]:.1f} MiB, {growth:+.1%}; rule: less than 5 % more")
    for name in ("open_files", "threads"):
        v = np.array([s[name] for s in settled])
        found[name] = _verdict(v[-1] <= v[0] + 2, f"from {v[0]:.0f} to {v[-1]:.0f}; rule: at most 2 more")
    for name in ("outside_median_s", "outside_mean_s"):
        v = np.array([s[name] for s in settled])
        slope = theil_sen(n, v)
        trend = slope * float(n[-1] - n[0]) / float(np.median(v))
        said = f"{1e3 * float(np.median(v)):.0f} ms a trial, trend {trend:+.1%} over the run; rule: less than 15 % more"
        found[name] = _verdict(trend < 0.15, said)
    size = np.array([s["database_bytes"] for s in settled])
    middle = (len(n) - 1) // 2
    first, second = ((size[b] - size[a]) / (n[b] - n[a]) for a, b in ((0, middle), (middle, len(n) - 1)))
    said = f"{first:.0f} bytes a trial in the first half, {second:.0f} in the second; rule: less than 10 % more"
    found["database_bytes_per_trial"] = _verdict(second < 1.1 * first, said)
    return found


def theil_sen(x: Any, y: Any) -> float:
    """The median of the slopes between all pairs (Theil 1950, Sen 1968), which a few slow moments do not move."""
    slopes = [(y[j] - y[i]) / (x[j] - x[i]) for i in range(len(x)) for j in range(i + 1, len(x))]
    return float(np.median(slopes)) if slopes else 0.0


def _verdict(flat: bool, said: str) -> dict[str, Any]:
    return {"flat": bool(flat), "said": said}


def _database_bytes(path: Path) -> float:
    """Pages in use, those among them that still stand in the log, which itself is bounded."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    finally:
        connection.close()
    return float(pages * size)


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20


def _write_study(folder: Path, n_trials: int, strategy: str) -> None:
    """A tiny model, which the fake engine never runs, and two hundred samples."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(2, 10)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    classes = np.arange(200) % 10
    x = np.stack([classes, (np.arange(200) + 0.5) / 200], axis=1).astype(np.float32)
    np.savez(folder / "val.npz", x=x, y=classes.astype(np.int64))
    (folder / "study.yaml").write_text(_STUDY.format(trials=n_trials, strategy=strategy))
