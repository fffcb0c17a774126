"""calibration: how much of a trial's accuracy is the luck of the samples that it was calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from autotune.cli.options import json_option, storage_option, study_argument

if TYPE_CHECKING:
    from autotune.study.calibration import CalibrationSpread


@click.command()
@study_argument
@click.argument("trial", metavar="TRIAL")
@click.option("--subsets", type=click.IntRange(2, 1000), default=5, show_default=True, help="Random subsets that are tried.")
@click.option("--size", type=click.IntRange(1), help="Samples in each; default: half of the calibration split, at most 512.")
@storage_option
@json_option
def calibration(study: str, trial: str, subsets: int, size: int | None, storage: str | None, as_json: bool) -> None:
    """Make an int8 trial's variant again from random subsets of the calibration samples, and measure the accuracy of each."""
    from autotune.cli.context import open_study
    from autotune.cli.render import emit_json
    from autotune.spec.model import see_users_modules
    from autotune.study.calibration import calibration_spread
    from autotune.study.lock import device_lock
    from autotune.study.plan import make_plan
    from autotune.trial.isolation import TrialProcess

    found = open_study(study, storage)
    see_users_modules(found.spec)
    record = found.trial(trial)
    plan = make_plan(found.spec)
    with TrialProcess(plan.preload) as process, device_lock(plan.lock_name):
        spread = calibration_spread(
            plan, process, record.candidate, subsets, size, report=lambda line: click.echo(line, err=True)
        )
    if as_json:
        emit_json({"study": found.row.name, "trial": record.number, **spread.as_json()})
    else:
        print_calibration(record.number, spread)


def print_calibration(trial: int, spread: CalibrationSpread) -> None:
    """A line for each choice of samples, then what they say together."""
    from autotune.cli.render import console, with_interval

    out = console()
    out.print(f"trial {trial} [{spread.candidate}], {spread.metric}, calibrated on", markup=False, soft_wrap=True)
    for found in (spread.used, *spread.drawn):
        name = f"{found.size} of {spread.n_split} samples, " + (
            "as in the study" if found.seed is None else f"drawn: {found.seed}"
        )
        result = f"{with_interval(found.accuracy, 4)}, drop {with_interval(found.accuracy_drop, 4)}"
        out.print(f"  {name:<36}{result if found.reject is None else found.reject.message}", markup=False, soft_wrap=True)
    if spread.spread is None or spread.another_subset is None or spread.mean_against_used is None:
        out.print("fewer than two subsets gave a result: no spread", markup=False)
        return
    s, more, shift = spread.spread, spread.another_subset, spread.mean_against_used
    out.print(f"standard deviation from subset to subset: {s.value:.4f} [{s.low:.4f}, {s.high:.4f}]", markup=False)
    out.print(f"one more random subset: {more.value:.4f} [{more.low:.4f}, {more.high:.4f}]", markup=False)
    luck = "the samples used are like others" if spread.used_is_typical else "the samples used stand apart from random ones"
    out.print(
        f"the subsets' mean less the samples used: {shift.value:+.4f} [{shift.low:+.4f}, {shift.high:+.4f}]; {luck}",
        markup=False,
        soft_wrap=True,
    )
