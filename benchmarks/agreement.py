"""Do our loads agree with yardsticks that nobody here wrote: OpenVINO's benchmark_app and MLPerf's LoadGen?

    python benchmarks/agreement.py --data ../shared/data --out benchmarks/results/agreement.json [--quick]

MobileNetV2 and ResNet-20 in fp32 on both CPU engines, the same built engine with the same settings for all. In each round, in
random order: our closed loop, LoadGen's Offline, benchmark_app on the same compiled model (OpenVINO only), and LoadGen's Server
at 70 % of the peak followed by our open loop on the very arrivals that LoadGen had drawn, since p99 of two different draws of
some seconds lie further apart than what is looked for. Printed are medians over the rounds, with their range, of our figure
over the other's in the same round: of throughput, and of p50 and p99 from the scheduled arrival.
Needs: pip install 'autotune[cpu,loadgen]'
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from two_models import Bench, arguments_of, benches, machine, spread, write

from autotune.bench.loadgen_log import read_log
from autotune.candidate import Candidate
from autotune.fingerprint import usable_cores
from autotune.records import TrialRecord
from autotune.spec.model import LoadSpec
from autotune.trial.materialize import materialize

BATCH = 4
RATE = 0.7
"""Of the peak: the queue is felt and yet far from growing without end."""

Figures = dict[str, float | None]


def main() -> None:
    """Runs the rounds, prints the ratios, writes everything."""
    arguments = arguments_of(
        __doc__ or "", rounds={"type": int, "default": 7}, seed={"type": int, "default": 0},
        seconds={"type": float, "default": 15.0},
    )  # fmt: skip
    rounds = 1 if arguments.quick else arguments.rounds
    seconds = 1.0 if arguments.quick else arguments.seconds
    rows = []
    with benches(arguments.data, arguments.work, arguments.models) as found:
        for bench in found:
            for engine in bench.plan.space.engines:
                rows.append(_row(bench, engine, rounds, seconds, arguments.seed))
                for line in _lines(rows[-1]):
                    print(line, flush=True)
                # As far as it is: hours of figures must not hang on the last engine.
                write({"quick": arguments.quick, "machine": machine(bench), "rows": rows}, arguments.out)


def _row(bench: Bench, engine: str, rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    cores = usable_cores()
    candidate = bench.candidate(engine, batch_size=BATCH, streams=cores, worker_threads=cores)
    windows = {"window_s": seconds / 10, "min_windows": 10, "max_s": seconds, "warmup_s": min(1.0, seconds), "precision": 1e-6}

    def load(**scenario: Any) -> LoadSpec:
        return LoadSpec.model_validate(windows | scenario)

    peak = bench.measured(candidate, load()).throughput_items_per_s
    rate = RATE * peak.value if peak else 1.0
    slo_ms = 1000.0 * max(1.0, 40 * BATCH / rate)

    def servers() -> dict[str, Figures]:
        theirs = _figures(bench.measured(candidate, load(driver="loadgen", server={"qps": rate, "slo_ms": slo_ms})))
        arrivals = _arrivals(bench)
        return {
            "loadgen_server": theirs,
            "ours_server": _figures(bench.measured(candidate, load(trace={"file": str(arrivals), "slo_ms": slo_ms}))),
        }

    contenders: list[Callable[[], dict[str, Figures]]] = [
        lambda: {"ours_offline": _figures(bench.measured(candidate, load()))},
        lambda: {"loadgen_offline": _figures(bench.measured(candidate, load(driver="loadgen")))},
        servers,
    ]
    if engine == "openvino":
        contenders.append(lambda: {"benchmark_app": _benchmark_app(bench, candidate, seconds)})
    order = random.Random(f"{seed}/{bench.name}/{engine}")
    found: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        order.shuffle(contenders)
        for contender in contenders:
            for name, figures in contender().items():
                found.setdefault(name, []).append(figures)
                print(f"  {bench.name} {engine} {name}: {figures}", file=sys.stderr, flush=True)
    pairs = [("items_per_s", "ours_offline", "loadgen_offline"), ("p99_ms", "ours_server", "loadgen_server")]
    pairs += [("p50_ms", "ours_server", "loadgen_server")]
    pairs += [("items_per_s", "ours_offline", "benchmark_app")] if "benchmark_app" in found else []
    return {
        "model": bench.name,
        "candidate": candidate.as_json(),
        "arrivals_per_s": rate,
        "rounds": found,
        "ratios": [{"of": what, "ours": a, "theirs": b, **_ratio(found[a], found[b], what)} for what, a, b in pairs],
    }


def _arrivals(bench: Bench) -> Path:
    """When LoadGen's Server, which has just run, let its samples arrive, as a trace that our own driver replays."""
    scheduled_s = np.sort(read_log(bench.loadgen_logs).scheduled_ns) / 1e9
    file = bench.loadgen_logs / "arrivals.csv"
    file.write_text("second\n" + "".join(f"{s:.9f}\n" for s in scheduled_s))
    return file


def _ratio(ours: list[Figures], theirs: list[Figures], what: str) -> dict[str, float]:
    both = [(a[what], b[what]) for a, b in zip(ours, theirs, strict=True)]
    found = [a / b for a, b in both if a and b]
    return {**spread(found), "n": len(found)} if found else {"n": 0}


def _figures(record: TrialRecord) -> Figures:
    rate, latency = record.throughput_items_per_s, record.latency_ms
    return {
        "items_per_s": rate.value if rate else None,
        "p50_ms": latency.p50.value if latency.p50 else None,
        "p99_ms": latency.p99.value if latency.p99 else None,
        "late_share": record.load.late_share if record.load else None,
        "foreign_cpu_share": record.load.foreign_cpu_share if record.load else None,
    }


def _benchmark_app(bench: Bench, candidate: Candidate, seconds: float) -> Figures:
    """OpenVINO's own tool on the very IR that our session compiles, with the same streams, requests, threads and precision."""
    engine = materialize(bench.plan.spec, candidate, bench.plan.cache).engine
    settings = bench.plan.backends["openvino"].deployment(candidate)["compile_model"]
    tool = str(Path(sys.executable).with_name("benchmark_app"))
    command = [
        tool, "-m", str(engine.folder / "model.xml"), "-d", "CPU", "-api", "async",
        "-hint", "none", "-nstreams", str(settings["NUM_STREAMS"]), "-nireq", str(candidate.streams),
        "-nthreads", str(settings["INFERENCE_NUM_THREADS"]), "-infer_precision", settings["INFERENCE_PRECISION_HINT"],
        "-t", str(max(1, round(seconds))),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rate = re.search(r"Throughput:\s+([0-9.]+)", done.stdout)
    median = re.search(r"Median:\s+([0-9.]+)", done.stdout)
    if not rate:
        raise RuntimeError(f"{' '.join(command)} gave no figure: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {"items_per_s": float(rate[1]), "p50_ms": float(median[1]) if median else None, "p99_ms": None}


def _lines(row: dict[str, Any]) -> list[str]:
    head = f"{row['model']} {row['candidate']['engine']}"
    return [
        f"{head}: {r['of']} {r['ours']} / {r['theirs']} = "
        + (f"{r['median']:.3f} [{r['min']:.3f}, {r['max']:.3f}], {r['n']} rounds" if r["n"] else "not measured")
        for r in row["ratios"]
    ]


if __name__ == "__main__":
    main()
