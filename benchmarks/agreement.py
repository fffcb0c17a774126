"""Do our loads agree with yardsticks that nobody here wrote: OpenVINO's benchmark_app and MLPerf's LoadGen?

    python benchmarks/agreement.py --data ../shared/data --out benchmarks/results/agreement.json [--quick]

MobileNetV2 and ResNet-20 in fp32 on both CPU engines, the same built engine with the same settings for all. In each round, in
random order, each in a fresh process: our closed loop, LoadGen's Offline, and, for OpenVINO, benchmark_app on the same compiled
model. Then, in one process and on one session, by turns: LoadGen's Server, and our open loop on the very arrivals that LoadGen
had drawn, at half of the peak, with one processor left to whoever issues the samples. Fresh processes and other draws of some
seconds lie further apart than what is looked for; and where the engine holds every processor, LoadGen's thread waits for one
(`late` is the 99th percentile of that wait) and its latencies tell of that: --busy adds this case.

Printed are medians over the rounds, with their range, of our figure over the other's in the same round: of throughput, and of
p50 and p99 from the scheduled arrival. Needs: pip install 'autotune[cpu,loadgen]'
"""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from two_models import Bench, arguments_of, benches, machine, spread, write

from autotune.bench.load import LoadResult
from autotune.bench.loadgen_log import read_log
from autotune.bench.scenario import Loadable, run_scenario
from autotune.candidate import Candidate
from autotune.fingerprint import usable_cores
from autotune.records import TrialRecord
from autotune.spec.model import LoadSpec
from autotune.trial.materialize import materialize
from autotune.trial.stages import bound_split, load_batches

BATCH = 4
RATE = 0.5
"""Of the peak: the queue is felt, and yet a speed that differs by a per cent does not become a latency that differs by ten."""

Figures = dict[str, float | None]


def main() -> None:
    """Runs the rounds, prints the ratios, writes everything."""
    arguments = arguments_of(
        __doc__ or "", rounds={"type": int, "default": 7}, seed={"type": int, "default": 0},
        seconds={"type": float, "default": 10.0}, busy={"action": "store_true"},
    )  # fmt: skip
    rounds = 1 if arguments.quick else arguments.rounds
    seconds = 1.0 if arguments.quick else arguments.seconds
    rows = []
    with benches(arguments.data, arguments.work, arguments.models) as found:
        for bench in found:
            for engine in bench.plan.space.engines:
                threads = [max(1, usable_cores() - 1), *([usable_cores()] if arguments.busy else [])]
                new = [_row(bench, engine, rounds, seconds, arguments.seed)]
                new += [_served(bench, engine, rounds, seconds, n) for n in threads]
                for line in itertools.chain(*map(_lines, new)):
                    print(line, flush=True)
                rows += new
                # As far as it is: hours of figures must not hang on the last engine.
                write({"quick": arguments.quick, "machine": machine(bench), "rows": rows}, arguments.out)


def _load(seconds: float, **scenario: Any) -> LoadSpec:
    windows = {"window_s": seconds / 10, "min_windows": 10, "max_s": seconds, "warmup_s": min(1.0, seconds), "precision": 1e-6}
    return LoadSpec.model_validate(windows | scenario)


def _row(bench: Bench, engine: str, rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    cores = usable_cores()
    candidate = bench.candidate(engine, batch_size=BATCH, streams=cores, worker_threads=cores)
    contenders: list[Callable[[], dict[str, Figures]]] = [
        lambda: {"ours_offline": _figures(bench.measured(candidate, _load(seconds)))},
        lambda: {"loadgen_offline": _figures(bench.measured(candidate, _load(seconds, driver="loadgen")))},
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
    pairs = [("items_per_s", "ours_offline", "loadgen_offline")]
    pairs += [("items_per_s", "ours_offline", "benchmark_app")] if "benchmark_app" in found else []
    return {
        "model": bench.name,
        "candidate": candidate.as_json(),
        "rounds": found,
        "ratios": _ratios(found, pairs),
    }


def _served(bench: Bench, engine: str, rounds: int, seconds: float, n_threads: int) -> dict[str, Any]:
    """LoadGen's Server and our open loop on its arrivals, by turns on one session of `n_threads` streams and threads."""
    spec, backend = bench.plan.spec, bench.plan.backends[engine]
    candidate = bench.candidate(engine, batch_size=BATCH, streams=n_threads, worker_threads=n_threads)
    pool = load_batches(bound_split(spec, spec.data.validation, bench.plan.cache), BATCH)
    found: dict[str, list[Figures]] = {"loadgen_server": [], "ours_server": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        backend.open(materialize(spec, candidate, bench.plan.cache).engine, candidate) as session,
    ):
        on = Loadable(session=session, pool=pool, batch_size=BATCH, partial=backend.capabilities().partial_batches)
        rate = RATE * run_scenario(on, _load(seconds)).throughput_items_per_s.value
        slo_ms = 1000.0 * max(1.0, 40 * BATCH / rate)
        for i in range(rounds):
            here = replace(on, seed=i, logs=Path(folder) / str(i))
            theirs = run_scenario(here, _load(seconds, driver="loadgen", server={"qps": rate, "slo_ms": slo_ms}))
            arrivals, late_ms = _arrivals(Path(folder) / str(i) / "run")
            ours = run_scenario(here, _load(seconds, trace={"file": str(arrivals), "slo_ms": slo_ms}))
            found["loadgen_server"].append({**_latencies(theirs), "late_ms": late_ms})
            found["ours_server"].append(_latencies(ours))
            print(f"  {bench.name} {engine} {n_threads}: {found['loadgen_server'][-1]}, {found['ours_server'][-1]}",
                  file=sys.stderr, flush=True)  # fmt: skip
    pairs = [("p50_ms", "ours_server", "loadgen_server"), ("p99_ms", "ours_server", "loadgen_server")]
    return {
        "model": bench.name,
        "candidate": candidate.as_json(),
        "arrivals_per_s": rate,
        "rounds": found,
        "ratios": _ratios(found, pairs),
    }


def _latencies(result: LoadResult) -> Figures:
    p50, p99 = result.latency_ms.p50, result.latency_ms.p99
    return {"p50_ms": p50.value if p50 else None, "p99_ms": p99.value if p99 else None, "n": float(result.n_requests)}


def _ratios(found: dict[str, list[Figures]], pairs: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    return [{"of": what, "ours": a, "theirs": b, **_ratio(found[a], found[b], what)} for what, a, b in pairs]


def _arrivals(logs: Path) -> tuple[Path, float]:
    """When LoadGen's Server let its samples arrive, as a trace, and by how much it was late at the 99th percentile."""
    run = read_log(logs)
    file = logs / "arrivals.csv"
    file.write_text("second\n" + "".join(f"{s:.9f}\n" for s in np.sort(run.scheduled_ns) / 1e9))
    return file, float(np.percentile(run.issue_delay_ns, 99)) / 1e6


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
    head = f"{row['model']} {row['candidate']['engine']}, {row['candidate']['streams']} streams"
    return [
        f"{head}: {r['of']} {r['ours']} / {r['theirs']} = "
        + (f"{r['median']:.3f} [{r['min']:.3f}, {r['max']:.3f}], {r['n']} rounds" if r["n"] else "not measured")
        for r in row["ratios"]
    ]


if __name__ == "__main__":
    main()
