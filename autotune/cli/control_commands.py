"""stop, pause, resume: the commands that tell a running study's workers what to do, wherever they run."""

from __future__ import annotations

import getpass
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.options import storage_option
from autotune.errors import SpecError

if TYPE_CHECKING:
    from autotune.cli.context import OpenStudy
    from autotune.study.presence import Presence

_STUDY = click.argument("study", metavar="[STUDY]", required=False)


def _now_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--now", "at_once", is_flag=True, help=text)


@click.command()
@_STUDY
@_now_option("Put the trial under way back at once instead of finishing it.")
@storage_option
def stop(study: str | None, at_once: bool, storage: str | None) -> None:
    """Ask a study's workers to finish their trial and leave, on this host by SIGTERM, elsewhere through the database."""
    for found, presence in _chosen(study, storage, "runs", lambda p: bool(p.here or p.workers)):
        _stop(found, presence, at_once=at_once)


def _stop(found: OpenStudy, presence: Presence, *, at_once: bool) -> None:
    for pid in _leaders(presence.here):
        _signal(pid)
    elsewhere, name = presence.elsewhere, found.row.name
    if elsewhere or (at_once and presence.here):  # of two signals at once the system may deliver one
        found.store.order(found.row.id, "stop", _who(), at_once=at_once)
    n, hosts = len(presence.here) + len(elsewhere), ", ".join(sorted({w.worker.host for w in elsewhere}))
    there = f", {len(elsewhere)} of them on {hosts} through the database" if elsewhere else ""
    click.echo(f"{n} worker(s) of {name} asked to stop{there}" if n else f"nothing of {name} runs here", err=True)


@click.command()
@_STUDY
@_now_option("Put the trial under way back at once instead of finishing it.")
@storage_option
def pause(study: str | None, at_once: bool, storage: str | None) -> None:
    """Let a study's workers wait, on all hosts and across restarts, until `autotune resume`; the device is free meanwhile."""
    for found, presence in _chosen(study, storage, "runs", lambda p: p.state == "running"):
        _pause(found, presence, at_once=at_once)


def _pause(found: OpenStudy, presence: Presence, *, at_once: bool) -> None:
    order, name, before = found.store.order(found.row.id, "pause", _who(), at_once=at_once), found.row.name, presence.pause
    if before is not None:
        click.echo(f"{name} is paused already, since {before.given_at} by {before.given_by}", err=True)
    else:
        click.echo(f"{name} is paused; it goes on after: autotune resume {name}", err=True)
    for trial in presence.running:
        what = "put back" if order.at_once else "finished first"
        click.echo(f"  {trial.role} trial {trial.number} under way on {trial.worker.host} is {what}", err=True)
    if not (presence.here or presence.workers):
        click.echo("  no worker is there now; one that is started waits until then", err=True)


@click.command()
@_STUDY
@storage_option
def resume(study: str | None, storage: str | None) -> None:
    """Let a paused study go on; workers that wait do so within seconds."""
    for found, presence in _chosen(study, storage, "is paused", lambda p: p.pause is not None):
        name, lifted = found.row.name, found.store.lift_pause(found.row.id)
        if lifted is None:
            click.echo(f"{name} is not paused", err=True)
            continue
        click.echo(f"{name} is resumed; it was paused since {lifted.given_at} by {lifted.given_by}", err=True)
        n = len(presence.workers) or len(presence.here)
        click.echo(f"  {n} worker(s) go on" if n else "  no worker waits; begin one: autotune start STUDY.yaml", err=True)


def _chosen(
    study: str | None, storage: str | None, what: str, fits: Callable[[Presence], bool]
) -> list[tuple[OpenStudy, Presence]]:
    """The study that was named, in its parts, or the only one in the database that fits. Raises SpecError."""
    from autotune.cli.context import open_studies, opened, storage_from_environment
    from autotune.store.repository import open_store
    from autotune.study.presence import presence_of

    if study is not None:
        return [(found, presence_of(found.store, found.row)) for found in open_studies(study, storage)]
    store = open_store(storage or storage_from_environment(), create=False)
    busy = store.paused() | {w.study_id for w in store.workers()}
    known = [(row, presence_of(store, row)) for row in store.studies() if row.id in busy]
    fitting = [(row, presence) for row, presence in known if fits(presence)]
    if len(fitting) != 1:
        names = ", ".join(row.name for row, _ in fitting) or "none"
        raise SpecError(f"STUDY: found no name; allowed: the study's name or file. The studies of which one {what}: {names}")
    return [(opened(store, row), presence) for row, presence in fitting]


def _leaders(here: Sequence[int]) -> list[int]:
    """Those whose parent is not among them: `start --workers` passes the signal on to its helpers by itself."""
    return [pid for pid in here if _parent(pid) not in here]


def _parent(pid: int) -> int | None:
    try:
        # The second field is the command in parentheses and may itself hold blanks and parentheses.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it left meanwhile, as it was to


def _who() -> str:
    try:
        return f"{getpass.getuser()} on {socket.gethostname()}"
    except (KeyError, OSError):  # a container's user that no password file names
        return f"user {os.getuid()} on {socket.gethostname()}"
