"""What `start --dry-run` tells: the space after the capability filter, what the study will cost, and where it stands."""

from __future__ import annotations

from typing import Any

import click

from autotune.candidate import KNOBS, Range
from autotune.cli.render import emit_json
from autotune.cli.running import checked_plan
from autotune.records import FINISHED
from autotune.store.connection import shown_url
from autotune.store.repository import existing_store
from autotune.study.finalists import limit_s
from autotune.study.loop import registered_study
from autotune.study.plan import StudyPlan


def dry_run_report(study_file: str, trials: int | None, storage: str | None, *, as_json: bool) -> None:
    """The space after the capability filter with the reasons, and what the study will about cost. Nothing is written.

    Raises SpecError also where the database holds a study of this name that cannot go on with this file.
    """
    plan = checked_plan(study_file)
    target = trials or plan.spec.budget.trials
    url = storage or plan.spec.storage
    finished = _finished_trials(plan, url)
    document: dict[str, Any] = {
        "study": plan.spec.study,
        "device": plan.fingerprint.device,
        "engines_precisions": [f"{e}/{p}" for e, p in plan.space.pairs],
        "knobs": {knob: str(domain) for knob, domain in plan.space.domains.items()},
        "engine_knobs": {engine: sorted(knobs) for engine, knobs in plan.space.knobs_of.items()},
        "removed": [str(r) for r in plan.space.removed],
        "build_cores": list(plan.build_cores),
        "reference": plan.reference.as_json(),
        "doubts": dict(plan.doubts),
        "priors": [c.as_json() for c in plan.priors],
        "storage": shown_url(url),
        "finished_trials": finished,
        "estimate": _estimated_cost(plan, max(0, target - (finished or 0))),
    }
    if as_json:
        emit_json(document)
    else:
        _print(plan, document, target)


def _finished_trials(plan: StudyPlan, url: str) -> int | None:
    """How many trials the study has in its database; None where it would begin."""
    store = existing_store(url)
    if store is None:
        return None
    try:
        row = registered_study(plan, store)
        return None if row is None else sum(n for state, n in store.counts(row.id).items() if state in FINISHED)
    finally:
        store.close()


def _print(plan: StudyPlan, document: dict[str, Any], target: int) -> None:
    click.echo(f"study {plan.spec.study} on {plan.fingerprint.device}")
    click.echo(f"  reference: {plan.reference}")
    if plan.build_cores:
        click.echo(f"  builds ahead on CPUs {', '.join(map(str, plan.build_cores))}, on which nothing is measured")
    click.echo(f"  engine/precision: {', '.join(document['engines_precisions'])}")
    for knob, domain in plan.space.domains.items():
        takers = [e for e in plan.space.engines if plan.space.has(e, knob)]
        only = "" if len(takers) == len(plan.space.engines) else f"   ({', '.join(takers)} only)"
        click.echo(f"  {knob}: {domain}{' ' + KNOBS[knob].unit if KNOBS[knob].unit not in ('', '1') else ''}{only}")
    for removal in plan.space.removed:
        click.echo(f"  not searched: {removal}")
    click.echo(f"  {len(plan.priors)} priors, {len(plan.certain)} of them tried first whatever the strategy")
    for precision, reason in plan.doubts.items():
        click.echo(f"  priors in {precision} come last: {reason}")
    finished, estimate = document["finished_trials"], document["estimate"]
    click.echo(
        f"  begins in {document['storage']}" if finished is None else f"  goes on: {finished} of {target} trials are there"
    )
    low, high = max(1, round(estimate["minutes_low"])), max(1, round(estimate["minutes_high"]))
    click.echo(
        f"  estimate: {estimate['trials']} trials, {f'{low} to {high} minutes' if high > 1 else 'up to a minute'}, "
        f"up to {estimate['disk_mib']:.0f} MiB in {plan.cache_root}"
    )


def _estimated_cost(plan: StudyPlan, trials: int) -> dict[str, float]:
    """Bounds from the load plan alone: the shortest and the longest measurement; variants and engines at the model's size."""
    load = plan.spec.load
    low = trials * (load.warmup_s + load.min_windows * load.window_s)
    high = trials * (10 * max(1.0, load.warmup_s) + load.longest_s)
    pruning = plan.space.domains["pruning_ratio"]
    ratios = 6 if isinstance(pruning, Range) else len(pruning.values)
    high += plan.spec.recovery.max_s * (ratios - 1)
    if plan.spec.finalists.rounds:
        high += limit_s(plan.spec, high, with_precision=True)
    model_file = plan.spec.model.path or plan.spec.model.weights
    size_mib = model_file.stat().st_size / 2**20 if model_file else 0.0
    return {
        "trials": trials,
        "minutes_low": low / 60,
        "minutes_high": high / 60,
        "disk_mib": size_mib * (1 + 2 * ratios * len(plan.space.pairs)),
    }
