"""A study against an afternoon's Optuna script: seconds until a configuration is found that is worth 95 % of the best there is.

    python benchmarks/race.py --data ../shared/data/imagenet --out benchmarks/results/race.json

The folder holds mobilenet_v2_1.0_224.onnx, images/ and labels.csv (splits calib and val). Both search the same grid (GRID of
mobilenet.py: engine with precision, batch, streams, threads; 180 points where the CPU has bf16), both must stay within one
point of top-1, both start with nothing built. First every point of the grid is measured: its best feasible one is what both are
judged by. Then `--repeats` rounds in alternating order, each with fresh folders, and a fresh seed. Right before a contender
begins the sweep's best is measured three times more, and their median is its goal: a machine may become slower by a tenth
within an hour. A contender has arrived when one load of one of its own feasible trials gave at least 95 % of that; `trials` has
all of them, [seconds, items/s, whether feasible]. `ratio` is the script's time over the study's. The script is ended after
`--limit-s`; where it had not arrived, that time counts, and the ratio is at least what is printed.
`ratios_by_the_studys_goal`: of each round, were the script judged by the goal that the study had minutes before or after; where
these differ much from the others, the goals' noise decided.

The study goes on to its end, finalists included: `repeatability` says how far the studies' best throughputs, as reported, lie
apart (aim: any two within 5 %), and how far as shares of the goal of their time, which a machine that becomes slower leaves
alone. Every round is written when it ends; the same command goes on after it was interrupted.

With --arrival a study ends where it has arrived, without finalists; one that never arrives goes on to its end. So the seconds
alone are told, on a machine on which whole studies would take hours because their intervals are wide.

At the end of whole studies each one's best is measured beside the sweep's best, and again at any time by

    python benchmarks/race.py --data ../shared/data/imagenet --again benchmarks/results/race.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mobilenet
import numpy as np

from autotune.candidate import Candidate
from autotune.cli.progress import PlainProgress
from autotune.cli.running import checked_plan
from autotune.records import FINISHED, TrialRecord, own_load
from autotune.spec.model import StudySpec
from autotune.store.repository import SEARCHED, open_store
from autotune.store.worker import this_worker
from autotune.study.lock import device_lock
from autotune.study.loop import StopSwitch, run_study
from autotune.study.objectives import THROUGHPUT
from autotune.study.plan import StudyPlan
from autotune.study.scoring import best, is_feasible
from autotune.trial.isolation import TrialProcess

SHARE = 0.95
SPACE = """
  precision: [fp32, bf16, int8]
  pruning_ratio: 0.0
  batch_size: [1, 2, 4, 8, 16, 32]
  streams: [1, 2, 4]
  worker_threads: [1, 2]
"""


def main() -> None:
    """Sweep, rounds, and the winners measured again; one JSON file."""
    arguments = _arguments()
    data, work = Path(arguments.data).resolve(), Path(tempfile.mkdtemp(prefix="autotune-race-"))
    plan = checked_plan(str(study_file(data, work / "sweep", seed=0, trials=1)))
    if arguments.again:
        _measure_again(plan, Path(arguments.again))
        return
    document = _begun(plan, arguments)
    _write(document, arguments.out)
    npz = _as_arrays(plan, work)
    for i in range(len(document["rounds"]), arguments.repeats):
        contenders = {
            "autotune": lambda goal, i=i: _study(data, work / f"study{i}", i + 1, goal, arguments),
            "script": lambda goal: _script(data, npz, work, goal, arguments.limit_s),
        }
        found: dict[str, Any] = {}
        for name in list(contenders) if i % 2 == 0 else list(contenders)[::-1]:
            goal = _goal(plan, document)
            found[name] = {"goal_items_per_s": goal, **contenders[name](goal)}
        document["rounds"].append(found)
        document["summary"] = _summary(document)
        _write(document, arguments.out)
        print(json.dumps({k: v["seconds"] for k, v in found.items()}), file=sys.stderr)
    if not arguments.arrival:
        document["again"].append(_again(plan, document))
        _write(document, arguments.out)
    print(json.dumps({k: document[k] for k in ("summary", "again")}, indent=2))


def _begun(plan: StudyPlan, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result so far: that of an interrupted run, or a sweep."""
    if arguments.out and Path(arguments.out).exists():
        begun: dict[str, Any] = json.loads(Path(arguments.out).read_text())
        if begun["machine"] != mobilenet.machine_of(plan):
            sys.exit(f"{arguments.out} was begun on {begun['machine']}: go on there, or name another file")
        if begun.get("arrival", False) != arguments.arrival:
            sys.exit(f"{arguments.out} was begun {'without' if arguments.arrival else 'with'} --arrival: name another file")
        return begun
    with TrialProcess(plan.preload) as process, device_lock("cpu"):
        reference = mobilenet.run_candidate(plan, process, None, plan.reference)
        top, sweep = mobilenet.sweep_of(plan, process, reference, quick=arguments.quick)
    document = {"machine": mobilenet.machine_of(plan), "arrival": arguments.arrival}
    return {**document, "sweep": sweep, "sweep_best": top.as_json(), "rounds": [], "again": []}


