"""compare: studies, or the parts of one, on several kinds of devices side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.options import json_option, storage_option

if TYPE_CHECKING:
    from autotune.cli.context import OpenStudy
    from autotune.fleet.comparison import DeviceComparison, DeviceResult, StudyOnDevice


@click.command()
@click.argument("studies", metavar="STUDY…", nargs=-1, required=True)
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A price table (YAML: currency, per_hour), for the cost of a million inferences.",
)
@storage_option
@json_option
def compare(studies: tuple[str, ...], prices: Path | None, storage: str | None, as_json: bool) -> None:
    """What each kind of device does best, side by side: throughput, energy, and cost per million inferences."""
    from autotune.cli.context import open_studies
    from autotune.cli.render import emit_json
    from autotune.fleet.comparison import compare_devices
    from autotune.spec.prices import read_prices

    opened = {(found.store.url, found.row.id): found for name in studies for found in open_studies(name, storage)}
    tables = {found.spec.prices for found in opened.values() if found.spec.prices is not None}
    table = prices or (tables.pop() if len(tables) == 1 else None)
    comparison = compare_devices([_on_device(f) for f in opened.values()], None if table is None else read_prices(table))
    if as_json:
        emit_json(comparison.as_json())
    else:
        print_comparison(comparison)


def _on_device(found: OpenStudy) -> StudyOnDevice:
    from autotune.fleet.comparison import StudyOnDevice

    began = found.store.environment(found.row.environment_key)
    return StudyOnDevice(
        row=found.row,
        spec=found.spec,
        device=began.device,
        instructions=began.instructions,
        records=found.records(),
        reference=found.reference(),
    )


def print_comparison(comparison: DeviceComparison) -> None:
    """Each study's front, then a row per device, then who leads in what."""
    from rich import box
    from rich.table import Table

    from autotune.cli.render import DASH, console, print_trials, with_interval

    for result in comparison.results:
        title = f"{result.study}: {result.device}, Pareto front of {result.n_trials} trials"
        print_trials(list(result.front), result.reference, title)
    unit = f" {comparison.currency}" if comparison.currency else ""
    table = Table(title="The best configuration on each device", box=box.SIMPLE_HEAD, title_justify="left")
    for head in ("study", "device", "trial", "configuration"):
        table.add_column(head)
    for head in ("accuracy", "items/s", "p99 ms", "J/item", f"price{unit}/h", f"cost{unit} per million"):
        table.add_column(head, justify="right")
    for r in comparison.results:
        best = r.best
        if best is None:
            table.add_row(r.study, r.device, DASH, "nothing keeps to the constraints", *[DASH] * 6)
            continue
        price = DASH if r.price_per_hour is None else f"{r.price_per_hour:g}"
        p99 = best.latency_ms.p99
        cost = with_interval(r.cost_per_million_items, 4)
        numbers = (with_interval(best.accuracy, 4), with_interval(r.throughput), with_interval(p99, 2))
        table.add_row(r.study, r.device, _numbers(r), str(best.candidate), *numbers, with_interval(r.energy, 4), price, cost)
    console().print(table)
    for r in comparison.results:
        if r.own_instructions:
            click.echo(f"{r.study}: on a {r.device} with {', '.join(r.own_instructions)}, unlike another of that name here")
    for measure, leader in comparison.leaders.items():
        ties = f"; tied with it: {', '.join(leader.ties)}" if leader.ties else ""
        click.echo(f"best {measure}: {leader.study}{ties}")
    if comparison.differences:
        click.echo(f"these studies differ in {', '.join(comparison.differences)}, not only in their devices", err=True)


def _numbers(result: DeviceResult) -> str:
    """The best's number, and those of its ties within the study."""
    best = "" if result.best is None else str(result.best.number)
    return f"{best} (tied: {', '.join(map(str, result.ties))})" if result.ties else best
