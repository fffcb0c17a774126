"""What the harness itself costs: submissions per second on an engine that does nothing, and its share of the CPU on real ones.

    python benchmarks/harness.py --data ../shared/data --out benchmarks/results/harness.json [--quick]

1. The closed loop on a session that answers at once, with 1, 2 and 4 streams: submissions per second (aim: 20,000 with four)
   and the CPU time of one submission, warm-up, windows, trace and statistics included.
2. The open loop on the same session at 2,000 arrivals per second: the CPU time of one request, and how late it is handed over.
3. The sampler of telemetry on its own: its share of one core.
4. Real engines in the setting with the most submissions per second (batch 1): the share of the machine's CPU that 1 and 3 cost
   at that rate (aim: below 3 %). CPU time is what is compared, so a neighbour changes the figures little.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from spread import spread
from two_models import Bench, arguments_of, benches, machine, write

from autotune.bench.open_loop import OpenLoop
from autotune.bench.scenario import Loadable, run_scenario
from autotune.bench.server import run_server
from autotune.engines.fake import NullSession
from autotune.fingerprint import usable_cores
from autotune.spec.model import LoadSpec
from autotune.telemetry.host import host_probes
from autotune.telemetry.sampler import Sampler

AIM_PER_S, AIM_SHARE = 20_000, 0.03
STREAMS = (1, 2, 4)


def main() -> None:
    """Prints and writes the four parts."""
    arguments = arguments_of(__doc__ or "", rounds={"type": int, "default": 5})
    rounds = 2 if arguments.quick else arguments.rounds
    seconds = 0.5 if arguments.quick else 3.0
    null = {n: [_closed(n, seconds) for _ in range(rounds)] for n in STREAMS}
    document: dict[str, Any] = {
        "quick": arguments.quick,
        "null_closed": {
            n: {
                "submissions_per_s": spread([r["submissions_per_s"] for r in found]),
                "cpu_ns_per_submission": spread([r["cpu_ns_per_submission"] for r in found]),
            }
            for n, found in null.items()
        },
        "null_open": [_open(n, seconds) for n in STREAMS],
        "sampler_share_of_a_core": spread([_sampler(seconds) for _ in range(rounds)]),
    }
    print(_said(document))
    with benches(arguments.data, arguments.work, arguments.models[-1:] if arguments.quick else arguments.models) as found:
        document["machine"] = machine(found[0])
        document["real"] = [row for bench in found for row in _real(bench, document, quick=arguments.quick)]
    for row in document["real"]:
        print(f"{row['model']} {row['candidate']['engine']} {row['candidate']['precision']}: {row['submissions_per_s']:.0f} "
              f"submissions/s, harness {row['harness_share_of_the_cpu']:.2%} of the CPU (aim < {AIM_SHARE:.0%})")  # fmt: skip
    write(document, arguments.out)


def _said(document: dict[str, Any]) -> str:
    lines = []
    for n, found in document["null_closed"].items():
        rate, cost = found["submissions_per_s"]["median"], found["cpu_ns_per_submission"]["median"]
        lines.append(f"null engine, {n} streams: {rate:,.0f} submissions/s, {cost:.0f} ns of CPU each (aim ≥ {AIM_PER_S:,}/s)")
    lines += [
        f"open loop, {r['streams']} streams: {r['cpu_us_per_request']:.1f} µs of CPU a request" for r in document["null_open"]
    ]
    return "\n".join([*lines, f"sampler: {document['sampler_share_of_a_core']['median']:.2%} of a core"])


def _session(streams: int) -> Loadable:
    pool = [{"x": np.zeros((1, 16), dtype=np.float32)} for _ in range(64)]
    session: Any = NullSession(streams)
    return Loadable(session=session, pool=pool, batch_size=1, seed=time.monotonic_ns() % 2**32)


def _cpu_s(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU time of the whole process and wall time that the call took, and its result."""
    cpu, wall = time.process_time(), time.monotonic()
    result = call()
    return time.process_time() - cpu, time.monotonic() - wall, result


def _closed(streams: int, seconds: float) -> dict[str, float]:
    plan = LoadSpec(window_s=seconds / 5, min_windows=5, max_s=seconds, warmup_s=0.1, precision=1e-9)
    cpu_s, _, found = _cpu_s(lambda: run_scenario(_session(streams), plan))
    rate = found.throughput_items_per_s.value
    return {"submissions_per_s": rate, "cpu_ns_per_submission": 1e9 * cpu_s / (rate * (found.measured_s + found.warmup_s))}


def _open(streams: int, seconds: float) -> dict[str, Any]:
    """The open loop alone, without the closed one that warms an engine up."""
    plan = LoadSpec.model_validate(
        {"server": {"qps": 2000, "slo_ms": 50}, "window_s": seconds / 5, "max_s": seconds, "precision": 1e-9}
    )
    on = _session(streams)
    loop = OpenLoop(session=on.session, assembler=on.assembler(), batch_size=1, plan=plan, clock=time.monotonic_ns)
    cpu_s, _, found = _cpu_s(lambda: run_server(loop, None, on.seed, time.monotonic_ns()))
    load = found.figures
    return {
        "streams": streams,
        "cpu_us_per_request": 1e6 * cpu_s / (2000 * found.measured_s),
        "late_share": load.late_share if load else None,
        "p50_ms": found.latency_ms.p50.value if found.latency_ms.p50 else None,
        "p99_ms": found.latency_ms.p99.value if found.latency_ms.p99 else None,
    }


def _sampler(seconds: float) -> float:
    probes = host_probes()

    def watch() -> None:
        with Sampler(probes):
            time.sleep(seconds)

    cpu_s, wall_s, _ = _cpu_s(watch)
    return cpu_s / wall_s


def _real(bench: Bench, document: dict[str, Any], *, quick: bool) -> list[dict[str, Any]]:
    """A row per engine and precision: batch 1, as many streams and threads as there are cores."""
    cores = usable_cores()
    load = LoadSpec(window_s=0.2, min_windows=3, max_s=1.0, warmup_s=0.2) if quick else LoadSpec(max_s=10)
    rows = []
    for engine in bench.plan.space.engines:
        for precision in ("fp32",) if quick else ("fp32", "int8"):
            candidate = bench.candidate(engine, precision, batch_size=1, streams=cores, worker_threads=cores)
            record = bench.measured(candidate, load)
            rate = record.throughput_items_per_s
            per_s = rate.value if rate else 0.0
            costs = document["null_closed"][min(STREAMS, key=lambda n: abs(n - cores))]["cpu_ns_per_submission"]["median"]
            harness = per_s * costs / 1e9 + document["sampler_share_of_a_core"]["median"]
            rows.append({
                "model": bench.name, "candidate": candidate.as_json(), "submissions_per_s": per_s,
                "harness_share_of_the_cpu": harness / cores, "flags": list(record.flags),
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    sys.exit(main())
