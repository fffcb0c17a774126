"""sweep and simulate: recording every point of a space once, and comparing search strategies on the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from autotune.candidate import KNOBS, Scalar
from autotune.cli.options import HOURS, FiniteNumber, file_argument, json_option, writing, writing_whole
from autotune.errors import SpecError


@click.command()
@file_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The table, a .json.gz file.")
@click.option(
    "--grid", "asked", multiple=True, metavar="KNOB=V,V,…", help="The values of a knob; default: doublings, steps or choices."
)
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True, help="Processes per point, if time permits.")
@click.option("--hours", type=HOURS, help="Stop when so much was measured, earlier starts counted.")
@click.option("--dry-run", is_flag=True, help="Print the grid; measure nothing.")
def sweep(study_file: str, out: Path, asked: tuple[str, ...], repeats: int, hours: float | None, dry_run: bool) -> int:
    """Measure every point of a study's space and write the table that `autotune simulate` replays.

    A sweep that was stopped or killed goes on when it is started again.
    """
    from autotune.cli.progress import outcome_text
    from autotune.cli.running import checked_plan, signals_press
    from autotune.records import TrialRecord
    from autotune.simulator.sweep import clean_up, record_sweep, sweep_plan
    from autotune.study.session import StopSwitch
    from autotune.trial.isolation import Interrupted

    if not out.name.endswith(".json.gz"):
        raise SpecError(f"--out {out}: allowed: a name that ends in .json.gz")
    plan = sweep_plan(checked_plan(study_file), _asked_values(asked), repeats=repeats, hours=hours, out=out)
    for knob, values in plan.values.items():
        click.echo(f"  {knob}: {', '.join(map(str, values))}", err=True)
    click.echo(f"{len(plan.grid)} points, each in up to {repeats} processes", err=True)
    if dry_run:
        return 0
    if out.exists() and not plan.journal_path.exists():
        raise SpecError(f"{out}: is there already, and complete; remove it, or name another --out, to record anew")

    def told(settled: int, of: int, turn: int, record: TrialRecord) -> None:
        click.echo(f"pass {turn}, {settled}/{of}: {outcome_text(record, None)}", err=True)

    switch = StopSwitch()
    with writing(out), signals_press(switch):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            table, complete = record_sweep(plan, told, lambda: switch.count > 0, lambda: switch.count > 1)
        except (Interrupted, InterruptedError):
            raise KeyboardInterrupt from None
        if complete:
            clean_up(plan)
    n_loads = sum(len(p.loads) for p in table.points)
    click.echo(
        f"wrote {out}: {len(table.points)} points, {n_loads} loads, {out.stat().st_size / 1e3:.0f} kB"
        + ("" if complete else f"; {table.missing} points are missing"),
        err=True,
    )
    if switch.count and not complete:
        return 130
    if not complete:
        raise SpecError(f"--hours {hours}: was too short to measure every point once; start it again with more to go on")
    return 0


def _asked_values(asked: tuple[str, ...]) -> dict[str, tuple[Scalar, ...]]:
    """From KNOB=V,V to values of the knob's kind. Raises SpecError."""
    found: dict[str, tuple[Scalar, ...]] = {}
    for text in asked:
        name, sep, values = text.partition("=")
        if not sep or name not in KNOBS or name in ("engine", "precision"):
            known = ", ".join(k for k in KNOBS if k not in ("engine", "precision"))
            raise SpecError(f"--grid {text}: allowed: KNOB=V,V,… with KNOB one of {known}")
        kind: Any = {"int": int, "float": float, "choice": str}[KNOBS[name].kind]
        try:
            found[name] = tuple(kind(v) for v in values.split(","))
        except ValueError as exc:
            raise SpecError(f"--grid {text}: found {values!r}; allowed: values of kind {KNOBS[name].kind}") from exc
    return found


@click.command()
@click.argument("tables", metavar="TABLE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--strategy", "names", multiple=True, metavar="NAME", help="A strategy to compare; default: all. Repeatable.")
@click.option("--bare/--no-bare", default=True, show_default=True, help="Each also without caches and priors, as a plain loop.")
@click.option("--seeds", type=click.IntRange(1), default=20, show_default=True)
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="Only this engine's points. Repeatable.")
@click.option("--hours", type=HOURS, help="Virtual; default: as long as the exhaustive sweep.")
@click.option("--trials", type=click.IntRange(1), help="At most so many trials per search.")
@click.option(
    "--goal", type=FiniteNumber("a share from 0 to 1", 0, 1), default=0.95, show_default=True, help="Share of the hypervolume."
)
@click.option("--overhead", default="model", show_default=True, help="Of a proposal: model, measured, or seconds.")
@click.option(
    "--noise",
    type=FiniteNumber("a standard deviation of at least 0", 0),
    help="Spread between processes (of the log), instead of the recorded one.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Replays at a time.")
@click.option("--out", type=click.Path(path_type=Path), help="A picture: .png, .svg or .pdf.")
@json_option
def simulate(
    tables: tuple[Path, ...],
    names: tuple[str, ...],
    bare: bool,
    seeds: int,
    engines: tuple[str, ...],
    hours: float | None,
    trials: int | None,
    goal: float,
    overhead: str,
    noise: float | None,
    jobs: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare search strategies on recorded sweeps, on a virtual clock: hypervolume over virtual hours."""
    from autotune.cli.render import emit_json
    from autotune.cli.simulating import Choice, chosen_table, print_comparison, simulated
    from autotune.report.search_plot import draw_searches

    if out is not None and out.suffix not in (".png", ".svg", ".pdf"):
        raise SpecError(f"--out {out}: found the suffix {out.suffix!r}; allowed: .png, .svg, .pdf")
    choice = Choice(
        names=names, bare=bare, seeds=seeds, engines=engines, hours=hours, trials=trials, goal=goal, overhead=overhead,
        noise=noise, jobs=jobs,
    )  # fmt: skip
    # All are read before the first is replayed, which may take long.
    documents = [simulated(table, choice) for table in [chosen_table(path, choice) for path in tables]]
    if as_json:
        emit_json(documents)
    else:
        for found in documents:
            print_comparison(found)
    if out is not None:
        with writing_whole(out) as whole:
            draw_searches(documents, whole)
        click.echo(f"wrote {out}", err=True)
