"""init, start, worker, bench: the commands that measure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from autotune.cli.options import file_argument, json_option, storage_option
from autotune.errors import SpecError


@click.command()
@click.option("--model", required=True, type=click.Path(path_type=Path), help="An ONNX file.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="A folder with labels.csv, a folder with val.npz, or an .npz file."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("study.yaml"), show_default=True)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(model: Path, data: Path | None, device: str, out: Path, force: bool) -> None:
    """Write a commented study.yaml with what could be found out about a model and its data."""
    from autotune.spec.init import draft_study

    if out.exists() and not force:
        raise SpecError(f"{out} is there already; --force replaces it, --out names another file")
    text = draft_study(model, data, device, out.resolve().parent)
    out.write_text(text)
    click.echo(f"wrote {out}. Look it over, then: autotune start {out}", err=True)


@click.command()
@file_argument
@click.option("--detach", is_flag=True, help="Go on in the background; progress goes to a log file.")
@click.option("--trials", type=click.IntRange(1), help="Target number of trials, instead of the file's budget.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Time budget, instead of the file's.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes; they take turns on a device.")
@click.option(
    "--dry-run", is_flag=True, help="Print the filtered space with reasons, estimated time and disk; measure nothing."
)
@storage_option
@json_option
def start(
    study_file: str,
    detach: bool,
    trials: int | None,
    hours: float | None,
    workers: int,
    dry_run: bool,
    storage: str | None,
    as_json: bool,
) -> int:
    """Run a study, or resume it to its target."""
    from autotune.cli.running import dry_run_report, print_result, run_here

    if dry_run:
        dry_run_report(study_file, trials, as_json=as_json)
        return 0
    if detach:
        return _detached(study_file, trials, hours, workers, storage)
    with _helpers(workers - 1, study_file, storage, trials):
        result, code = run_here(study_file, storage=storage, trials=trials, hours=hours)
    print_result(result, as_json=as_json)
    return code


@click.command()
@file_argument
@click.option("--trials", type=click.IntRange(1), help="Target number of trials of the whole study.")
@click.option("--hours", type=click.FloatRange(0, min_open=True))
@storage_option
def worker(study_file: str, trials: int | None, hours: float | None, storage: str | None) -> int:
    """One more worker for a running study, on this host or another with the same kind of device."""
    from autotune.cli.running import run_here

    _, code = run_here(study_file, storage=storage, trials=trials, hours=hours)
    return code


@click.command()
@file_argument
@click.option(
    "--set", "settings", multiple=True, metavar="KNOB=VALUE", help="A knob's value; the others keep the engine's defaults."
)
@json_option
def bench(study_file: str, settings: tuple[str, ...], as_json: bool) -> int:
    """Measure one candidate without searching; nothing is written to the database."""
    from autotune.cli.render import emit_json, print_trial
    from autotune.cli.running import bench_candidate

    record = bench_candidate(study_file, settings)
    if as_json:
        emit_json(record.as_json())
    else:
        print_trial(record)
    return 0 if record.state == "complete" else 1


@contextmanager
def _helpers(n: int, study_file: str, storage: str | None, trials: int | None) -> Iterator[None]:
    """`n` more workers run while the block does; they are asked to stop when it ends early."""
    command = [sys.executable, "-m", "autotune.cli.main", "worker", study_file]
    command += ["--storage", storage] if storage else []
    command += ["--trials", str(trials)] if trials else []
    running = [subprocess.Popen(command) for _ in range(n)]
    try:
        yield
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()


def _detached(study_file: str, trials: int | None, hours: float | None, workers: int, storage: str | None) -> int:
    """The study goes on in a session of its own, after its file was found to be right."""
    from autotune.cli.running import checked_plan

    plan = checked_plan(study_file)
    log_path = plan.cache_root / "logs" / plan.spec.study / "start.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    options: list[Any] = ["--trials", trials] if trials else []
    options += ["--hours", hours] if hours else []
    options += ["--storage", storage] if storage else []
    command = [sys.executable, "-m", "autotune.cli.main", "-v", "start", study_file, "--workers", workers, *options]
    with log_path.open("a") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=dict(os.environ),
        )
    click.echo(f"study {plan.spec.study} runs as process {process.pid}; log: {log_path}", err=True)
    click.echo(f"look: autotune status {study_file}    stop: autotune stop {study_file}", err=True)
    return 0
