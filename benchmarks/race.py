"""A study against an afternoon's Optuna script: seconds until what it holds for its best is worth 95 % of the best there is.

    python benchmarks/race.py --data ../shared/data/imagenet --out benchmarks/results/race-by-worth.json

The folder holds mobilenet_v2_1.0_224.onnx, images/ and labels.csv (splits calib and val). Both search the same grid (GRID of
mobilenet.py: engine with precision, batch, streams, threads; 180 points where the CPU has bf16), both must stay within one
point of top-1, both start with nothing built. First every point of the grid is measured. Then `--repeats` rounds in alternating
order, each with fresh folders, and a fresh seed: a study of `--trials` trials, which goes on to its end, finalists included,
and the script, which is ended after `--limit-s`.

Who has arrived is told afterwards, and not by the contenders' own loads, which a machine that becomes faster and slower would
decide (race_parts/worth.py): the configurations that either held for its best, its fastest feasible one so far, the studies'
bests and the sweep's five fastest are measured in `--turns` turns in random order. A contender has arrived with the first that
is worth 95 % of the fastest of those five. `ratio` is the script's time over the study's; where the script had not arrived, the
time that it had counts, and the ratio is at least what is printed. A study that had not arrived counts the whole of its search.

`repeatability` says how far the studies' best throughputs, as reported, lie apart (aim: any two within 5 %), and `bests` what
they are worth, in these turns and in those that measure only them and the sweep's five again, at any later time, by

    python benchmarks/race.py --data ../shared/data/imagenet --again --out benchmarks/results/race-by-worth.json

Every round and turn is written when it ends; the same command goes on after it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import random
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
from race_parts.worth import Tried, Turn, arrival, fastest_of, share_of, times_as_long, worth_measuring
from spread import spread

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

CONTENDERS = ("autotune", "script")
SPACE = """
  precision: [fp32, bf16, int8]
  pruning_ratio: 0.0
  batch_size: [1, 2, 4, 8, 16, 32]
  streams: [1, 2, 4]
  worker_threads: [1, 2]
