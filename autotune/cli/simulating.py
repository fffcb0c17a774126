"""What `simulate` does once its arguments are read."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from autotune.cli.render import DASH, console
from autotune.errors import SpecError
from autotune.registry import STRATEGIES
from autotune.simulator.comparison import compare, document
from autotune.simulator.replay import (
    Contestant,
    Limits,
    Overhead,
    Replay,
    Setting,
    constant_overhead,
    measured_overhead,
    modelled_overhead,
)
from autotune.simulator.table import SweepTable
from autotune.simulator.table_file import load_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The options of `autotune simulate`."""

    names: tuple[str, ...]
    bare: bool
    seeds: int
    engines: tuple[str, ...]
    hours: float | None
    trials: int | None
    goal: float
    overhead: str
    noise: float | None
    jobs: int


def chosen_table(path: Path, choice: Choice) -> SweepTable:
    """The table in the file, complete, with the chosen engines only. Raises SpecError."""
    table = load_table(path)
    if table.missing:
        raise SpecError(
            f"{path}: lacks {table.missing} of the {len(table.points) + table.missing} points of its grid, so what a search "
            f"finds there is not known; allowed: a complete table; finish it: autotune sweep STUDY.yaml --out {path}"
        )
    if not choice.engines:
        return table
    try:
        return table.restricted(choice.engines)
    except ValueError as exc:
        raise SpecError(f"--engine: {exc}") from exc


def simulated(table: SweepTable, choice: Choice) -> dict[str, Any]:
    """The comparison on one table, as JSON. Raises SpecError."""
    end_s = table.exhaustive_s if choice.hours is None else choice.hours * 3600
    limits = Limits(seconds=end_s, trials=choice.trials or len(table.points) * 2, enough=0.9999)
    setting = Setting(limits=limits, overhead=overhead_of(choice.overhead), noise_sd=choice.noise)

    def told(r: Replay) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{table.study}: {r.contestant}, seed {r.seed}        ", nl=False, err=True)

    contestants = contestants_of(choice.names, bare=choice.bare)
    found = compare(table, contestants, setting, seeds=range(choice.seeds), jobs=choice.jobs, told=told)
    return document(table, found, choice.goal)


def contestants_of(names: Sequence[str], *, bare: bool) -> list[Contestant]:
    """Each strategy as a study runs it, and with `bare` also without caches and priors. Raises SpecError."""
    known = STRATEGIES.names()
    for name in names:
        if name not in known:
            raise SpecError(f"--strategy {name}: allowed: {', '.join(known)}")
    chosen = names or known
    plain = [Contestant(strategy=n, caches=False, priors=False) for n in chosen] if bare else []
    return [*(Contestant(strategy=n) for n in chosen), *plain]


def overhead_of(text: str) -> Overhead:
    """What a proposal costs. Raises SpecError."""
    named = {"model": modelled_overhead, "measured": measured_overhead}
    if text in named:
        return named[text]
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise SpecError(f"--overhead {text}: allowed: model, measured, or a number of seconds, at least 0")
    return constant_overhead(seconds)


def print_comparison(found: Mapping[str, Any]) -> None:
    """A table: time to the goal with its quartiles, trials, and the final share of the hypervolume."""
    from rich.table import Table

    sd = found["process_sd"]
    noise = "its points ran once each" if sd is None else f"processes differ by {sd:.1%}"
    title = f"{found['table']} on {found['device']}: {found['points']} points, {noise}"
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    heads = (
        "search",
        f"minutes to {found['goal']:.0%}",
        "quartiles",
        "not reached",
        "trials",
        "came twice",
        "end",
        "sampler s",
    )
    for i, head in enumerate(heads):
        grid.add_column(head, justify="left" if i == 0 else "right")
    for label, result in found["contestants"].items():
        to = result["hours_to_goal"]
        grid.add_row(
            label,
            _minutes(to["median"]),
            f"{_minutes(to['low'])} to {_minutes(to['high'])}",
            f"{to['not_reached']:.0%}",
            f"{result['trials']:g}",
            f"{result['repeated']:g}",
            f"{result['final_hypervolume']:.3f}",
            f"{result['spent_s'].get('search', 0.0):.0f}",
        )
    console().print(grid)


def _minutes(hours: float | None) -> str:
    return DASH if hours is None else f"{60 * hours:.1f}"
