"""The state of studies as documents and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from autotune.cli.context import OpenStudy, opened
from autotune.cli.render import with_interval
from autotune.records import FINISHED, Estimate, TrialRecord
from autotune.store.attendance import PresentWorker
from autotune.store.repository import Store
from autotune.store.summaries import StudySummary
from autotune.study.device_lock import who_holds
from autotune.study.presence import presence_of

FEW = 50
"""So many studies are each evaluated as `best` does; of more, only those that somebody works on."""

_MOVED = {"working": "works", "paused": "waits for the pause to end"}
_UNDER_WAY = {"search": "trial", "final": "finalist's measurement", "canary": "measurement of the reference"}


def status_document(found: OpenStudy) -> dict[str, Any]:
    """One study: state, counts, target, who works on it, the pause that stands, and the best configuration so far."""
    standing, counts = found.standing(), found.store.counts(found.row.id)
    presence = presence_of(found.store, found.row)
    pause, chosen = presence.pause, standing.best()
    return {
        "study": found.row.name,
        "state": presence.state,
        "n_trials": {state: counts[state] for state in FINISHED},
        "target": found.row.target_trials,
        "began_at": found.row.created_at,
        "paused": {"since": pause.given_at, "by": pause.given_by, "at_once": pause.at_once} if pause else None,
        "workers_here": list(presence.here),
        "workers": [_worker(w, lost=w in presence.lost) for w in (*presence.workers, *presence.lost)],
        "rebooted": list(presence.rebooted),
        "running": [
            {"number": t.number, "role": t.role, "worker": t.worker.worker_id, "host": t.worker.host, "pid": t.worker.pid}
            for t in presence.running
        ],
        "n_repetitions": standing.n_repetitions(),
        "regimes": [asdict(r) for r in found.store.regimes(found.row.id)],
        "best": chosen.as_json() if chosen else None,
    }


def _worker(found: PresentWorker, *, lost: bool) -> dict[str, Any]:
    who = found.worker
    state = "lost" if lost else found.state
    age_s = round(found.heartbeat_age_s, 1)
    began = {"began_at": found.began_at, "heard_of_s": age_s}
    return {"worker": who.worker_id, "host": who.host, "pid": who.pid, "state": state, **began}


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
        "paused": None,
        "workers_here": [],
        "workers": [],
        "rebooted": [],
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
    busy = store.paused() | {w.study_id for w in store.workers()}
    return [_one_of_many(store, s, busy=s.id in busy, whole=whole) for s in summaries]


def _one_of_many(store: Store, summary: StudySummary, *, busy: bool, whole: bool) -> dict[str, Any]:
    if busy or summary.n_trials["running"]:
        row = store.study(summary.name)
        if row is not None:
            return status_document(opened(store, row))
    return quiet_document(summary, whole=whole)


def print_status(documents: Sequence[dict[str, Any]]) -> None:
    """A few lines per study, then who measures on this host's devices."""
    if not documents:
        click.echo("no study yet; begin one: autotune start STUDY.yaml")
    for d in documents:
        _print_study(d)
    for line in who_holds():
        click.echo(line)


def _print_study(d: dict[str, Any]) -> None:
    done = sum(d["n_trials"].values())
    parts = ", ".join(f"{n} {state}" for state, n in d["n_trials"].items() if n)
    click.echo(f"{d['study']}: {d['state']}, {done} of {d['target']} trials ({parts or 'none yet'}), begun {d['began_at']}")
    if d["paused"]:
        click.echo(
            f"  paused since {d['paused']['since']} by {d['paused']['by']}; it goes on after: autotune resume {d['study']}"
        )
    for t in d["running"]:
        what = _UNDER_WAY.get(t["role"]) or t["role"]
        click.echo(f"  {what} {t['number']} under way: process {t['pid']} on {t['host']}")
    for w in d["workers"]:
        if w["state"] == "lost":
            click.echo(f"  lost: process {w['pid']} on {w['host']}, at work since {w['began_at']}")
        elif w["state"] == "paused" or w["pid"] not in {t["pid"] for t in d["running"]}:
            click.echo(f"  process {w['pid']} on {w['host']} {_MOVED[w['state']]}, here since {w['began_at']}")
    if d["state"] == "interrupted":
        why = f"{', '.join(d['rebooted'])} booted meanwhile" if d["rebooted"] else "its worker died"
        click.echo(f"  {why}; this puts the candidate back and goes on: autotune start STUDY.yaml")
    elif d["state"] == "paused" and not any(w["state"] != "lost" for w in d["workers"]):
        click.echo("  no worker waits for the end of the pause: autotune start STUDY.yaml begins one")
    for regime in d["regimes"]:
        click.echo(f"  the machine changed at {regime['since']}: {regime['reason']}")
    if chosen := d["best"]:
        rate = with_interval(Estimate.from_json(chosen["throughput_items_per_s"]))
        knobs = " ".join(f"{k}={v}" for k, v in chosen["candidate"].items() if v is not None)
        click.echo(f"  best: trial {chosen['number']}, {rate} items/s [{knobs}]")
