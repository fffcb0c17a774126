"""importances: what each knob contributed to each objective, and what would be lost by leaving it at its default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from autotune.cli.options import json_option, storage_option, study_argument
from autotune.errors import SpecError
from autotune.records import Estimate, TrialRecord
from autotune.study.importances import Importances, KnobImportance


@click.command()
@study_argument
@click.option("--measure", is_flag=True, help="Measure the best configuration with each knob alone at its default.")
@storage_option
@json_option
def importances(study: str, measure: bool, storage: str | None, as_json: bool) -> None:
    """What each knob contributed to each objective, and what would be lost by leaving it at its default."""
    from autotune.cli.context import open_study
    from autotune.cli.query_commands import best_in
    from autotune.cli.render import emit_json
    from autotune.study import importances as of_study

    found = open_study(study, storage)
    records, reference = found.records(), found.reference()
    if reference is None:
        raise SpecError(f"the study {found.row.name} has no reference yet; begin it: autotune start STUDY.yaml")
    top = best_in(found, None)
    result = of_study.importances(records, reference, found.spec)
    if result is None:
        raise SpecError(f"no trial of {found.row.name} keeps to the constraints; see: autotune trials {found.row.name}")
    if measure:
        missing = [k.knob for k in result.knobs if k.loss_alone is None]
        resets = {k: of_study.reset(top.candidate, k, reference.candidate) for k in missing}
        result = of_study.with_measured(result, *_measured(found.spec, top, resets), found.spec)
    if as_json:
        emit_json({"study": found.row.name} | result.as_json())
    else:
        _print(result, found.row.name, len(records))


def _measured(spec: Any, top: TrialRecord, resets: Any) -> tuple[dict[str, TrialRecord], TrialRecord]:
    """The resets' records, and the best's own made in the same run: measured hours apart they would not be comparable."""
    from autotune.cli.running import bench_candidates, checked_plan

    if spec.file is None:
        raise SpecError("--measure needs the study's file: autotune importances STUDY.yaml --measure")
    records = bench_candidates(checked_plan(str(spec.file)), {"": top.candidate, **resets})
    return {k: r for k, r in records.items() if k}, records[""]


def _print(result: Importances, study: str, n_trials: int) -> None:
    from rich import box
    from rich.table import Table

    from autotune.cli.render import console

    objectives = list(result.knobs[0].shares) if result.knobs else []
    table = Table(title=f"{study}: the knobs of {n_trials} trials", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for head in ("knob", *(f"{o} share" for o in objectives), "best", "default", "lost at default", "lost if only it is reset"):
        table.add_column(head, justify="left" if head == "knob" else "right", no_wrap=True)
    for knob in result.knobs:
        table.add_row(knob.knob, *_shares(knob, objectives), _value(knob.value), _value(knob.default), *_losses(knob))
    out = console()
    out.print(table)
    out.print(
        f"shares: fANOVA, the part of the objective's variance over the space that the knob alone explains. Losses: of "
        f"{result.objective}, against trial {result.best}; # is the trial compared with.",
        markup=False,
        soft_wrap=True,
    )


def _shares(knob: KnobImportance, objectives: Sequence[str]) -> list[str]:
    found = (knob.shares[o] for o in objectives)
    return ["–" if share is None else f"{share:.0%}" for share in found]


def _losses(knob: KnobImportance) -> tuple[str, str]:
    return _loss(knob.loss, knob.trial), _loss(knob.loss_alone, knob.trial_alone)


def _loss(loss: Estimate | None, trial: int | None) -> str:
    if loss is None:
        return "not measured"
    text = f"{loss.value:.1%} ±{loss.half_width:.1%}"
    return f"{text} (#{trial})" if trial is not None else text


def _value(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
