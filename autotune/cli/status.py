"""The state of studies as documents and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from autotune.cli.context import OpenStudy
from autotune.cli.render import with_interval
from autotune.records import Estimate
from autotune.study.lock import workers_here
from autotune.study.recovery import is_dead
from autotune.study.scoring import best


def status_document(found: OpenStudy) -> dict[str, Any]:
    """One study: state (running | interrupted | idle), counts, target, workers, and the best configuration so far."""
    records = found.records()
    running = found.store.running(found.row.id)
    here = workers_here(found.row)
    counts = {state: sum(r.state == state for r in records) for state in ("complete", "rejected", "crashed")}
    chosen = best(records, found.spec) if records else None
    alive = bool(here) or any(not is_dead(t) for t in running)
    state = "running" if alive else "interrupted" if running else "idle"
    return {
        "study": found.row.name,
        "state": state,
        "n_trials": counts,
        "target": found.row.target_trials,
        "began_at": found.row.created_at,
        "workers_here": here,
        "running": [
            {"number": t.number, "role": t.role, "worker": t.worker.worker_id, "host": t.worker.host, "pid": t.worker.pid}
            for t in running
        ],
        "n_repetitions": sum(len(r.repetitions) for r in records),
        "regimes": [asdict(r) for r in found.store.regimes(found.row.id)],
        "best": chosen.as_json() if chosen else None,
    }


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
