"""Search strategies side by side on every recorded table: virtual time to 95 % of the exhaustive sweep's hypervolume.

    python benchmarks/search.py --tables benchmarks/tables --out benchmarks/results/search.json --picture docs/search.png

Each strategy of plain Optuna (random, NSGA-II, TPE, GP) runs alone, as a loop around it would, with the same caches (of
variants, engines and measurements, and giving up), and with the study's priors as well; the cost-aware search runs with the
caches, where it knows of no priors either, and with both. 20 seeds each. Its settings were chosen on other tables than these,
the last of them on those of benchmarks/tables/development; where these had a say docs/search-settings.md tells. `ratio` says
how many times longer than it the best plain one takes, by medians: against ours with both, but with the caches alone where the
plain one has no more. Where a median never arrives, it is at least the time at which the search was ended. --quick leaves out
GP, whose proposals take a second each of real time. --leave-one-out starts the cost-aware search as a study does after those of
the *other* models on this device: what was best in the newest of them comes first. --elsewhere FOLDER starts it as after one of
the *same* model on another device: with the fastest of the front in the table of that name in the folder. --overhead S charges
every proposal S seconds instead of what ours takes here, so that the same command finds the same figures anywhere:

    python benchmarks/search.py --tables benchmarks/tables/development --quick --overhead 0.23 --enough 0.96 --out FILE
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.candidate import Candidate
from autotune.cli.simulating import overhead_of
from autotune.pareto import front_mask
from autotune.report.search_plot import draw_searches
from autotune.simulator.comparison import GOAL, compare, document
from autotune.simulator.replay import Contestant, Limits, Replay, Setting
from autotune.simulator.table import SweepTable
from autotune.simulator.table_file import load_table
from autotune.simulator.truth import Truth
from autotune.space.capability import SearchSpace
from autotune.space.sampling import candidate_from_params, params_from_candidate
from autotune.spec.model import WarmStartSpec

PLAIN = ("random", "nsga2", "tpe", "gp")
OURS = Contestant(strategy="cost-aware")
WARM = "cost-aware + caches + priors + warm start from another model"
ELSEWHERE = "cost-aware + caches + priors + warm start from another device"
GROUPS = {
    "alone": (Contestant(strategy="", caches=False, priors=False), OURS),
    "with the same caches": (Contestant(strategy="", priors=False), replace(OURS, priors=False)),
    "with the same caches and priors": (Contestant(strategy=""), OURS),
}
"""What the plain searches are given, and which of ours is set against them."""


def main() -> None:
    """Replays everything; writes the document and the picture, and prints the summary."""
    arguments = _arguments()
    # For the processes that replay: they run beside each other, and a matrix of a hundred rows gains nothing from more threads.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    tables = {path.name.removesuffix(".json.gz"): load_table(path) for path in sorted(arguments.tables.glob("*.json.gz"))}
    if not tables:
        sys.exit(f"{arguments.tables} holds no tables; record some: python benchmarks/record_sweeps.py --data FOLDER")
    elsewhere = {name: load_table(arguments.elsewhere / f"{name}.json.gz") for name in tables if arguments.elsewhere}
    overhead = overhead_of(arguments.overhead)
    names = PLAIN[:-1] if arguments.quick else PLAIN
    contestants = [OURS, replace(OURS, priors=False)]
    contestants += [Contestant(strategy=n) for n in names]
    contestants += [Contestant(strategy=n, priors=False) for n in names]
    contestants += [Contestant(strategy=n, caches=False, priors=False) for n in names]
    found: dict[str, Any] = {"seeds": arguments.seeds, "goal": GOAL, "tables": {}}
    for name, table in tables.items():
        limits = Limits(seconds=arguments.times * table.exhaustive_s, trials=150, enough=arguments.enough)
        setting = Setting(limits=limits, overhead=overhead)
        seeds = range(arguments.seeds)
        results = compare(table, contestants, setting, seeds=seeds, jobs=arguments.jobs, told=_told(name))
        earlier = {}
        if arguments.leave_one_out and len(tables) > 1:
            newest = max((t for k, t in tables.items() if k != name), key=lambda t: str(t.recorded.get("ended_at")))
            earlier[WARM] = warm_candidates(table.space(), newest)[:1]
        if elsewhere:
            earlier[ELSEWHERE] = warm_candidates(table.space(), elsewhere[name])
        for label, first in earlier.items():
            warm = replace(setting, first=first)
            results[label] = compare(table, [OURS], warm, seeds=seeds, jobs=arguments.jobs, told=_told(name))[OURS.label]
        found["tables"][name] = document(table, results) | {"exhaustive_h": table.exhaustive_s / 3600}
        found["tables"][name]["ratio"] = ratios(found["tables"][name], setting.limits.seconds / 3600)
        _write(arguments, found)
    print(json.dumps({name: t["ratio"] for name, t in found["tables"].items()} | {"all": overall(found)}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--tables", type=Path, default=here / "tables")
    parser.add_argument("--out", type=Path, default=here / "results" / "search.json")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--times", type=float, default=3.0, help="a search ends after so many times the exhaustive sweep's time"
    )
    parser.add_argument("--enough", type=float, default=0.99, help="or with this share of the hypervolume, or after 150 trials")
    parser.add_argument("--quick", action="store_true", help="without GP")
    parser.add_argument("--overhead", default="model", help="of a proposal: model, measured, or seconds")
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--elsewhere", type=Path, help="tables of the same names from another device")
    return parser.parse_args()


def _told(name: str) -> Any:
    def told(r: Replay) -> None:
        print(f"{name}: {r.contestant}, seed {r.seed}: {r.time_to(GOAL) / 60:.2f} min to {GOAL:.0%}", file=sys.stderr)

    return told


def warm_candidates(space: SearchSpace, earlier: SweepTable) -> tuple[Candidate, ...]:
    """As a study's warm start has them: the earlier sweep's front moved into the space, the fastest first."""
    moved = (params_from_candidate(c, space) for c in _front(earlier))
    found = dict.fromkeys(candidate_from_params(params) for params in moved if params is not None)
    return tuple(found)[: WarmStartSpec().at_most]


def _front(table: SweepTable) -> list[Candidate]:
    """The exhaustive sweep's front, the fastest first."""
    truth = Truth(table, table.spec())
    candidates = list(truth.values)
    mask = front_mask(np.stack([truth.values[c] for c in candidates]))
    return sorted((c for c, on in zip(candidates, mask, strict=True) if on), key=lambda c: -truth.rate[c])