"""


def main() -> None:
    """Sweep, rounds, and what was found measured in turns; one JSON file."""
    arguments = _arguments()
    data, work = Path(arguments.data).resolve(), Path(tempfile.mkdtemp(prefix="autotune-race-"))
    plan = checked_plan(str(study_file(data, work / "sweep", seed=0, trials=1)))
    document = _begun(plan, arguments)
    _write(document, arguments.out)
    if not document["worth"]:
        npz = _as_arrays(plan, work)
        for i in range(len(document["rounds"]), arguments.repeats):
            document["rounds"].append(_round(i, data, npz, work, arguments))
            _write(document, arguments.out)
    if not document["worth"] or (arguments.again and _is_whole(document["worth"][-1])):
        document["worth"].append({"at": _now(), "n_turns": arguments.turns, "turns": []})
    _measure_worth(plan, document, arguments.out)
    print(json.dumps(document["summary"], indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40, help="of each study")
    parser.add_argument("--limit-s", type=float, default=420.0, help="after which the script is ended")
    parser.add_argument("--turns", type=int, default=15, help="in which what was found is measured")
    parser.add_argument("--again", action="store_true", help="measure once more what the result in --out found")
    parser.add_argument("--quick", action="store_true", help="every ninth point of the grid, to try the script out")
    arguments = parser.parse_args()
    if arguments.again and not (arguments.out and Path(arguments.out).exists()):
        parser.error("--again measures what a result found: name the file with --out")
    return arguments


def _begun(plan: StudyPlan, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result so far: that of an interrupted run, or a sweep."""
    if arguments.out and Path(arguments.out).exists():
        begun: dict[str, Any] = json.loads(Path(arguments.out).read_text())
        if "worth" not in begun:
            sys.exit(f"{arguments.out} is of an earlier version, which judged contenders by their own loads: name another file")
        if begun["machine"] != mobilenet.machine_of(plan):
            sys.exit(f"{arguments.out} was begun on {begun['machine']}: go on there, or name another file")
        if len(begun["rounds"]) < arguments.repeats and not begun["worth"] and begun.get("settings") != _settings(arguments):
            sys.exit(f"{arguments.out} was begun with {begun.get('settings')}: go on with these, or name another file")
        return begun
    with TrialProcess(plan.preload) as process, device_lock("cpu"):
        reference = mobilenet.run_candidate(plan, process, None, plan.reference)
        _, sweep = mobilenet.sweep_of(plan, process, reference, quick=arguments.quick)
    settings = _settings(arguments)
    return {"machine": mobilenet.machine_of(plan), "settings": settings, "sweep": sweep, "rounds": [], "worth": []}


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What all rounds of one result have in common."""
    return {"trials": arguments.trials, "limit_s": arguments.limit_s, "quick": arguments.quick}


def _write(document: dict[str, Any], out: str | None) -> None:
    if out:
        partial = Path(f"{out}.partial")  # killed while it writes, the hours before are still there
        partial.write_text(json.dumps(document, indent=2) + "\n")
        partial.replace(out)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def study_file(data: Path, folder: Path, *, seed: int, trials: int) -> Path:
    """MobileNetV2 in the race's space, in a new folder."""
    folder.mkdir(parents=True)
    text = mobilenet.STUDY.format(data=data, model=mobilenet.MODEL, trials=trials, preset="cpu", seed=seed)
    text = text.replace("space: {extends: cpu}", "engines: [onnxruntime, openvino]\nspace:" + SPACE)
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def _round(i: int, data: Path, npz: tuple[Path, Path], work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both contenders, each one first in every other round."""
    found: dict[str, Any] = {}
    for name in CONTENDERS if i % 2 == 0 else CONTENDERS[::-1]:
        if name == "autotune":
            found[name] = _study(data, work / f"study{i}", i + 1, arguments.trials)
        else:
            found[name] = _script(data, npz, work, arguments.limit_s)
        print(f"round {i + 1}: {name}, {len(found[name]['trials'])} trials in {found[name]['all_s']:.0f} s", file=sys.stderr)
    return found


def _study(data: Path, folder: Path, seed: int, trials: int) -> dict[str, Any]:
    """A study to its end, counted from when the command would have been typed."""
    began = time.time()
    plan = checked_plan(str(study_file(data, folder, seed=seed, trials=trials)))
    with PlainProgress() as progress:
        store = open_store(plan.spec.storage)
        result = run_study(plan, store, this_worker(), progress, StopSwitch())
    row = store.study(plan.spec.study)
    searched = store.trials(row.id, FINISHED, SEARCHED) if row is not None else []
    tried = sorted(
        (
            Tried(s=_ended(r) - began, items_per_s=_own_rate(r), feasible=is_feasible(r, plan.spec), candidate=r.candidate)
            for r in searched
        ),
        key=lambda t: t.s,
    )
    winner = best(result.records, plan.spec)
    if winner is None:
        sys.exit("no trial kept to the accuracy constraint")
    return {
        "ended_at": _now(),
        "all_s": time.time() - began,
        "trials": [t.as_json() for t in tried],
        "best": winner.candidate.as_json(),
        "fastest": _fastest(result.records, plan.spec).as_json(),  # the best is the simplest of those that tie with it
        "best_items_per_s": asdict(winner.throughput_items_per_s) if winner.throughput_items_per_s else None,
    }


def _fastest(records: Sequence[TrialRecord], spec: StudySpec) -> Candidate:
    """Of the feasible trials the one of the highest throughput that the study reports."""
    rates = {r.candidate: r.throughput_items_per_s.value for r in records if is_feasible(r, spec) and r.throughput_items_per_s}
    return max(rates, key=rates.__getitem__)


def _script(data: Path, npz: tuple[Path, Path], work: Path, limit_s: float) -> dict[str, Any]:
    """The script in a process of its own, until the limit."""
    script = Path(__file__).with_name("optuna_script.py")
    command = [sys.executable, "-W", "ignore", str(script), str(data / mobilenet.MODEL), *map(str, npz), "200"]
    base, began = _base_top1(npz[0]), time.time()
    tried: list[Tried] = []
    with subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            line = json.loads(text)
            candidate = _candidate_of(line)
            feasible = line["top1"] >= base - 0.01
            tried.append(Tried(s=time.time() - began, items_per_s=line["items_per_s"], feasible=feasible, candidate=candidate))
            if time.time() - began > limit_s:
                process.kill()
                break
        else:
            if process.wait():
                by_hand = " ".join(command)
                sys.exit(f"{script.name} failed after {len(tried)} trials; this round is not counted. By hand: {by_hand}")
    return {
        "ended_at": _now(),
        "all_s": time.time() - began,
        "repeated": len(tried) - len({t.candidate for t in tried}),
        "trials": [t.as_json() for t in tried],
    }


def _candidate_of(line: dict[str, Any]) -> Candidate:
    """The point of the grid that the script's line tells of."""
    engine, precision = line["pair"].split("/")
    return Candidate(
        engine=engine,
        precision=precision,
        pruning_ratio=0.0,
        batch_size=line["batch"],
        streams=line["streams"],
        worker_threads=line["threads"],
        memory_pool_mib=None,
    )


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


def _own_rate(record: TrialRecord) -> float:
    """What the trial's own load gave, whatever the finalists' rounds say of its candidate."""
    own = own_load(record, THROUGHPUT)
    return own.value if own else 0.0


def _ended(record: TrialRecord) -> float:
    return datetime.fromisoformat(record.finished_at or "").timestamp()


def _measure_worth(plan: StudyPlan, document: dict[str, Any], out: str | None) -> None:
    """The turns that are still to come of the newest measurement, each written when it ends, and the summary."""
    newest, order = document["worth"][-1], random.Random(len(document["worth"]))
    turns = newest["turns"]
    candidates = sorted(_to_measure(document), key=str)
    with TrialProcess(plan.preload) as process, device_lock("cpu"):
        reference = mobilenet.run_candidate(plan, process, None, plan.reference)
        while not _is_whole(newest):
            order.shuffle(candidates)
            turn = [(c, _short_load(plan, process, reference, c)) for c in candidates]
            turns.append([{"items_per_s": rate, **c.as_json()} for c, rate in turn])
            print(f"turn {len(turns)}/{newest['n_turns']}", file=sys.stderr)
            _write(document, out)
    document["summary"] = summary_of(document)
    _write(document, out)


def _is_whole(measurement: dict[str, Any]) -> bool:
    return len(measurement["turns"]) >= int(measurement["n_turns"])


def _short_load(plan: StudyPlan, process: TrialProcess, reference: TrialRecord, candidate: Candidate) -> float:
    """Items/s of a load of two seconds: where the machine changes, many short loads in turns tell more than few long ones."""
    load = {"window_s": 0.25, "min_windows": 6, "max_s": 2.0, "warmup_s": 0.5}
    record = mobilenet.run_candidate(plan, process, reference, candidate, **load)
    if record.throughput_items_per_s is None:
        sys.exit(f"{candidate} could not be measured again: {record.reject or record.state}")
    return record.throughput_items_per_s.value


def _to_measure(document: dict[str, Any]) -> set[Candidate]:
    """The studies' bests and the sweep's five, and the first time whatever else a contender held for its best."""
    rounds, is_first = document["rounds"], len(document["worth"]) == 1
    held = worth_measuring([_tried(r[name]) for r in rounds for name in CONTENDERS]) if is_first else set()
    return held | set(_bests(document)) | set(_swept(document))


def _bests(document: dict[str, Any]) -> list[Candidate]:
    return [Candidate.from_json(r["autotune"]["best"]) for r in document["rounds"]]


def _swept(document: dict[str, Any]) -> list[Candidate]:
    """The five fastest of the sweep."""
    return [_without_rate(row)[0] for row in document["sweep"]["best"][:5]]


def _without_rate(row: dict[str, Any]) -> tuple[Candidate, float]:
    return Candidate.from_json({k: v for k, v in row.items() if k not in ("items_per_s", "state")}), row["items_per_s"]


def _tried(contender: dict[str, Any]) -> list[Tried]:
    return [Tried.from_json(t) for t in contender["trials"]]


def summary_of(document: dict[str, Any]) -> dict[str, Any]:
    """What the rounds say, judged by the first measurement's turns, and what the studies' bests were worth in each."""
    measurements = [[dict(map(_without_rate, turn)) for turn in m["turns"]] for m in document["worth"]]
    top = fastest_of(_swept(document), measurements[0])
    return {
        "best_of_the_sweep": top.as_json(),
        **_seconds(document["rounds"], top, measurements[0]),
        "bests": [
            {"at": m["at"], "shares": [share_of(c, top, turns) for c in _bests(document)]}
            for m, turns in zip(document["worth"], measurements, strict=True)
        ],
        "repeatability": _repeatability(document["rounds"]),
    }


def _seconds(rounds: Sequence[dict[str, Any]], top: Candidate, turns: Sequence[Turn]) -> dict[str, Any]:
    arrivals = {name: [arrival(_tried(r[name]), top, turns) for r in rounds] for name in CONTENDERS}
    given = (_tried(r["script"])[-1].s for r in rounds)
    ratios = [times_as_long(*both) for both in zip(arrivals["autotune"], arrivals["script"], given, strict=True)]
    return {
        **{f"{name}_s": [a.s if a else None for a in arrivals[name]] for name in CONTENDERS},
        **{f"{name}_arrived_with": [a.candidate.as_json() if a else None for a in arrivals[name]] for name in CONTENDERS},
        "ratios": ratios,
        "ratio": spread(ratios),
    }


def _repeatability(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [r["autotune"]["best_items_per_s"]["value"] for r in rounds]
    return {"best_items_per_s": rates, "largest_over_smallest": max(rates) / min(rates)}


if __name__ == "__main__":
    main()
