"""init, start, worker, bench: the commands that measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.background import WorkerCame, detached, helpers
from autotune.cli.fleet_start import fleet_options, launcher_settings, start_fleet
from autotune.cli.options import HOURS, file_argument, json_option, log_options, storage_option, writing_whole
from autotune.cli.saying import say
from autotune.errors import SpecError

if TYPE_CHECKING:
    from autotune.cli.logs import LogContext, LogFormat


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
    with writing_whole(out) as whole:
        whole.write_text(text)
    click.echo(f"wrote {out}. Look it over, then: autotune start {out}", err=True)


@click.command()
@file_argument
@click.option("--detach", is_flag=True, help="Go on in the background; progress goes to a log file.")
@click.option("--trials", type=click.IntRange(1), help="Target number of trials, instead of the file's budget.")
@click.option("--hours", type=HOURS, help="Time budget, instead of the file's.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one per device. More take turns on a device.")
@click.option("--again", is_flag=True, help="Measure again what was measured: proposals that come twice, and the finalists.")
@click.option(
    "--metrics",
    "listen",
    metavar="[HOST:]PORT",
    help="Serve /metrics for Prometheus there; on 127.0.0.1 unless a host is named; port 0: a free one.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the filtered space with reasons, estimated time and disk; measure nothing."
)
@click.option("--wait-for-database", is_flag=True, help="Wait for a server that is away, instead of ending with an error.")
@fleet_options
@log_options
@storage_option
@json_option
def start(
    study_file: str,
    detach: bool,
    trials: int | None,
    hours: float | None,
    workers: int | None,
    again: bool,
    listen: str | None,
    dry_run: bool,
    wait_for_database: bool,
    launcher: str | None,
    ray_address: str | None,
    ray_gpus: int | None,
    ray_resource: str | None,
    log_format: LogFormat,
    log_file: Path | None,
    storage: str | None,
    as_json: bool,
) -> int:
    """Run a study, or resume it to its target. One that is paused waits for `autotune resume`."""
    from autotune.cli.dry_run import dry_run_report
    from autotune.cli.metrics_server import address_of, serving
    from autotune.cli.running import checked_plan, print_result, run_here, signals_press
    from autotune.spec.load import load_spec
    from autotune.study.lock import is_present
    from autotune.study.session import StopSwitch

    if dry_run:
        dry_run_report(study_file, trials, storage, as_json=as_json)
        return 0
    if listen:
        address_of(listen)
    if detach:
        where = "without --detach, which has a log file of its own and ends where it cannot begin"
        _refuse({"log-file": log_file, "wait-for-database": wait_for_database}, where)
    if wait_for_database:
        _wait_for_database(study_file, storage)
    settings = launcher_settings(launcher, ray_address, ray_gpus, ray_resource)
    logged = None if detach else _logs(log_format, log_file)
    named, launcher = launcher, launcher or _needed_launcher(study_file)
    options = _options(trials, hours, storage, log_format, workers, listen)
    if launcher is not None:
        alone = "on one device, without a launcher; several workers do not settle among themselves who measures what again"
        _refuse({"again": again}, alone)
        spec = load_spec(Path(study_file))
        if detach:
            placing = {"--launcher": named, **{f"--ray-{name}": value for name, value in settings.items()}}
            return detached(spec, study_file, [*options, *_given(placing)], storage, WorkerCame(spec, storage))
        if logged:
            logged.study = spec.study
        return start_fleet(
            study_file,
            launcher,
            trials=trials,
            hours=hours,
            workers=workers,
            storage=storage,
            settings=settings,
            listen=listen,
            log_format=log_format,
            as_json=as_json,
        )
    plan = checked_plan(study_file)
    if detach:
        return detached(plan.spec, study_file, [*options, *(["--again"] if again else [])], storage, is_present)
    if logged:
        logged.study = plan.spec.study
    with (
        # Around the helpers: whenever a signal comes, it reaches them, and none of them is left alone.
        signals_press(StopSwitch()) as switch,
        serving(listen, plan.spec, storage or plan.spec.storage),
        helpers((workers or 1) - 1, plan, study_file, _options(trials, hours, storage, log_format), switch),
    ):
        result, code = run_here(plan, storage=storage, trials=trials, hours=hours, again=again, switch=switch, logged=logged)
    print_result(result, as_json=as_json)
    return code


def _refuse(given: Mapping[str, object], allowed: str) -> None:
    """Raises SpecError where one of the options was given."""
    for option in (name for name, value in given.items() if value):
        raise SpecError(f"--{option}: allowed {allowed}")


def _wait_for_database(study_file: str, storage: str | None) -> None:
    """The database answers. Raises StoreError where it refuses."""
    from autotune.spec.load import load_spec
    from autotune.store.repository import wait_until_there

    wait_until_there(storage or load_spec(Path(study_file)).storage, lambda text: say(text, before="note: "))


def _needed_launcher(study_file: str) -> str | None:
    """The launcher of a study that names several devices; None where this process can be the worker itself."""
    from autotune.spec.load import load_spec

    devices = load_spec(Path(study_file)).devices
    return "local" if devices is not None and len(devices) > 1 else None


@click.command()
@file_argument
@click.option("--device", help="The worker's device, such as cuda:1, in place of the study file's.")
@click.option("--trials", type=click.IntRange(1), help="Target number of trials of the whole study.")
@click.option("--hours", type=HOURS)
@log_options
@storage_option
def worker(
    study_file: str,
    device: str | None,
    trials: int | None,
    hours: float | None,
    log_format: LogFormat,
    log_file: Path | None,
    storage: str | None,
) -> int:
    """One more worker for a running study, on this host or another, one per device of the study's kind."""
    from autotune.cli.running import checked_plan, run_here, target_of

    logged = _logs(log_format, log_file)
    plan = checked_plan(study_file, overrides={} if device is None else {"device": device})
    if logged:
        logged.study = plan.spec.study
    _, code = run_here(plan, storage=storage, trials=trials or target_of(plan, storage), hours=hours, logged=logged)
    return code


