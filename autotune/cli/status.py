"""The state of studies as documents and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from autotune.cli.context import OpenStudy, opened
from autotune.cli.render import with_interval
from autotune.records import FINISHED, Estimate, TrialRecord
from autotune.store.repository import Store
from autotune.store.summaries import StudySummary
from autotune.study.lock import is_anybody_here, workers_here
from autotune.study.recovery import is_dead

FEW = 50
"""So many studies are each evaluated as `best` does; of more, only those that somebody works on."""


def status_document(found: OpenStudy) -> dict[str, Any]:
    """One study: state (running | interrupted | idle), counts, target, workers, and the best configuration so far."""
    standing, counts = found.standing(), found.store.counts(found.row.id)
    running = found.store.running(found.row.id)
    here = workers_here(found.row)
    chosen = standing.best()
    alive = bool(here) or any(not is_dead(t) for t in running)
    state = "running" if alive else "interrupted" if running else "idle"
    return {
        "study": found.row.name,
        "state": state,
        "n_trials": {state: counts[state] for state in FINISHED},
        "target": found.row.target_trials,
        "began_at": found.row.created_at,
        "workers_here": here,
        "running": [
            {"number": t.number, "role": t.role, "worker": t.worker.worker_id, "host": t.worker.host, "pid": t.worker.pid}
            for t in running
        ],
        "n_repetitions": standing.n_repetitions(),
        "regimes": [asdict(r) for r in found.store.regimes(found.row.id)],
        "best": chosen.as_json() if chosen else None,
    }


def quiet_document(summary: StudySummary, *, whole: bool) -> dict[str, Any]:
    """A study that nobody works on, as `status_document`, but its best is the one of its stored front.

    Not `whole`: of the best only what a line shows.
    """
    best = summary.best
    shown = None if best is None else best.as_json() if whole else _shown(best)
    return {
        "study": summary.name,
        "state": "idle",
        "n_trials": {state: summary.n_trials[state] for state in FINISHED},
        "target": summary.target_trials,
        "began_at": summary.created_at,
        "workers_here": [],
        "running": [],
        "n_repetitions": summary.n_repetitions,
        "regimes": [asdict(r) for r in summary.regimes],
        "best": shown,
    }


def _shown(record: TrialRecord) -> dict[str, Any]:
    rate = record.throughput_items_per_s
    return {
        "number": record.number,
        "throughput_items_per_s": None if rate is None else asdict(rate),
        "candidate": record.candidate.as_json(),
    }


def all_documents(store: Store, *, whole: bool) -> list[dict[str, Any]]:
    """Every study of the database by name; where they are many, those that nobody works on without their own evaluation."""
    summaries = store.summaries()
    if len(summaries) <= FEW:
        return [status_document(opened(store, row)) for row in store.studies()]
    anybody = is_anybody_here()
    return [_one_of_many(store, summary, anybody=anybody, whole=whole) for summary in summaries]


def _one_of_many(store: Store, summary: StudySummary, *, anybody: bool, whole: bool) -> dict[str, Any]:
    if anybody or summary.n_trials["running"]:
        row = store.study(summary.name)
        if row is not None and (summary.n_trials["running"] or workers_here(row)):
            return status_document(opened(store, row))
    return quiet_document(summary, whole=whole)


def print_status(documents: Sequence[dict[str, Any]]) -> None:
    """A few lines per study."""
    if not documents:
        click.echo("no study yet; begin one: autotune start STUDY.yaml")
    for d in documents:
        done = sum(d["n_trials"].values())
        parts = ", ".join(f"{n} {state}" for state, n in d["n_trials"].items() if n)
        click.echo(f"{d['study']}: {d['state']}, {done} of {d['target']} trials ({parts or 'none yet'}), begun {d['began_at']}")
        for t in d["running"]:
            what = {"search": "trial", "final": "finalist's measurement", "canary": "measurement of the reference"}.get(
                t["role"]
            )
            click.echo(f"  {what or t['role']} {t['number']} under way: process {t['pid']} on {t['host']}")
        if d["state"] == "interrupted":
            click.echo("  its worker died; `autotune start` puts the candidate back and goes on")
        for regime in d["regimes"]:
            click.echo(f"  the machine changed at {regime['since']}: {regime['reason']}")
        if chosen := d["best"]:
            rate = with_interval(Estimate.from_json(chosen["throughput_items_per_s"]))
            knobs = " ".join(f"{k}={v}" for k, v in chosen["candidate"].items() if v is not None)
            click.echo(f"  best: trial {chosen['number']}, {rate} items/s [{knobs}]")
