"""Do the reported 95 % intervals hold what an independent process measures, and is a noisy neighbour noticed?

    python benchmarks/coverage.py --data ../shared/data --out benchmarks/results/coverage.json [--repetitions 60] [--quick]

For both CPU engines one setting (ResNet-20, batch 4), measured in fresh processes, --repetitions times each, in turns:

* one_run: how often the interval of one process's windows holds the next process's throughput (it promises only its own);
* one_process: the same once the spread between processes is in it, as a study reports a trial that ran once; learnt from the
  last five processes of each engine, as many as a study has of its reference after a quarter of an hour;
* further_process: the interval over 3 and over 5 processes against the next one, as a study reports finalists; the spread is
  pooled over both engines, as a study pools it over its finalists. Every process is the next one once, so groups overlap;
* p50_…, p99_…: the same of these percentiles of latency.

Then the reference is measured beside a process that keeps a core busy: how often the flag `contended` is set with and without
it, and whether the canary's control chart raises the alarm. --judge FILE prints what the records of an earlier result say.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from two_models import Bench, arguments_of, benches, machine, write

from autotune.bench.control import changed
from autotune.bench.disturbance import CONTENDED
from autotune.bench.rounds import Spread, pooled_spread, repeated_estimate
from autotune.bench.statistics import share_estimate
from autotune.candidate import Candidate
from autotune.fingerprint import usable_cores
from autotune.records import Estimate, TrialRecord
from autotune.spec.model import LoadSpec
from autotune.study.reporting import once

LEARNT = 5
_BUSY = "while True: sum(range(100000))"


def main() -> None:
    """Measures, prints the shares with their own intervals, and writes everything."""
    arguments = arguments_of(
        __doc__ or "", repetitions={"type": int, "default": 60}, neighbours={"type": int, "default": 1},
        disturbed={"type": int, "default": 8}, judge={"type": Path, "metavar": "FILE"},
    )  # fmt: skip
    if arguments.judge:
        document = json.loads(arguments.judge.read_text())
        document["coverage"] = _coverage(document["records"])
        _print(document["coverage"])
        write(document, arguments.out)
        return
    n = 8 if arguments.quick else arguments.repetitions
    n_disturbed = 2 if arguments.quick else arguments.disturbed
    load = LoadSpec(window_s=0.1, min_windows=5, max_s=0.8, warmup_s=0.2) if arguments.quick else LoadSpec()
    with benches(arguments.data, arguments.work, ["resnet20"]) as (bench,):
        cores = usable_cores()
        candidates = {
            engine: bench.candidate(engine, batch_size=4, streams=cores, worker_threads=cores)
            for engine in bench.plan.space.engines
        }
        found: dict[str, list[TrialRecord]] = {engine: [] for engine in candidates}
        for i in range(n):
            for engine, candidate in candidates.items():
                found[engine].append(bench.measured(candidate, load))
                print(f"{i + 1}/{n} {engine} {_rate(found[engine][-1]).value:.1f} items/s", file=sys.stderr, flush=True)
        disturbed = _beside_a_neighbour(bench, candidates[next(iter(candidates))], load, n_disturbed, arguments.neighbours)
        rows = {engine: [_row(r) for r in records] for engine, records in found.items()}
        document = {
            "quick": arguments.quick,
            "machine": machine(bench),
            "coverage": _coverage(rows),
            "neighbour": _noticed(found[next(iter(candidates))], disturbed),
            "records": rows,
            "disturbed": [_row(r) for r in disturbed],
        }
    _print({**document["coverage"], **document["neighbour"]})
    write(document, arguments.out)


def _print(found: Mapping[str, Any]) -> None:
    for name, share in found.items():
        print(f"{name}: {_said(share)}")


def _beside_a_neighbour(bench: Bench, candidate: Candidate, load: LoadSpec, n: int, neighbours: int) -> list[TrialRecord]:
    """The candidate measured while so many processes each keep a core busy; they are gone afterwards."""
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(neighbours)]
    try:
        return [bench.measured(candidate, load) for _ in range(n)]
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _coverage(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Shares of intervals that hold the next process, over both engines."""
    of = {"": lambda r: r["throughput_items_per_s"], "p50_": lambda r: r["latency_ms"]["p50"]}
    of["p99_"] = lambda r: r["latency_ms"]["p99"]
    shares: dict[str, Any] = {}
    for prefix, read in of.items():
        measured = {engine: [_estimate(read(r)) for r in found] for engine, found in rows.items()}
        shares |= {prefix + name: _share(values) for name, values in _hits(measured).items()}
    return shares