@click.command()
@file_argument
@click.option(
    "--set", "settings", multiple=True, metavar="KNOB=VALUE", help="A knob's value; the others keep the engine's defaults."
)
@click.option(
    "--build-only",
    is_flag=True,
    help="Make the variant and the engine, and measure nothing; needs no GPU where the "
    "engine's builder needs none (tensorrt-rtx).",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="X.Y",
    help="With --build-only: the GPU that the engine is for, such as 8.9; may be given several times.",
)
@json_option
def bench(study_file: str, settings: tuple[str, ...], build_only: bool, capabilities: tuple[str, ...], as_json: bool) -> int:
    """Measure one candidate without searching, or only build it; nothing is written to the database."""
    from autotune.cli.building import build_candidate
    from autotune.cli.render import emit_json, print_trial
    from autotune.cli.running import bench_candidate

    if capabilities and not build_only:
        raise SpecError(
            "--compute-capability: allowed together with --build-only; what is measured runs on the GPU that is here"
        )
    if build_only:
        record = build_candidate(study_file, settings, capabilities)
    else:
        record = bench_candidate(study_file, settings)
    if as_json:
        emit_json(record.as_json())
    else:
        print_trial(record)
    return 0


def _logs(log_format: LogFormat, log_file: Path | None) -> LogContext | None:
    """The log is set up; what its lines say, where they are JSON."""
    from autotune.cli.logs import LogContext, set_up_logs

    context = LogContext(study="")
    set_up_logs(log_format, log_file, context)
    return context if log_format == "json" else None


def _options(
    trials: int | None,
    hours: float | None,
    storage: str | None,
    log_format: LogFormat,
    workers: int | None = None,
    listen: str | None = None,
) -> list[str]:
    named = {"--trials": trials, "--hours": hours, "--storage": storage, "--log-format": log_format}
    return _given({**named, "--workers": workers, "--metrics": listen})


def _given(options: Mapping[str, object]) -> list[str]:
    """The words of a command line for the options that are not None."""
    return [word for name, value in options.items() if value is not None for word in (name, str(value))]
