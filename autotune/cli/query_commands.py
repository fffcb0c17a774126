"""status, front, best, show, trials: the commands that read the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from autotune.cli.options import json_option, storage_option, study_argument
from autotune.errors import SpecError
from autotune.records import FINISHED, TrialRecord, TrialState

SHOWN, UNLIMITED = 100, 1_000_000_000

if TYPE_CHECKING:
    from autotune.cli.context import OpenStudy
    from autotune.study.standing import Standing


@click.command()
@click.argument("study", metavar="[STUDY]", required=False)
@storage_option
@json_option
def status(study: str | None, storage: str | None, as_json: bool) -> None:
    """What runs, since when, how far, best so far; of one study, or of all in the database."""
    from autotune.cli.context import open_studies, storage_from_environment
    from autotune.cli.render import emit_json
    from autotune.cli.status import all_documents, print_status, status_document
    from autotune.store.repository import open_store

    if study is not None:
        documents = [status_document(found) for found in open_studies(study, storage)]
    else:
        store = open_store(storage or storage_from_environment(), create=False)
        documents = all_documents(store, whole=as_json)
    if as_json:
        emit_json(documents[0] if study is not None and len(documents) == 1 else documents)
    else:
        print_status(documents)


@click.command()
@study_argument
@storage_option
@json_option
def front(study: str, storage: str | None, as_json: bool) -> None:
    """The Pareto front with intervals, and the reference beside it."""
    from autotune.cli.context import open_study
    from autotune.cli.front import front_document
    from autotune.cli.render import emit_json, print_front_notes, print_trials

    found = open_study(study, storage)
    standing, reference, regimes = found.standing(), found.reference(), found.store.regimes(found.row.id)
    members, ties, gain, counts = standing.front, standing.ties(), standing.warm_start(), found.store.counts(found.row.id)
    if as_json:
        emit_json({"study": found.row.name} | front_document(reference, members, counts, ties, regimes, gain))
        return
    print_trials(members, reference, f"{found.row.name}: Pareto front of {len(standing)} trials")
    print_front_notes(members, len(standing), standing.n_rounds(), ties, regimes, gain)
    if not members:
        click.echo("no trial keeps to the constraints yet", err=True)


@click.command()
@study_argument
@click.option("--prefer", help="The objective to be best in; default throughput.")
@storage_option
@json_option
def best(study: str, prefer: str | None, storage: str | None, as_json: bool) -> None:
    """One configuration under the constraints; among statistical ties the simplest."""
    from autotune.cli.context import open_study
    from autotune.cli.render import emit_json, print_ties, print_trials
    from autotune.study.scoring import preferred

    found = open_study(study, storage)
    standing, chosen = _best_of_all(found, prefer)
    ties = [n for n in standing.best_ties(prefer or "") if n != chosen.number]
    if as_json:
        emit_json(chosen.as_json() | {"ties": ties})
        return
    print_trials([chosen], found.reference())
    print_ties(chosen.number, ties, prefer or preferred(found.spec))


@click.command()
@study_argument
@click.argument("trial", metavar="TRIAL")
@storage_option
@json_option
def show(study: str, trial: str, storage: str | None, as_json: bool) -> None:
    """Everything known of one trial; `ref` is the reference."""
    from autotune.cli.context import open_study
    from autotune.cli.render import print_trial

    _emit_trial(open_study(study, storage).trial(trial), as_json, print_trial)


@click.command()
@study_argument
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most the N newest of them.")
@click.option("--before", type=click.IntRange(0), metavar="NUMBER", help="Only trials of lower numbers: the page before.")
@click.option("--state", type=click.Choice(["complete", "rejected", "crashed"]), help="Only trials in this state.")
@click.option("--all", "everything", is_flag=True, help=f"Also where they are many; else a table shows the {SHOWN} newest.")
@storage_option
@json_option
def trials(
    study: str,
    limit: int | None,
    before: int | None,
    state: TrialState | None,
    everything: bool,
    storage: str | None,
    as_json: bool,
) -> None:
    """All trials, rejected ones with their reasons; of very many the table shows the newest, JSON always all."""
    from autotune.cli.context import open_study
    from autotune.cli.render import emit_json, print_trials

    found = open_study(study, storage)
    most = limit or (UNLIMITED if as_json or everything else SHOWN)
    records = found.store.last(found.row.id, most, FINISHED if state is None else (state,), before)
    if as_json:
        emit_json([r.as_json() for r in records])
        return
    print_trials(records, found.reference())
    if len(records) == most and limit is None:
        click.echo(f"the {most} newest; earlier ones: --before {records[0].number}, or --all", err=True)


def best_in(found: OpenStudy, prefer: str | None) -> TrialRecord:
    """The best feasible trial. Raises SpecError when `prefer` is no objective or nothing keeps to the constraints."""
    return _best_of_all(found, prefer)[1]


def _best_of_all(found: OpenStudy, prefer: str | None) -> tuple[Standing, TrialRecord]:
    from autotune.study.objectives import OBJECTIVES

    spec = found.spec
    known = [*OBJECTIVES, *(["cost"] if spec.price_per_hour is not None else [])]
    if prefer and prefer not in known:
        raise SpecError(f"--prefer {prefer}: allowed: {', '.join(known)}")
    standing = found.standing(prefer or "")
    chosen = standing.best(prefer or "")
    if chosen is None and standing.feasible.any():
        raise SpecError(f"--prefer {prefer}: it was not measured in any trial that keeps to the constraints")
    if chosen is None:
        limits = spec.constraints.model_dump(exclude_none=True)
        raise SpecError(f"none of {len(standing)} trials keeps to the constraints {limits}; see: autotune trials {spec.study}")
    return standing, chosen


def _emit_trial(record: TrialRecord, as_json: bool, otherwise: Any) -> None:
    from autotune.cli.render import emit_json

    if as_json:
        emit_json(record.as_json())
    else:
        otherwise(record)
