"""Do our loads agree with yardsticks that nobody here wrote: OpenVINO's benchmark_app and MLPerf's LoadGen?

    python benchmarks/agreement.py --data ../shared/data --out benchmarks/results/agreement.json [--quick]

MobileNetV2 and ResNet-20 in fp32 on both CPU engines, the same built engine with the same settings for all. Printed is our
figure over the other's in the same round: the median over the rounds, with their range and with the 95 % interval of that
median by order statistics.

- benchmark_app, on OpenVINO: it and our closed loop on the same compiled model, in random order, each in a fresh process.
- LoadGen's Offline: in one process and on one session of as many streams and threads as processors LoadGen, our closed loop,
  that again, and LoadGen again, each after the same short warm-up, so that a machine that becomes faster or slower meanwhile
  treats both alike.
- LoadGen's Server: by the same turns, our open loop on the arrivals that LoadGen had drawn; at a quarter of the peak, with one
  processor left to whoever issues the samples. Where the engine holds every processor, LoadGen's thread waits for one
  (`late_ms` is the 99th percentile of that wait) and its latencies tell of that: --busy adds this case. Every arrival counts on
  both sides, with its latency from the scheduled arrival. `engine_ms` is the median time that a batch is with the engine.
  Whatever else a latency has is waiting: our worker waits for the arrival itself, LoadGen's thread has to wake one, and where
  processors halt (--halting) that takes longer. With --handed a third contender takes turns, which has nothing of LoadGen's but
  a thread of its own that waits for the arrivals and hands them over in the same way. `pooled` are the percentiles over the
  requests of all rounds, with the 95 % interval of a bootstrap over rounds: p99 of one round hangs on a handful of requests.
- The same with batches gathered (`batch_wait_ms`): one that is not full waits for as long as a full one takes.

Needs: pip install 'autotune[cpu,loadgen]'
"""

from __future__ import annotations

import gc
import itertools
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from agreement_parts.contenders import (
    SHORT_WARMUP,
    EngineTimes,
    Latencies,
    Turn,
    awake,
    by_hand,
    by_loadgen,
    by_our_open_loop,
    load_of,
)
from spread import spread_with_interval
from two_models import Bench, arguments_of, benches, machine, write

from autotune.bench.scenario import Loadable, run_scenario
from autotune.candidate import Candidate
from autotune.fingerprint import usable_cores
from autotune.records import TrialRecord
from autotune.trial.materialize import materialize
from autotune.trial.stages import bound_split, load_batches

BATCH = {"mobilenet_v2": 4, "resnet20": 64}
"""So that a batch takes tens of milliseconds: beside it what benchmark_app and LoadGen need for themselves is little."""
PARTS = ["benchmark_app", "offline", "server", "gathered"]
RATE = 0.25
"""Of the peak: the queue is felt, and yet a speed that differs by a per cent does not become a latency that differs by ten. An
engine with static shapes takes the time of a whole batch for a sample that comes alone too: at half of the peak its batches
must be half full in the mean, and a little more speed changes the queue much."""
_RESAMPLES = 2000

_SLO_MS = 10_000.0
"""Nothing is judged by it; LoadGen's Server and a plan want one."""

Figures = dict[str, float | None]


def main() -> None:
    """Runs the rounds, prints the ratios, writes everything."""
    arguments = arguments_of(
        __doc__ or "", rounds={"type": int, "default": 7}, seed={"type": int, "default": 0},
        seconds={"type": float, "default": 10.0}, busy={"action": "store_true"},
        parts={"nargs": "+", "default": PARTS, "choices": PARTS}, halting={"action": "store_true"},
        handed={"action": "store_true"},
    )  # fmt: skip
    rounds = 1 if arguments.quick else arguments.rounds
    seconds = 1.0 if arguments.quick else arguments.seconds
    rows = []
    with benches(arguments.data, arguments.work, arguments.models) as found:
        for bench in found:
            for engine in bench.plan.space.engines:
                new = []
                if "benchmark_app" in arguments.parts and engine == "openvino":
                    new.append(_with_benchmark_app(bench, rounds, seconds, arguments.seed))
                if "offline" in arguments.parts:
                    new.append(_offline(bench, engine, rounds, seconds))
                threads = [max(1, usable_cores() - 1), *([usable_cores()] if arguments.busy else [])]
                for part, n in itertools.product([p for p in ("server", "gathered") if p in arguments.parts], threads):
                    with nullcontext() if arguments.halting else awake():
                        new.append(
                            _served(bench, engine, rounds, seconds, n, gathered=part == "gathered", handed=arguments.handed)
                        )
                for line in itertools.chain(*map(_lines, new)):
                    print(line, flush=True)
                rows += new
                # As far as it is: hours of figures must not hang on the last engine.
                write({"quick": arguments.quick, "machine": machine(bench), "rows": rows}, arguments.out)