def _goal(plan: StudyPlan, document: dict[str, Any]) -> float:
    """How fast the sweep's best is now, items/s: the median of three fresh processes."""
    top = Candidate.from_json(document["sweep_best"])
    with TrialProcess(plan.preload) as process, device_lock("cpu"):
        reference = mobilenet.run_candidate(plan, process, None, plan.reference)
        return statistics.median(_rate(mobilenet.run_candidate(plan, process, reference, top)) for _ in range(3))


def _write(document: dict[str, Any], out: str | None) -> None:
    if out:
        Path(out).write_text(json.dumps(document, indent=2) + "\n")


def _measure_again(plan: StudyPlan, file: Path) -> None:
    """The bests that a file tells of, measured once more; added to the file."""
    document = json.loads(file.read_text())
    found = _again(plan, document)
    document["again"].append(found)
    document["summary"] = _summary(document)
    _write(document, str(file))
    print(json.dumps(found, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40, help="of each contender")
    parser.add_argument("--limit-s", type=float, default=900.0, help="after which the script is ended")
    parser.add_argument("--arrival", action="store_true", help="a study ends where it has arrived")
    parser.add_argument("--again", metavar="FILE", help="only measure once more what this result found")
    parser.add_argument("--quick", action="store_true", help="every ninth point of the grid, to try the script out")
    return parser.parse_args()


def study_file(data: Path, folder: Path, *, seed: int, trials: int) -> Path:
    """MobileNetV2 in the race's space, in a new folder."""
    folder.mkdir(parents=True)
    text = mobilenet.STUDY.format(data=data, model=mobilenet.MODEL, trials=trials, preset="cpu", seed=seed)
    text = text.replace("space: {extends: cpu}", "engines: [onnxruntime, openvino]\nspace:" + SPACE)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


class _Arriving(PlainProgress):
    """Presses the switch when a feasible trial has come to the goal."""

    def __init__(self, spec: StudySpec, goal: float, switch: StopSwitch) -> None:
        super().__init__()
        self._spec, self._goal, self._switch = spec, goal, switch

    def trial_ended(self, record: TrialRecord, front: Sequence[TrialRecord], reference: TrialRecord | None) -> None:
        super().trial_ended(record, front, reference)
        arrived = record.role in SEARCHED and _has_arrived(_own_rate(record), is_feasible(record, self._spec), self._goal)
        if arrived and not self._switch.count:
            self._switch.press()


def _has_arrived(rate: float, feasible: bool, goal: float) -> bool:
    return feasible and rate >= SHARE * goal


def _arrival_s(trials: Sequence[Sequence[Any]], goal: float) -> float | None:
    """When the first of these trials, as a result has them and in the order of time, came to the goal; None: none did."""
    return next((s for s, rate, feasible in trials if _has_arrived(rate, feasible, goal)), None)


def _study(data: Path, folder: Path, seed: int, goal: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """A study; when its first good trial had ended, counted from when the command would have been typed."""
    began = time.time()
    plan = checked_plan(str(study_file(data, folder, seed=seed, trials=arguments.trials)))
    switch = StopSwitch()
    with _Arriving(plan.spec, goal, switch) if arguments.arrival else PlainProgress() as progress:
        store = open_store(plan.spec.storage)
        result = run_study(plan, store, this_worker(), progress, switch)
    row = store.study(plan.spec.study)
    as_searched = store.trials(row.id, FINISHED, SEARCHED) if row is not None else []
    tried = sorted([_ended(r) - began, _own_rate(r), is_feasible(r, plan.spec)] for r in as_searched)
    winner = best(result.records, plan.spec)
    if winner is None:
        sys.exit("no trial kept to the accuracy constraint")
    return {
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": _arrival_s(tried, goal),
        "all_s": time.time() - began,
        "trials": tried,
        "best": winner.candidate.as_json(),
        "best_items_per_s": asdict(winner.throughput_items_per_s) if winner.throughput_items_per_s else None,
    }


def _script(data: Path, npz: tuple[Path, Path], work: Path, goal: float, limit_s: float) -> dict[str, Any]:
    """The script in a process of its own, until its first good trial or the limit."""
    script = Path(__file__).with_name("optuna_script.py")
    command = [sys.executable, "-W", "ignore", str(script), str(data / mobilenet.MODEL), *map(str, npz), "200"]
    began, seen = time.time(), set()
    trials: list[list[Any]] = []
    seconds = None
    with subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        base = None
        for text in process.stdout:
            line = json.loads(text)
            seen.add((line["pair"], line["batch"], line["streams"], line["threads"]))
            base = base or _base_top1(npz[0])
            trials.append([time.time() - began, line["items_per_s"], line["top1"] >= base - 0.01])
            if _has_arrived(trials[-1][1], trials[-1][2], goal):
                seconds = trials[-1][0]
            if seconds is not None or time.time() - began > limit_s:
                process.kill()
                break
    return {
        "seconds": seconds,
        "all_s": time.time() - began,
        "repeated": len(trials) - len(seen),
        "best_items_per_s": max((rate for _, rate, feasible in trials if feasible), default=None),
        "trials": trials,
    }


def _base_top1(val: Path) -> float:
    """Top-1 of the fp32 model, as `_as_arrays` measured it; the script measures it once more itself."""
    return float(np.load(val)["base"])


def _as_arrays(plan: StudyPlan, work: Path) -> tuple[Path, Path]:
    """The preprocessed splits as .npz, so that the script need not decode images: a gift of a few seconds to it."""
    from autotune.trial.stages import bound_split

    paths = (work / "val.npz", work / "calib.npz")
    if plan.spec.data.calibration is None:
        sys.exit("the study names no calibration data")
    for path, split in zip(paths, (plan.spec.data.validation, plan.spec.data.calibration), strict=True):
        dataset = bound_split(plan.spec, split, plan.cache)
        x = dataset.take(np.arange(len(dataset)))["input"]
        y = np.zeros(len(dataset)) if dataset.labels is None else np.asarray(dataset.labels)
        np.savez(path, x=x, y=y, base=_fp32_top1(plan, x, y) if path.name == "val.npz" else 0.0)
    return paths


def _fp32_top1(plan: StudyPlan, x: Any, y: Any) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(str(plan.spec.model.path), providers=["CPUExecutionProvider"])
    return float(np.mean([session.run(None, {"input": x[i : i + 1]})[0].argmax() == y[i] for i in range(len(x))]))


def _rate(record: TrialRecord) -> float:
    return record.throughput_items_per_s.value if record.throughput_items_per_s else 0.0


def _own_rate(record: TrialRecord) -> float:
    """What the trial's own load gave, whatever the finalists' rounds say of its candidate."""
    own = own_load(record, THROUGHPUT)
    return own.value if own else 0.0


def _ended(record: TrialRecord) -> float:
    return datetime.fromisoformat(record.finished_at or "").timestamp()


def _summary(document: dict[str, Any]) -> dict[str, Any]:
    rounds, whole = document["rounds"], not document.get("arrival", False)
    return _seconds(rounds) | (_repeatability(rounds) if whole else {})


def _seconds(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = [(r["autotune"]["seconds"], r["script"]["seconds"]) for r in rounds]
    arrived = [r for r in rounds if r["autotune"]["seconds"] is not None]
    ratios = [(r["script"]["seconds"] or r["script"]["all_s"]) / r["autotune"]["seconds"] for r in arrived]
    by_one_goal = [(_arrival_s(r["script"]["trials"], r["autotune"]["goal_items_per_s"]) or r["script"]["all_s"])
                   / r["autotune"]["seconds"] for r in arrived]  # fmt: skip
    return {
        "autotune_s": [a for a, _ in pairs],
        "script_s": [b for _, b in pairs],
        "autotune_never_arrived": sum(a is None for a, _ in pairs),
        "script_never_arrived": sum(b is None for _, b in pairs),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)} if ratios else None,
        "ratios_by_the_studys_goal": by_one_goal,
    }


def _repeatability(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [r["autotune"]["best_items_per_s"]["value"] for r in rounds]
    shares = [rate / r["autotune"]["goal_items_per_s"] for rate, r in zip(rates, rounds, strict=True)]
    return {
        "repeatability": {
            "best_items_per_s": rates,
            "largest_over_smallest": max(rates) / min(rates),
            "best_over_goal": shares,
            "largest_share_over_smallest": max(shares) / min(shares),
        }
    }


def _again(plan: StudyPlan, document: dict[str, Any]) -> dict[str, Any]:
    """Every study's best beside the sweep's best, three times in turn: medians, and their share of the sweep's."""
    winners = [Candidate.from_json(r["autotune"]["best"]) for r in document["rounds"]]
    top = Candidate.from_json(document["sweep_best"])
    with TrialProcess(plan.preload) as process, device_lock("cpu"):
        reference = mobilenet.run_candidate(plan, process, None, plan.reference)
        runs = [[_rate(mobilenet.run_candidate(plan, process, reference, c)) for c in (*winners, top)] for _ in range(3)]
    medians = [statistics.median(column) for column in zip(*runs, strict=True)]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "items_per_s": medians[:-1],
        "sweep_best": medians[-1],
        "shares": [m / medians[-1] for m in medians[:-1]],
    }


if __name__ == "__main__":
    main()