def ratios(found: Mapping[str, Any], end_h: float) -> dict[str, Any]:
    """By group: how many times longer than ours the best plain search takes."""
    medians = {label: result["hours_to_goal"]["median"] for label, result in found["contestants"].items()}
    answer: dict[str, Any] = {"ours_minutes": None if medians[OURS.label] is None else 60 * medians[OURS.label]}
    for group, (given, our) in GROUPS.items():
        ours, labels = medians[our.label], [replace(given, strategy=name).label for name in PLAIN]
        times = [(end_h if medians[label] is None else medians[label], label) for label in labels if label in medians]
        hours, label = min(times)
        answer[group] = {
            "best": label,
            "minutes": 60 * hours,
            "at_least": medians[label] is None,
            "ours": our.label,
            "ratio": None if ours is None else hours / ours,
        }
    return answer


def overall(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Geometric means over the tables; None where ours did not arrive on one of them."""
    means: dict[str, float | None] = {}
    for group in GROUPS:
        values: Sequence[float | None] = [t["ratio"][group]["ratio"] for t in found["tables"].values()]
        known = [v for v in values if v is not None]
        means[group] = math.exp(sum(map(math.log, known)) / len(known)) if len(known) == len(values) else None
    return means


def _write(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """After each table, so that a long run that is ended early has told something."""
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    picture = arguments.picture or arguments.out.with_suffix(".png")
    draw_searches(list(found["tables"].values()), picture)


if __name__ == "__main__":
    main()
