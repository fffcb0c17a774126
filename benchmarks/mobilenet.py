"""MobileNetV2 on this CPU: what a study finds, against what one gets without it, side by side in one run.

    python benchmarks/mobilenet.py --data ../shared/data/imagenet --out benchmarks/results/mobilenet.json

The folder holds mobilenet_v2_1.0_224.onnx, images/ and labels.csv (splits calib and val). Four parts, all on the same machine:

1. a study of 40 trials, with its wall time split by what it was spent on;
2. an exhaustive sweep of a stated grid (GRID, 180 points) with short windows, its best five measured again in full;
3. int8 with per-tensor weights, which must be rejected for its accuracy, and what that rejection cost;
4. rounds in which every contender runs once, in random order: the study's best, ONNX Runtime's defaults at fp32 and batch 1,
   benchmark_app -hint throughput on the fp32 file (in its default precision, which is bf16 where the CPU can, and in fp32) and
   on an int8 file made by NNCF's defaults, and the sweep's best.

Ratios are medians over the rounds, with their order-statistic 95 % interval (from 6 rounds on) and their range.
Needs: pip install 'autotune[cpu]' nncf
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spread import spread_with_interval

from autotune.candidate import Candidate
from autotune.cli.progress import PlainProgress
from autotune.cli.running import checked_plan
from autotune.records import TrialRecord
from autotune.store.repository import open_store
from autotune.store.worker import this_worker
from autotune.study.apart import run_apart
from autotune.study.lock import device_lock
from autotune.study.loop import StopSwitch, StudyResult, run_study
from autotune.study.plan import StudyPlan
from autotune.study.scoring import best
from autotune.trial.isolation import TrialProcess

MODEL = "mobilenet_v2_1.0_224.onnx"
STUDY = """
study: mobilenet-v2
model: {{path: {data}/{model}}}
data:
  validation: {{images: {data}/images, labels: {data}/labels.csv, split: val}}
  calibration: {{images: {data}/images, labels: {data}/labels.csv, split: calib}}
  preprocess: {{scale: 0.00784313725, mean: [1, 1, 1], std: [1, 1, 1]}}
  metric: top1
