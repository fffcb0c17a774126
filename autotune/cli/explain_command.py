"""explain: why a trial takes the time it takes, alone or against another."""

from __future__ import annotations

import click

from autotune.cli.options import json_option, storage_option, study_argument


@click.command()
@study_argument
@click.argument("trial", metavar="TRIAL")
@click.option("--against", metavar="TRIAL", help="Another trial of the study: which layers gained or lost, and how much.")
@click.option("--runs", default=20, show_default=True, type=click.IntRange(2), help="Executions with and without the profiler.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Rows of each table; JSON has all.")
@storage_option
@json_option
def explain(study: str, trial: str, against: str | None, runs: int, top: int, storage: str | None, as_json: bool) -> None:
    """Why a trial takes the time it takes: layers, formats, missing fusions; `ref` is the reference.

    The trial's engine runs again, under its own profiler, on real samples.
    """
    from autotune.cli.context import open_study
    from autotune.cli.explain_tables import print_explanation
    from autotune.cli.explaining import explain_document, profiled, require_engine
    from autotune.cli.render import emit_json

    found = open_study(study, storage)
    records = [found.trial(which) for which in (trial, *([against] if against else []))]
    for record in records:
        require_engine(record)
    subjects, notes = profiled(found, records, runs)
    if as_json:
        emit_json({"study": found.row.name} | explain_document(subjects, records, notes))
    else:
        print_explanation(subjects, notes, top)