def _with_benchmark_app(bench: Bench, rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    """OpenVINO's own tool and our closed loop, each in a fresh process, in random order."""
    candidate = bench.candidate("openvino", batch_size=BATCH[bench.name], streams=usable_cores(), worker_threads=usable_cores())
    contenders: dict[str, Callable[[], Figures]] = {
        "ours_fresh": lambda: _figures(bench.measured(candidate, load_of(seconds))),
        "benchmark_app": lambda: _benchmark_app(bench, candidate, seconds),
    }
    order = random.Random(f"{seed}/{bench.name}")
    found: dict[str, list[Figures]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in order.sample(list(contenders), len(contenders)):
            found[name].append(contenders[name]())
            print(f"  {bench.name} openvino {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return _row(bench, candidate, found, _ratios(found, [("items_per_s", "ours_fresh", "benchmark_app")]))


def _offline(bench: Bench, engine: str, rounds: int, seconds: float) -> dict[str, Any]:
    """LoadGen's Offline and our closed loop by turns on one session of a stream and a thread for each processor."""
    # A stream of ONNX Runtime computes on its caller's thread, beside its pool; OpenVINO deals its threads out to the streams.
    threads = 1 if engine == "onnxruntime" else usable_cores()
    candidate = bench.candidate(engine, batch_size=BATCH[bench.name], streams=usable_cores(), worker_threads=threads)
    plans = {"loadgen_offline": load_of(seconds, driver="loadgen", **SHORT_WARMUP), "ours_offline": load_of(seconds)}
    found: dict[str, list[Figures]] = {name: [] for name in plans}
    with _session(bench, candidate) as on:
        for i in range(rounds):
            rates: dict[str, list[float]] = {name: [] for name in plans}
            for turn, name in enumerate([*plans, *reversed(plans)]):
                here = replace(on, seed=i, logs=(on.logs or Path()) / f"{i}-{turn}")
                rates[name].append(run_scenario(here, plans[name]).throughput_items_per_s.value)
            for name, pair in rates.items():
                found[name].append({"items_per_s": statistics.fmean(pair)})
            print(f"  {bench.name} {engine} offline: {rates}", file=sys.stderr, flush=True)
    return _row(bench, candidate, found, _ratios(found, [("items_per_s", "ours_offline", "loadgen_offline")]))


def _served(
    bench: Bench, engine: str, rounds: int, seconds: float, n_threads: int, *, gathered: bool, handed: bool
) -> dict[str, Any]:
    """LoadGen's Server and our open loop on its arrivals, by turns on one session of `n_threads` streams and threads.

    `gathered`: a batch that is not full waits for as long as a full one takes. `handed`: `by_hand` takes turns, too.
    """
    # As in _offline: a stream of ONNX Runtime computes on its caller's thread.
    per_stream = 1 if engine == "onnxruntime" else n_threads
    candidate = bench.candidate(engine, batch_size=BATCH[bench.name], streams=n_threads, worker_threads=per_stream)
    contenders = {"loadgen_server": by_loadgen, "ours_server": by_our_open_loop} | ({"ours_handed": by_hand} if handed else {})
    found: dict[str, list[Figures]] = {name: [] for name in contenders}
    latencies: dict[str, list[Latencies]] = {name: [] for name in contenders}
    with _session(bench, candidate) as on:
        engine_times = EngineTimes(on.session)
        on = replace(on, session=engine_times)
        peak = run_scenario(on, load_of(min(seconds, 5.0))).throughput_items_per_s.value
        wait_ms = 1000 * n_threads * candidate.batch_size / peak if gathered else 0.0
        server = {"qps": RATE * peak, "slo_ms": _SLO_MS, "batch_wait_ms": wait_ms}
        for i in range(rounds):
            here = replace(on, seed=i, logs=(on.logs or Path()) / str(i))
            turns: dict[str, list[Turn]] = {name: [] for name in contenders}
            due_ns = None
            for name in [*contenders, *reversed(contenders)]:  # LoadGen first: it draws the arrivals
                turn = contenders[name](here, server, due_ns, seconds)
                due_ns = turn.due_ns
                turns[name].append(replace(turn, engine_ms=engine_times.taken(due_ns)))
            for name, pair in turns.items():
                latencies[name].append(np.concatenate([t.latency_ms for t in pair]))
                found[name].append(_of_turns(latencies[name][-1], pair))
            print(f"  {bench.name} {engine} {n_threads}: " + ", ".join(f"{name} {found[name][-1]}" for name in found),
                  file=sys.stderr, flush=True)  # fmt: skip
    ratios = []
    for ours in [name for name in contenders if name != "loadgen_server"]:
        both = (ours, "loadgen_server")
        of_both = list(zip(*(latencies[name] for name in both), strict=True))
        for r, q in zip(_ratios(found, [("p50_ms", *both), ("p99_ms", *both)]), (50, 99), strict=True):
            ratios.append(r | {"pooled": _pooled(of_both, q)})
        ratios += _ratios(found, [("engine_ms", *both)])
    return _row(bench, candidate, found, ratios) | {"arrivals_per_s": server["qps"], "batch_wait_ms": wait_ms}


def _row(bench: Bench, candidate: Candidate, found: dict[str, list[Figures]], ratios: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": bench.name, "candidate": candidate.as_json(), "rounds": found, "ratios": ratios}


@contextmanager
def _session(bench: Bench, candidate: Candidate) -> Iterator[Loadable]:
    """The candidate's engine opened in this process, with the samples that it is loaded with and a folder for logs."""
    spec, backend = bench.plan.spec, bench.plan.backends[candidate.engine]
    pool = load_batches(bound_split(spec, spec.data.validation, bench.plan.cache), candidate.batch_size)
    engine = materialize(spec, candidate, bench.plan.cache).engine
    with tempfile.TemporaryDirectory() as folder, backend.open(engine, candidate) as session:
        gc.collect()
        gc.freeze()  # as in a trial's process: else a full collection stops a load for as long as the heap is large
        partial = backend.capabilities().partial_batches
        yield Loadable(session=session, pool=pool, batch_size=candidate.batch_size, partial=partial, logs=Path(folder))


def _of_turns(latency_ms: Latencies, turns: Sequence[Turn]) -> Figures:
    late = [t.late_ms for t in turns if t.late_ms is not None]
    found = {**_percentiles(latency_ms), "engine_ms": _median([t.engine_ms for t in turns])}
    return found | ({"late_ms": max(late)} if late else {})


def _median(several: Sequence[Latencies]) -> float:
    return float(np.median(np.concatenate(several)))


def _percentiles(latency_ms: Latencies) -> Figures:
    return {"p50_ms": float(np.percentile(latency_ms, 50)), "p99_ms": float(np.percentile(latency_ms, 99)),
            "n": float(len(latency_ms))}  # fmt: skip


def _pooled(rounds: Sequence[tuple[Latencies, Latencies]], q: float) -> dict[str, float]:
    """Our percentile over LoadGen's with the requests of all rounds, and the 95 % percentile bootstrap over rounds."""

    def ratio(chosen: Sequence[int]) -> float:
        ours, theirs = (np.concatenate([rounds[i][side] for i in chosen]) for side in (0, 1))
        return float(np.percentile(ours, q) / np.percentile(theirs, q))

    rng = np.random.default_rng(0)
    drawn = [ratio(rng.integers(len(rounds), size=len(rounds)).tolist()) for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": ratio(range(len(rounds))), "low": float(low), "high": float(high)}


def _ratios(found: dict[str, list[Figures]], pairs: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    return [{"of": what, "ours": a, "theirs": b, **_ratio(found[a], found[b], what)} for what, a, b in pairs]


def _ratio(ours: list[Figures], theirs: list[Figures], what: str) -> dict[str, float]:
    both = [(a[what], b[what]) for a, b in zip(ours, theirs, strict=True)]
    found = [a / b for a, b in both if a and b]
    return {**(spread_with_interval(found) if found else {}), "n": len(found)}


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
        "-ip", "f32",  # else it takes an image as u8 and converts it within the model
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
    if row.get("batch_wait_ms"):
        head += f", batches wait {row['batch_wait_ms']:.1f} ms"
    return [
        f"{head}: {r['of']} {r['ours']} / {r['theirs']} = "
        + (f"{r['median']:.3f} ({r['min']:.3f} to {r['max']:.3f}), {r['n']} rounds" if r["n"] else "not measured")
        + (", its interval [{low:.3f}, {high:.3f}]".format(**r) if "low" in r else "")
        + (", pooled {value:.3f} [{low:.3f}, {high:.3f}]".format(**r["pooled"]) if "pooled" in r else "")
        for r in row["ratios"]
    ]


if __name__ == "__main__":
    main()