space: {{extends: {preset}}}
constraints: {{accuracy_drop: 0.01}}
load: {{window_s: 0.5, min_windows: 6, max_s: 8, warmup_s: 1.0}}
recovery: {{epochs: 2, steps: 1, max_s: 120}}
budget: {{trials: {trials}}}
storage: sqlite:///study.db
cache: cache
seed: {seed}
"""
GRID: dict[str, tuple[Any, ...]] = {
    "pair": (
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
    ),
    "batch_size": (1, 2, 4, 8, 16, 32),
    "streams": (1, 2, 4),
    "worker_threads": (1, 2),
}
"""180 points: every engine and precision, unpruned. Precisions that this machine lacks are left out (see `n_points`)."""


def main() -> None:
    """Runs the four parts and writes one JSON file."""
    arguments = _arguments()
    work = Path(arguments.work or tempfile.mkdtemp(prefix="autotune-mobilenet-"))
    work.mkdir(parents=True, exist_ok=True)
    data = Path(arguments.data).resolve()
    study_file = work / "study.yaml"
    study_file.write_text(
        STUDY.format(data=data, model=MODEL, trials=arguments.trials, preset=arguments.preset, seed=arguments.seed)
    )
    began = time.monotonic()
    plan = checked_plan(str(study_file))
    with PlainProgress() as progress:
        result = run_study(plan, open_store(plan.spec.storage), this_worker(), progress, StopSwitch())
    wall_s = time.monotonic() - began
    winner = best(result.records, plan.spec)
    if winner is None:
        sys.exit("no trial kept to the accuracy constraint")
    document: dict[str, Any] = {"study": _study_part(result, winner, wall_s), "machine": machine_of(plan)}
    with TrialProcess(plan.preload) as process, device_lock("cpu"):
        document["per_tensor_int8"] = _per_tensor(plan, process, result.reference)
        sweep_best, document["sweep"] = sweep_of(plan, process, result.reference, quick=arguments.quick)
        document["side_by_side"] = _side_by_side(
            plan, process, result.reference, winner.candidate, sweep_best, data, work, arguments.rounds
        )
    text = json.dumps(document, indent=2) + "\n"
    if arguments.out:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.out).write_text(text)
    print(json.dumps({k: document[k] for k in ("side_by_side", "per_tensor_int8")}, indent=2))
    print(json.dumps(document["study"]["time_share"], indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out")
    parser.add_argument("--work", help="folder for the study, its cache and database; default: a new temporary one")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="cpu", help="cpu, or cpu-runtime to leave pruning out")
    parser.add_argument("--quick", action="store_true", help="every ninth point of the grid, to try the script out")
    return parser.parse_args()


def machine_of(plan: StudyPlan) -> dict[str, Any]:
    """What the figures hold for."""
    f = plan.fingerprint
    told = {"device": f.device, "memory_mib": f.memory_mib, "system": f.system, "versions": dict(f.versions)}
    return told | {"instructions": list(f.instructions)}


def _study_part(result: StudyResult, winner: TrialRecord, wall_s: float) -> dict[str, Any]:
    stages: dict[str, float] = {}
    for record in (result.reference, *result.records):
        for name, seconds in record.stage_s.items():
            stages[name] = stages.get(name, 0.0) + seconds
    spent = {
        "build": sum(stages.get(s, 0.0) for s in ("prune", "variant", "engine", "open")),
        "accuracy": stages.get("accuracy", 0.0),
        "load": stages.get("load", 0.0),
        "search": result.overhead_s.get("search", 0.0),
        "finalists": result.overhead_s.get("finalists", 0.0),
        "canary": result.overhead_s.get("canary", 0.0),
    }
    spent["everything else"] = wall_s - sum(spent.values())
    return {
        "wall_s": wall_s,
        "time_s": spent,
        "time_share": {name: seconds / wall_s for name, seconds in spent.items()},
        "n_trials": len(result.records),
        "states": {s: sum(r.state == s for r in result.records) for s in ("complete", "rejected", "crashed")},
        "best": winner.as_json(),
        "front": [r.as_json() for r in result.front],
        "reference": result.reference.as_json(),
    }


def run_candidate(
    plan: StudyPlan, process: TrialProcess, reference: TrialRecord | None, candidate: Candidate, **load: Any
) -> TrialRecord:
    """One candidate outside the study, paired with the reference; `load` replaces keys of the study's load section."""
    spec = plan.spec.model_copy(update={"load": plan.spec.load.model_copy(update=load)})
    return run_apart(plan, process, candidate, reference.scores_key if reference else None, spec=spec)


def _per_tensor(plan: StudyPlan, process: TrialProcess, reference: TrialRecord) -> dict[str, Any]:
    """The rejection, first with nothing cached and then with its accuracy known."""
    candidate = plan.space.default_candidate("openvino", "int8-tensor")
    costs = []
    for _ in range(2):
        began = time.monotonic()
        record = run_candidate(plan, process, reference, candidate)
        costs.append(time.monotonic() - began)
    return {
        "state": record.state,
        "reason": record.reject.reason if record.reject else None,
        "message": record.reject.message if record.reject else None,
        "first_s": costs[0],
        "again_s": costs[1],
    }


def sweep_of(
    plan: StudyPlan, process: TrialProcess, reference: TrialRecord, *, quick: bool
) -> tuple[Candidate, dict[str, Any]]:
    """The best candidate of the grid: all points with short windows, then the best five as the study measures."""
    points = [
        Candidate(
            engine=pair[0],
            precision=pair[1],
            pruning_ratio=0.0,
            batch_size=b,
            streams=s,
            worker_threads=t,
            memory_pool_mib=None,
        )
        for pair, b, s, t in itertools.product(*GRID.values())
        if pair in plan.space.pairs
    ]
    random.Random(0).shuffle(points)
    points = points[::9] if quick else points
    began = time.monotonic()
    rows = []
    for candidate in points:
        record = run_candidate(plan, process, reference, candidate, window_s=0.2, min_windows=6, max_s=1.2, warmup_s=0.4)
        rate = record.throughput_items_per_s.value if record.throughput_items_per_s else 0.0
        rows.append((rate, candidate, record.state))
        print(f"sweep {len(rows)}/{len(points)} {candidate}: {rate:.0f}", file=sys.stderr)
    rows.sort(key=lambda row: -row[0])
    finalists = []
    for _, candidate, _ in rows[:5]:
        record = run_candidate(plan, process, reference, candidate)
        finalists.append((record.throughput_items_per_s.value if record.throughput_items_per_s else 0.0, candidate))
    finalists.sort(key=lambda row: -row[0])
    table = [{"items_per_s": round(rate, 1), "state": state, **c.as_json()} for rate, c, state in rows]
    return finalists[0][1], {"n_points": len(points), "wall_s": time.monotonic() - began, "best": table[:10], "all": table}


