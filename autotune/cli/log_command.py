"""logs: the logs of a study's detached processes on this host."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from autotune.cli.options import storage_option, study_argument
from autotune.errors import SpecError


@click.command()
@study_argument
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows and rotates, until Ctrl-C.")
@click.option(
    "--lines", "-n", type=click.IntRange(0), default=50, show_default=True, help="Begin so many lines before the end."
)
@click.option("--worker", type=click.IntRange(1), metavar="N", help="The log of the N-th worker beside it.")
@storage_option
def logs(study: str, follow: bool, lines: int, worker: int | None, storage: str | None) -> None:
    """Print the log of a study that was started on this host with --detach."""
    from autotune.cli.logs import tail

    folder = _folder_of(study, storage)
    path = folder / ("start.log" if worker is None else f"worker-{worker}.log")
    if not path.is_file():
        there = ", ".join(p.name for p in sorted(folder.glob("*.log")) if not p.stem[-1:].isdigit() or "worker" in p.stem)
        raise SpecError(f"there is no {path}; logs there: {there or 'none'}. Only --detach writes one: autotune start --detach")
    out = sys.stdout.buffer
    for line in tail(path, lines):
        out.write(line)
    out.flush()
    if follow:
        for piece in followed(path):
            out.write(piece)
            out.flush()


def _folder_of(study: str, storage: str | None) -> Path:
    """The folder of the study's logs. One supervisor watches the workers of all parts of a study, under its own name."""
    from autotune.cli.context import open_studies
    from autotune.study.kinds import whole_name
    from autotune.trial.artifacts import cache_root_of

    found = open_studies(study, storage)[0]
    folder = cache_root_of(found.spec) / "logs"
    own, whole = folder / found.row.name, folder / whole_name(found.row.name)
    return own if (own / "start.log").is_file() or not whole.is_dir() else whole


def followed(path: Path, sleep: Callable[[float], None] = time.sleep) -> Iterator[bytes]:
    """What is written to the log from now on; when it rotates, the rest of the old file and then the new one."""
    file = path.open("rb")
    file.seek(0, 2)
    while True:
        piece = file.read(65536)
        if piece:
            yield piece
            continue
        try:
            moved = path.stat().st_ino != os.fstat(file.fileno()).st_ino
        except FileNotFoundError:  # between two names
            moved = False
        if moved:
            rest = file.read()  # written between the last look and the move
            file.close()
            if rest:
                yield rest
            file = path.open("rb")
            continue
        sleep(0.2)
