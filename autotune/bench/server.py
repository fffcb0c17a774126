"""Server and recorded-trace loads: at a given arrival rate, or at the highest one that keeps the SLO."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autotune.bench.arrivals import Schedule, poisson_schedule, recorded_schedule
from autotune.bench.disturbance import Windows
from autotune.bench.knee import Bracket, Probe, find_knee
from autotune.bench.lanes import NS
from autotune.bench.load import LoadResult, latency_summary
from autotune.bench.open_loop import OVERLOADED, OpenLoop
from autotune.bench.served import LATE_LIMIT, ServedTrace, share_within
from autotune.bench.statistics import mean_estimate, percentile_estimate, steady_from
from autotune.records import GIVEN_UP, Estimate, LoadFigures
from autotune.spec.arrival_file import read_arrivals
from autotune.spec.model import LoadSpec

SLO_MISSED = "slo_missed"
"""Flag of a load that keeps its SLO at no rate."""
LATE = "generator_late"
"""Flag of a load that handed over more than 1 % of its requests late: not what was asked for was measured."""
_FINE = 5.0
"""A percentile's interval is good enough at five times `load.precision`: the tail of a latency is not known to 1 %."""
_RESOLUTION = 2.0
"""The knee is bracketed to twice `load.precision`: 2 % by default."""
_REPEATS_OF_A_PROBE = 1
"""Disturbed windows that one load of a search may repeat: the knee is loaded again at the end, with all that a result gets."""
UNCONFIRMED = "unconfirmed"
"""Flag of a knee at which the last load, after the search, did not keep the SLO by its value."""
NONE_ARRIVED = Estimate(value=0.0, low=0.0, high=1.0, n=0, method="none arrived")
"""The share within the SLO where there is nothing to count."""
_MARGIN_S = 5.0
"""A schedule is so much longer than its load, because disturbed windows are repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The closed loop before an open one: items per second at full load, and how long it took in all, seconds."""

    items_per_s: Estimate
    flags: tuple[str, ...]


def run_server(loop: OpenLoop, peak: Peak | None, seed: int, began_ns: int, give_up_below: float = 0.0) -> LoadResult:
    """The open loop that the plan asks for. `peak`: where the rate is searched for. `began_ns`: when the trial's load did.

    Each load draws other arrivals, from `seed`. Raises what the session raises.
    """
    plan, seeds = loop.plan, np.random.SeedSequence(seed)
    if peak is None:
        return _measured(loop, _schedule(plan, seed), began_ns)

    def next_seed() -> int:
        return int(seeds.spawn(1)[0].generate_state(1)[0])

    def probe(rate: float) -> Probe:
        return _probe(loop, rate, next_seed())

    def loaded(rate: float) -> LoadResult:
        return _measured(loop, poisson_schedule(rate, _longest_s(plan), next_seed()), began_ns)

    return at_the_knee(plan, peak, loop.clock, probe, loaded, give_up_below)


def at_the_knee(
    plan: LoadSpec,
    peak: Peak,
    clock: Callable[[], int],
    probe: Callable[[float], Probe],
    loaded: Callable[[float], LoadResult],
    give_up_below: float,
) -> LoadResult:
    """The highest rate that keeps the plan's SLO is searched for: the last load, with the knee as its throughput.

    `probe(items_per_s)` runs a load of the search, `loaded(items_per_s)` one with all that a result gets.
    """
    deadline_ns, resolution = clock() + int(plan.search_s * NS), _RESOLUTION * plan.precision

    def is_over() -> bool:
        return clock() >= deadline_ns

    bracket = find_knee(probe, peak.items_per_s, resolution, is_over, give_up_below)
    found = confirmed(bracket, peak.items_per_s, resolution, is_over, probe, loaded, wanted_share(plan))
    flags = tuple(dict.fromkeys((*peak.flags, *found.flags, *_knee_flags(bracket, give_up_below))))
    figures = None if found.figures is None else replace(found.figures, peak_items_per_s=peak.items_per_s)
    return replace(found, throughput_items_per_s=bracket.estimate(), flags=flags, figures=figures)


def _knee_flags(bracket: Bracket, give_up_below: float) -> tuple[str, ...]:
    if bracket.low == 0.0:
        return (SLO_MISSED,)
    return (GIVEN_UP,) if bracket.sure_high < give_up_below else ()


def confirmed(
    bracket: Bracket,
    peak: Estimate,
    resolution: float,
    is_over: Callable[[], bool],
    probe: Callable[[float], Probe],
    loaded: Callable[[float], LoadResult],
    wanted: float,
) -> LoadResult:
    """The load at the knee, or where there is none at the lowest rate that was tried.

    The search chose a rate whose load went well, perhaps by luck; so it is loaded once more, and a rate that then misses is not
    the knee: the search goes on below it while there is time, and after that the interval goes on down.
    """
    while True:
        rate = bracket.low or bracket.high
        found = loaded(rate)
        within = found.figures.within_slo if found.figures else None
        if bracket.low == 0.0 or within is None:
            return found
        again = Probe(items_per_s=rate, within=within, wanted=wanted, overloaded=OVERLOADED in found.flags)
        if again.is_kept:
            return found
        if is_over():
            bracket.sure_low = max((k for k in bracket.kept if k < rate), default=0.0)
            return replace(found, flags=(*found.flags, UNCONFIRMED))
        bracket.learn(again)
        find_knee(probe, peak, resolution, is_over, bracket=bracket)