def _side_by_side(
    plan: StudyPlan,
    process: TrialProcess,
    reference: TrialRecord,
    ours: Candidate,
    swept: Candidate,
    data: Path,
    work: Path,
    rounds: int,
) -> dict[str, Any]:
    """Every contender once per round, in random order; items per second of each, and our ratio to each."""
    int8_file = _nncf_int8(plan, data, work / "nncf")

    def measured(candidate: Candidate) -> float:
        record = run_candidate(plan, process, reference, candidate)
        return record.throughput_items_per_s.value if record.throughput_items_per_s else 0.0

    contenders: Mapping[str, Callable[[], float]] = {
        "autotune": lambda: measured(ours),
        "onnxruntime_defaults_fp32_batch1": lambda: _onnxruntime_defaults(data / MODEL),
        "benchmark_app_throughput_fp32_file": lambda: _benchmark_app(data / MODEL),
        "benchmark_app_throughput_fp32_file_in_fp32": lambda: _benchmark_app(data / MODEL, "-infer_precision", "f32"),
        "benchmark_app_throughput_int8_nncf": lambda: _benchmark_app(int8_file),
        "sweep_best": lambda: measured(swept),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    order = random.Random(1)
    for _ in range(rounds):
        names = list(contenders)
        order.shuffle(names)
        for name in names:
            rates[name].append(contenders[name]())
            print(f"{name}: {rates[name][-1]:.1f}", file=sys.stderr)
    ratios = {
        name: [a / b for a, b in zip(rates["autotune"], values, strict=True)]
        for name, values in rates.items()
        if name != "autotune"
    }
    return {
        "autotune_candidate": ours.as_json(),
        "sweep_candidate": swept.as_json(),
        "items_per_s": rates,
        "ratio": {name: spread_with_interval(values) for name, values in ratios.items()},
    }


_ORT_LOOP = """
import sys, time, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = {session.get_inputs()[0].name: np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)}
def run(seconds):
    n, stop = 0, time.perf_counter() + seconds
    began = time.perf_counter()
    while time.perf_counter() < stop:
        session.run(None, x); n += 1
    return n / (time.perf_counter() - began)
run(1.0)
print(run(5.0))
"""


def _onnxruntime_defaults(model: Path) -> float:
    """Images per second of the loop that anyone writes first."""
    done = subprocess.run([sys.executable, "-c", _ORT_LOOP, str(model)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _benchmark_app(model: Path, *options: str) -> float:
    """Images per second as OpenVINO's own tool reports them. Left alone it runs an fp32 file in bf16 where the CPU can."""
    tool = str(Path(sys.executable).with_name("benchmark_app"))
    command = [tool, "-m", str(model), "-hint", "throughput", "-t", "6", "-shape", "[1,3,224,224]", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Throughput:\s+([0-9.]+)", done.stdout)
    if not found:
        raise RuntimeError(f"benchmark_app gave no figure: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(found[1])


def _nncf_int8(plan: StudyPlan, data: Path, folder: Path) -> Path:
    """The int8 IR that NNCF makes with its defaults from the calibration split."""
    import nncf
    import openvino as ov

    from autotune.trial.stages import bound_split

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "int8.xml"
    if not target.exists():
        if plan.spec.data.calibration is None:
            raise RuntimeError("the study names no calibration data")
        calibration = bound_split(plan.spec, plan.spec.data.calibration, plan.cache)
        samples = [next(iter(calibration.batch(i, i + 1).values())) for i in range(len(calibration))]
        quantized = nncf.quantize(ov.Core().read_model(str(data / MODEL)), nncf.Dataset(samples))
        ov.save_model(quantized, str(target))
    return target


if __name__ == "__main__":
    main()
