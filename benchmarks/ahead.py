"""What a build on cores set apart does to the windows beside it, and what a study gains by building ahead.

    python benchmarks/ahead.py --data ../shared/data --out benchmarks/results/ahead.json

`windows`: MobileNetV2 and ResNet-20 (fp32) under full load on each CPU engine, on all cores but the last, on which ResNet-20 is
pruned and recovered meanwhile. In one window of each two, drawn at random, it is stopped. Printed: throughput beside it over
throughput without, as a study judges it from loads of six seconds.

`studies`: the study of `make demo`, without finalists, by turns with `build_ahead: {cores: 1}` and with `off` on the cores that
the former measures on. Printed: seconds from its begin until it had 95 % of the hypervolume that either of the two reached in
the round (accuracy above the limit × throughput over its own reference's), and how many trials found their build made.

Needs two cores or more, and: pip install 'autotune[cpu]'
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from two_models import Bench, arguments_of, benches, machine, write

from autotune.bench.beside import Evidence, log_ratios_in, was_disturbed
from autotune.devices.cores import set_apart
from autotune.pareto import hypervolume
from autotune.records import FINISHED, TrialRecord
from autotune.spec.model import LoadSpec
from autotune.store.repository import SEARCHED, open_store
from autotune.trial.isolation import Interrupted, TrialProcess
from autotune.trial.request import TrialRequest

ENOUGH = 0.95
_EXAMPLE = Path(__file__).parent.parent / "examples" / "digits"


def main() -> None:
    """Measures, prints and writes one JSON file."""
    arguments = arguments_of(
        __doc__ or "",
        parts={"nargs": "+", "choices": ["windows", "studies"], "default": ["windows", "studies"]},
        rounds={"type": int, "default": 3, "help": "of studies"},
        loads={"type": int, "default": 8, "help": "of each model and engine"},
        seconds={"type": float, "default": 6.0, "help": "of windows that count in each load"},
        trials={"type": int, "default": 24, "help": "of each study"},
    )
    if arguments.quick:
        arguments.rounds, arguments.loads, arguments.seconds, arguments.trials = 1, 1, 2.0, 4
    document: dict[str, Any] = {}
    if "studies" in arguments.parts:
        document["studies"] = [_round(i, arguments.trials) for i in range(arguments.rounds)]
    if "windows" in arguments.parts:
        cores = set_apart(1)
        with benches(arguments.data, arguments.work, arguments.models) as found:
            document |= {"machine": machine(found[0]), "build_cores": cores}
            document["windows"] = _windows(found, cores, arguments.loads, arguments.seconds)
    write(document, arguments.out)


def _windows(found: Sequence[Bench], cores: tuple[int, ...], n_loads: int, seconds: float) -> dict[str, Any]:
    load = LoadSpec(window_s=0.5, min_windows=max(3, int(seconds / 0.5)), max_s=seconds, warmup_s=1.0)
    rows: dict[str, Any] = {}
    everything = Evidence()
    for bench in found:
        for engine in bench.plan.space.engines:
            candidate = bench.candidate(engine, batch_size=1, streams=1)  # short requests: many in a window
            bench.measured(candidate, load.model_copy(update={"min_windows": 3, "max_s": 2.0}))  # it is built by then
            of_one, log_ratios, disturbed = Evidence(), list[tuple[float, ...]](), list[bool]()
            with _building(bench, cores) as builder:
                for _ in range(n_loads):
                    record = bench.measured(candidate, load, builder.group())
                    of_one.add(record.telemetry)
                    everything.add(record.telemetry)
                    log_ratios.append(log_ratios_in(record.telemetry))
                    disturbed.append(was_disturbed(record.telemetry))
            rows[f"{bench.name}, {engine}"] = {"effect": of_one.effect, "log_ratios": log_ratios, "disturbed": disturbed}
            print(f"{bench.name} {engine}: {_told(of_one)}", flush=True)
    print(f"all: {_told(everything)}")
    return rows | {"all": {"effect": everything.effect, "verdict": everything.verdict}}


def _told(evidence: Evidence) -> str:
    e = evidence.effect
    return (
        "too few loads" if e is None else f"{e.value:+.2%} [{e.low:+.2%}, {e.high:+.2%}] over {e.n} loads: {evidence.verdict}"
    )


class _Builder:
    """Prunes the model again and again, in processes on the cores set apart."""

    def __init__(self, bench: Bench, cores: tuple[int, ...]) -> None:
        self._bench, self._cores, self._process = bench, cores, TrialProcess(bench.plan.preload)
        self.over = threading.Event()

    def run(self) -> None:
        """Until `over` is set."""
        os.sched_setaffinity(0, self._cores)
        spec = self._bench.plan.spec
        seed = 0
        with tempfile.TemporaryDirectory() as folder, self._process:
            while not self.over.is_set():
                seed += 1
                request = TrialRequest(
                    spec=spec.model_copy(update={"seed": seed}),
                    number=seed,
                    role="bench",
                    candidate=replace(self._bench.candidate("onnxruntime"), pruning_ratio=0.5),
                    cache_root=Path(folder),
                    log_path=Path(folder) / "build.log",
                    build_only=True,
                )
                try:
                    self._process.run(request, should_abort=self.over.is_set)
                except Interrupted:
                    return

    def group(self) -> int:
        """The processes of the build under way."""
        while (child := self._process.child) is None:
            time.sleep(0.01)
        return child


@contextmanager
def _building(bench: Bench, cores: tuple[int, ...]) -> Iterator[_Builder]:
    builder = _Builder(bench, cores)
    thread = threading.Thread(target=builder.run)
    thread.start()
    builder.group()
    time.sleep(10)  # it has read its model and begun to train
    try:
        yield builder
    finally:
        builder.over.set()
        thread.join()


def _round(number: int, trials: int) -> dict[str, Any]:
    """Both studies once, the one that begins changing from round to round."""
    arms = ["ahead", "off"] if number % 2 == 0 else ["off", "ahead"]
    with tempfile.TemporaryDirectory() as folder:
        curves = {arm: _study(Path(folder) / arm, arm, trials, number) for arm in arms}
    goal = ENOUGH * max(curve["points"][-1][1] for curve in curves.values())
    row: dict[str, Any] = {"order": arms, "goal": goal}
    for arm, curve in curves.items():
        seconds = next((s for s, volume in curve["points"] if volume >= goal), None)
        row[arm] = curve | {"seconds_to_goal": seconds}
        reached = "not reached" if seconds is None else f"{seconds:.0f} s"
        print(
            f"round {number + 1} {arm:<5}: goal {reached}, {trials} trials {curve['points'][-1][0]:.0f} s, hypervolume "
            f"{curve['points'][-1][1]:.4f}, {curve['n_built_ahead']} trials found their build made",
            flush=True,
        )
    return row


def _study(folder: Path, arm: str, trials: int, seed: int) -> dict[str, Any]:
    """The hypervolume of one study after each of its trials."""
    folder.mkdir()
    subprocess.run([sys.executable, "-W", "ignore", _EXAMPLE / "make_model.py", folder], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(_EXAMPLE / "study.yaml", folder)
    file = folder / "study.yaml"
    text = file.read_text().replace("finalists: {rounds: 3, max_s: 60}", "finalists: off").replace("seed: 0", f"seed: {seed}")
    file.write_text(text + ("build_ahead: {cores: 1}\n" if arm == "ahead" else ""))
    measured = sorted(os.sched_getaffinity(0))[:-1]
    cores = ["taskset", "-c", ",".join(map(str, measured))] if arm == "off" else []
    command = [*cores, sys.executable, "-m", "autotune.cli.main", "start", "study.yaml", "--trials", str(trials)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    store = open_store(f"sqlite:///{folder / 'demo.db'}")
    (study,) = store.studies()
    reference = store.trials(study.id, ["complete"], ["reference"])[0]
    records = store.trials(study.id, FINISHED, SEARCHED)
    rates = [reference, *reference.repetitions]
    usual = statistics.median(r.throughput_items_per_s.value for r in rates if r.throughput_items_per_s)
    return {
        "points": _curve(reference, records, usual),
        "n_built_ahead": sum("built_ahead" in r.flags for r in records),
        "told": [line for line in done.stderr.splitlines() if "builds ahead" in line],
    }


def _curve(reference: TrialRecord, records: Sequence[TrialRecord], usual: float) -> list[tuple[float, float]]:
    """(seconds since the study began, hypervolume so far) at the end of each trial."""
    assert reference.accuracy is not None and reference.started_at is not None
    floor = reference.accuracy.value - 0.01
    began = datetime.fromisoformat(reference.started_at)
    points, found = list[tuple[float, float]](), list[tuple[float, float]]()
    for record in sorted(records, key=lambda r: r.finished_at or ""):
        if record.state == "complete" and record.accuracy and record.throughput_items_per_s:
            found.append((record.accuracy.value - floor, record.throughput_items_per_s.value / usual))
        seconds = (datetime.fromisoformat(record.finished_at or "") - began).total_seconds()
        points.append((seconds, hypervolume(np.array(found).reshape(-1, 2), np.zeros(2))))
    return points


if __name__ == "__main__":
    main()