def _probe(loop: OpenLoop, rate: float, seed: int) -> Probe:
    """One load of the search, which ends once it is decided whether the SLO is kept."""
    slo_ms, wanted = loop.plan.slo_ms or math.inf, wanted_share(loop.plan)
    # What the empty queue at the begin gives is better than what comes.
    transient_ns = int(min(loop.plan.window_s, 1.0) * NS)

    def decided(served: ServedTrace, n_windows: int) -> bool:
        latencies = served.latencies_ns(transient_ns, now_ns=served.end_ns)
        if n_windows < 2 or len(latencies) == 0:
            return False
        share = share_within(latencies, slo_ms)
        return share.high < wanted or share.low >= wanted

    schedule = poisson_schedule(rate, _longest_s(loop.plan), seed)
    served, flags, _ = loop.run(schedule, decided, loop.plan.max_s, _REPEATS_OF_A_PROBE)
    latencies = served.latencies_ns(transient_ns)
    latencies = latencies if len(latencies) else served.latencies_ns()
    within = share_within(latencies, slo_ms) if len(latencies) else NONE_ARRIVED
    return Probe(
        items_per_s=rate, within=within, wanted=wanted, overloaded=OVERLOADED in flags, queued_share=served.queued_share()
    )


def _measured(loop: OpenLoop, schedule: Schedule, began_ns: int) -> LoadResult:
    """One load at one rate, measured until its percentile is known well enough or to the cap, as a result."""
    plan = loop.plan
    percentile = plan.arrivals.percentile if plan.arrivals else 99

    def enough(served: ServedTrace, n_windows: int) -> bool:
        if n_windows < plan.min_windows:
            return False
        latencies = served.latencies_ns(now_ns=served.end_ns) / 1e6
        found = percentile_estimate(latencies, percentile) if len(latencies) else None
        return found is not None and found.half_width <= _FINE * plan.precision * found.value

    before_s = (loop.clock() - began_ns) / NS
    served, flags, windows = loop.run(schedule, enough, plan.max_s)
    return _result(served, flags, windows, plan, before_s)


def _result(served: ServedTrace, flags: tuple[str, ...], windows: Windows, plan: LoadSpec, before_s: float) -> LoadResult:
    steady = 0 if served.overloaded else steady_from(served.latencies_ns().astype(np.float64))
    whole = served.latencies_ns()
    latencies = whole[steady or 0 :]
    latency_ms = latency_summary(latencies / 1e6)
    rate = served.schedule.items_per_s
    completed = _completed(served, plan, len(whole))
    within = share_within(latencies, plan.slo_ms) if plan.slo_ms is not None and len(latencies) else None
    goodput = None if within is None else scaled(within, rate)
    tail = latency_ms.p99 or latency_ms.p95 or latency_ms.p90
    compared_ms = plan.slo_ms or (tail.value if tail else float(np.max(latencies, initial=0)) / 1e6)
    late = served.late_share(compared_ms * 1e6)
    counted = windows.counted(0)
    figures = LoadFigures(
        scenario=plan.scenario,
        n_requests=len(latencies),
        offered_items_per_s=rate,
        slo_ms=plan.slo_ms,
        slo_percentile=None if plan.slo_ms is None or plan.arrivals is None else plan.arrivals.percentile,
        within_slo=within,
        goodput_items_per_s=goodput,
        queued_share=served.queued_share(),
        late_share=late,
        mean_batch=served.mean_batch(),
        foreign_cpu_share=windows.foreign_share(counted if any(counted) else [True] * len(counted)),
        n_repeated_windows=len(served.skipped),
    )
    return LoadResult(
        throughput_items_per_s=goodput or completed,
        latency_ms=latency_ms,
        n_requests=len(latencies),
        window_rates=(),
        measured_s=served.end_ns / NS,
        warmup_s=before_s,
        flags=(
            *(("unsettled",) if steady is None else ()),
            *flags,
            *((LATE,) if late is not None and late > LATE_LIMIT else ()),
        ),
        figures=figures,
        completed_items_per_s=completed,
    )


def _completed(served: ServedTrace, plan: LoadSpec, n_requests: int) -> Estimate:
    """Samples done per second: the rate that they were sent at, unless it was too high or nothing came."""
    if served.overloaded:
        return mean_estimate(served.completed_rates(min(int(plan.window_s * NS), served.end_ns // 2)))
    return _exactly(served.schedule.items_per_s if n_requests else 0.0, n_requests, "samples done / time")


def _schedule(plan: LoadSpec, seed: int) -> Schedule:
    if plan.trace is not None:
        return recorded_schedule(read_arrivals(plan.trace.file), _longest_s(plan))
    rate = plan.server.qps if plan.server is not None else "auto"
    if rate == "auto":
        raise ValueError("a rate that is searched for has no schedule before it is found")
    return poisson_schedule(rate, _longest_s(plan), seed)


def _longest_s(plan: LoadSpec) -> float:
    return plan.max_s + _MARGIN_S * max(1.0, plan.window_s)


def wanted_share(plan: LoadSpec) -> float:
    """Share of the requests that the SLO is about."""
    return (plan.arrivals.percentile if plan.arrivals else 99) / 100


def scaled(share: Estimate, rate: float) -> Estimate:
    """The estimate times a factor that is known exactly."""
    return replace(share, value=share.value * rate, low=share.low * rate, high=share.high * rate)


def _exactly(value: float, n: int, method: str) -> Estimate:
    """What is counted and not sampled: the interval has no width."""
    return Estimate(value=value, low=value, high=value, n=n, method=method)