def _hits(measured: Mapping[str, Sequence[Estimate]]) -> dict[str, list[bool]]:
    """By kind of interval, of one metric: whether each held the value of the next process."""
    hits: dict[str, list[bool]] = {name: [] for name in ("one_run", "one_process", "further_process_3", "further_process_5")}
    for i in range(1, min(map(len, measured.values()))):
        for found in measured.values():
            hits["one_run"].append(_holds(found[i - 1], found[i].value))
            if i >= LEARNT and (spread := _spread(measured, i, LEARNT)) is not None:
                hits["one_process"].append(_holds(once(found[i - 1], spread), found[i].value))
            for k in (3, 5):
                if i >= k and (pooled := _spread(measured, i, k)) is not None:
                    mean = repeated_estimate({j: found[j].value for j in range(i - k, i)}, pooled)
                    hits[f"further_process_{k}"].append(_holds(mean, found[i].value))
    return hits


def _spread(measured: Mapping[str, Sequence[Estimate]], i: int, k: int) -> Spread | None:
    """What the k processes of each engine before the i-th show, as a study learns it."""
    last = {engine: found[i - k : i] for engine, found in measured.items()}
    own_sd = [e.half_width / 2 / e.value for found in last.values() for e in found]
    return pooled_spread({engine: {j: e.value for j, e in enumerate(found)} for engine, found in last.items()}, own_sd)


def _estimate(values: Any) -> Estimate:
    found = Estimate.from_json(values)
    if found is None:
        raise RuntimeError("a record without a throughput or with too few requests for a percentile")
    return found


def _noticed(quiet: Sequence[TrialRecord], disturbed: Sequence[TrialRecord]) -> dict[str, Any]:
    """How often the flag was set, and after how many disturbed measurements the control chart raised the alarm, if it did."""
    flagged = {
        "contended_alone": _share([CONTENDED in r.flags for r in quiet]),
        "contended_beside_a_neighbour": _share([CONTENDED in r.flags for r in disturbed]),
        "repeated_windows_alone": sum(r.load.n_repeated_windows for r in quiet if r.load),
    }
    before = [math.log(_rate(r).value) for r in quiet]
    after = [math.log(_rate(r).value) for r in disturbed]
    alarm = next((i for i in range(1, len(after) + 1) if changed(before + after[:i]).changed_at is not None), None)
    ratio = math.exp(sum(after) / len(after) - sum(before) / len(before))
    return {**flagged, "false_alarm": changed(before).changed_at, "alarm_after": alarm, "speed_beside_a_neighbour": ratio}


def _rate(record: TrialRecord) -> Estimate:
    if record.throughput_items_per_s is None:
        raise RuntimeError(f"{record.candidate} has no throughput")
    return record.throughput_items_per_s


def _holds(interval: Estimate, value: float) -> bool:
    return interval.low <= value <= interval.high


def _share(values: Sequence[bool]) -> Estimate | None:
    return share_estimate(sum(values), len(values)) if values else None


def _said(value: Any) -> str:
    if isinstance(value, Estimate):
        return f"{value.value:.1%} [{value.low:.1%}, {value.high:.1%}] of {value.n}"
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _row(record: TrialRecord) -> dict[str, Any]:
    document = record.as_json()
    return {k: document[k] for k in ("throughput_items_per_s", "latency_ms", "load", "flags", "started_at")}


if __name__ == "__main__":
    main()
