"""Contestants side by side on a table: many seeds each, and what the distribution over the seeds says."""

from __future__ import annotations

import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from autotune.simulator.replay import Contestant, Replay, Setting, replay
from autotune.simulator.table import SweepTable

GOAL = 0.95
"""The share of the exhaustive sweep's hypervolume by which searches are timed."""
_CURVE_POINTS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTo:
    """Virtual hours to the goal over the seeds. A quartile that lies among seeds that never reached it is None."""

    low_h: float | None
    median_h: float | None
    high_h: float | None
    not_reached: float
    n: int


def compare(
    table: SweepTable,
    contestants: Sequence[Contestant],
    setting: Setting,
    *,
    seeds: Sequence[int],
    jobs: int = 1,
    told: Callable[[Replay], None] = lambda r: None,
) -> dict[str, list[Replay]]:
    """The replays of every contestant by its label, in the order of the seeds. `told` hears of each as it is done.

    `setting` must be picklable where `jobs` is more than 1.
    """
    tasks = [(table, c, setting, seed) for c in contestants for seed in seeds]
    found: dict[str, list[Replay]] = {c.label: [] for c in contestants}
    for result in _each(tasks, jobs):
        told(result)
        found[result.contestant].append(result)
    return {label: sorted(results, key=lambda r: r.seed) for label, results in found.items()}


def _each(tasks: Sequence[tuple[SweepTable, Contestant, Setting, int]], jobs: int) -> Iterator[Replay]:
    if jobs == 1:
        yield from map(_one, tasks)
        return
    # Fresh interpreters: a fork would share the threads of a library that was imported before.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_one, task) for task in tasks]):
            yield done.result()


def _one(task: tuple[SweepTable, Contestant, Setting, int]) -> Replay:
    table, contestant, setting, seed = task
    return replay(table, contestant, setting, seed=seed)


def time_to(replays: Sequence[Replay], share: float = GOAL) -> TimeTo:
    """Median and quartiles (nearest rank) of the time to the goal. Seeds that never reached it count as later than any."""
    times = sorted(r.time_to(share) for r in replays)
    n = len(times)

    def quantile(q: float) -> float | None:
        value = times[min(n - 1, math.ceil(q * n) - 1)] if n else math.inf
        return None if math.isinf(value) else value / 3600

    return TimeTo(
        low_h=quantile(0.25),
        median_h=quantile(0.5),
        high_h=quantile(0.75),
        not_reached=sum(map(math.isinf, times)) / n if n else 0.0,
        n=n,
    )


def curves(replays: Sequence[Replay], begin_s: float, end_s: float) -> dict[str, list[float]]:
    """Hypervolume over virtual hours: median and quartiles over the seeds, from `begin_s`, above 0, to `end_s` in equal ratios.

    `best`: the median of the best feasible throughput then, items/s without noise.
    """
    hours: list[float] = []
    low: list[float] = []
    middle: list[float] = []
    high: list[float] = []
    best: list[float] = []
    between = (end_s * (begin_s / end_s) ** (1 - k / (_CURVE_POINTS - 1)) for k in range(1, _CURVE_POINTS - 1))
    for seconds in (begin_s, *between, end_s):
        values = sorted(r.at(seconds) for r in replays)
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        hours.append(seconds / 3600)
        best.append(round(statistics.median(r.best_at(seconds) for r in replays), 3))
        for column, value in zip((low, middle, high), quartiles, strict=True):
            column.append(round(value, 4))
    return {"hours": hours, "low": low, "median": middle, "high": high, "best": best}


def document(table: SweepTable, found: dict[str, list[Replay]], share: float = GOAL) -> dict[str, Any]:
    """The comparison as JSON: per contestant the time to the goal, trials, where the time went, curve, and every seed's own."""
    ended = [r.times_s for replays in found.values() for r in replays if r.times_s]
    begin_s, end_s = min((t[0] for t in ended), default=1.0), max((t[-1] for t in ended), default=1.0)
    return {
        "table": table.study,
        "model": dict(table.model),
        "device": table.device.device,
        "points": len(table.points),
        "process_sd": table.process_sd,
        "goal": share,
        "contestants": {label: _summary(replays, share, begin_s, end_s) for label, replays in found.items()},
    }


def _summary(replays: Sequence[Replay], share: float, begin_s: float, end_s: float) -> dict[str, Any]:
    to = time_to(replays, share)
    spent: dict[str, float] = {}
    for r in replays:
        for what, seconds in r.spent_s.items():
            spent[what] = spent.get(what, 0.0) + seconds / len(replays)
    return {
        "hours_to_goal": {"low": to.low_h, "median": to.median_h, "high": to.high_h, "not_reached": to.not_reached},
        "trials": statistics.median(len(r.times_s) for r in replays),
        "repeated": statistics.median(r.n_repeated for r in replays),
        "final_hypervolume": statistics.median(r.hypervolume[-1] if r.hypervolume else 0.0 for r in replays),
        "spent_s": {k: round(v, 2) for k, v in spent.items()},
        "curve": curves(replays, begin_s, end_s),
        "seeds": [
            {
                "seed": r.seed,
                "hours_to_goal": None if math.isinf(r.time_to(share)) else r.time_to(share) / 3600,
                "trials": len(r.times_s),
                "best_items_per_s": r.best[-1] if r.best else 0.0,
                "ended": r.ended,
            }
            for r in replays
        ],
    }
