"""start with a launcher: workers on several devices, placed, watched and started again, until the study is done."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotune.cli.options import PASSED_STORAGE
from autotune.errors import AutotuneError, SpecError
from autotune.spec.model import StudySpec

if TYPE_CHECKING:
    from autotune.cli.logs import LogFormat

_log = logging.getLogger("autotune.fleet")
_PROGRESS_S = 5.0
_OF_THE_PROCESS = frozenset(
    {"AUTOTUNE_VISIBLE_BEFORE", "AUTOTUNE_FAKE_DEVICE", "AUTOTUNE_STORAGE", "AUTOTUNE_CORES_APART", "AUTOTUNE_CORES"}
)
"""Variables of autotune's that belong to one process and are not handed on."""


def fleet_options(command: Any) -> Any:
    """The options of `start` that say where workers are placed."""
    for option in reversed(
        (
            click.option("--launcher", metavar="NAME", help="Place one worker per device: local (this host), ray."),
            click.option("--ray-address", metavar="ADDRESS", help="A running Ray cluster; default: one is started here."),
            click.option("--ray-gpus", type=click.IntRange(1), help="GPUs of a Ray started here; emulates them without."),
            click.option("--ray-resource", metavar="NAME", help="What stands for a device in Ray instead of a GPU."),
        )
    ):
        command = option(command)
    return command


def launcher_settings(launcher: str | None, address: str | None, gpus: int | None, resource: str | None) -> dict[str, str]:
    """Ray's settings. Raises SpecError where they are given and Ray is not asked for."""
    given = {"address": address, "gpus": None if gpus is None else str(gpus), "resource": resource}
    found = {name: value for name, value in given.items() if value is not None}
    if found and launcher != "ray":
        raise SpecError(f"--ray-{next(iter(found))}: allowed together with --launcher ray")
    if address is not None and gpus is not None:
        raise SpecError("--ray-gpus: allowed where Ray is started here, without --ray-address")
    return found


def start_fleet(
    study_file: str,
    launcher: str,
    *,
    trials: int | None,
    hours: float | None,
    workers: int | None,
    storage: str | None,
    settings: Mapping[str, str],
    listen: str | None,
    log_format: LogFormat,
    as_json: bool,
) -> int:
    """The study, run by one worker per device; the exit code. The devices are looked at where the workers run, not here.

    `listen`: where this process serves metrics. `log_format`: of the workers' logs; this process's own is set up already.
    """
    from autotune.cli.logs import append_rotating
    from autotune.cli.metrics_server import serving
    from autotune.cli.running import signals_press
    from autotune.fleet.launcher import FleetRequest
    from autotune.fleet.supervision import Supervisor
    from autotune.registry import LAUNCHERS
    from autotune.spec.load import load_spec
    from autotune.study.session import StopSwitch
    from autotune.trial.artifacts import cache_root_of

    path = Path(study_file).absolute()
    spec = load_spec(path)
    make = LAUNCHERS.load(launcher)
    url = storage or spec.storage
    request = FleetRequest(
        study_file=path,
        devices=spec.devices or (spec.device,),
        workers=workers,
        log_folder=cache_root_of(spec) / "logs" / spec.study,
        options=_worker_options(spec, trials, hours, log_format),
        environment=_environment(storage),
        one_host_only="SQLite is the file of one host; name a PostgreSQL database" if url.startswith("sqlite") else "",
        settings=settings,
        note=_note,
        append=append_rotating,
    )
    switch = StopSwitch()
    # Ray sets signal handlers of its own when it starts, so ours come after; its messages would spoil the document on stdout.
    with serving(listen, spec, url), redirect_stdout(sys.stderr), make(request) as placed, signals_press(switch):
        supervisor = Supervisor(
            launcher=placed, presses=lambda: switch.count, note=_note, tick=_Progress(spec.study, url).show_if_changed
        )
        result = supervisor.run(placed.orders())
    _print_fronts(study_file, storage, result, as_json=as_json)
    return result.exit_code(all_needed=spec.device_kinds == "several")


def _worker_options(spec: StudySpec, trials: int | None, hours: float | None, log_format: LogFormat) -> tuple[str, ...]:
    given = {"--trials": trials or spec.budget.trials, "--hours": hours, "--log-format": log_format}
    return tuple(word for name, value in given.items() if value is not None for word in (name, str(value)))


def _environment(storage: str | None) -> dict[str, str]:
    """Autotune's own variables, which a cluster's hosts lack; and the database, which must not stand in process lists."""
    found = {k: v for k, v in os.environ.items() if k.startswith("AUTOTUNE_") and k not in _OF_THE_PROCESS}
    return found | ({} if storage is None else {PASSED_STORAGE: storage})


def _note(text: str) -> None:
    """The text in the log, where one is kept, and on stderr, where the log does not show it already."""
    handlers = logging.getLogger().handlers if _log.isEnabledFor(logging.INFO) else []
    if handlers:
        _log.info("%s", text)
    if not any(_is_seen(handler) for handler in handlers):
        click.echo(text, err=True)


def _is_seen(handler: logging.Handler) -> bool:
    """True for a log on stderr, for one that stderr follows, and for one of objects, which programs read alone."""
    from autotune.cli.logs import RotatingOutput

    follows = isinstance(handler, RotatingOutput) and handler.leads_stderr
    return follows or getattr(handler, "stream", None) is sys.stderr or getattr(handler.formatter, "is_structured", False)


class _Progress:
    """Says how far the study is, when that changed."""

    def __init__(self, study: str, url: str) -> None:
        self._study, self._url = study, url
        self._store: Any = None
        self._due, self._shown = time.monotonic() + _PROGRESS_S, ""

    def show_if_changed(self) -> None:
        """At most every few seconds. A database that is not there yet, or away, is not this process's trouble."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _PROGRESS_S
        try:
            text = self._text()
        except AutotuneError:
            self._store = None
            return
        if text != self._shown:
            self._shown = text
            _note(text)

    def _text(self) -> str:
        from autotune.store.repository import open_store
        from autotune.study.kinds import parts_of

        if self._store is None:
            self._store = open_store(self._url, create=False, retry_s=0.0)
        lines = []
        for row in parts_of(self._study, self._store):
            counts = self._store.counts(row.id)
            done = sum(n for state, n in counts.items() if state != "running")
            lines.append(f"{row.name}: {done} of {row.target_trials} trials, {counts['running']} under way")
        return "\n".join(lines)


def _print_fronts(study_file: str, storage: str | None, result: Any, *, as_json: bool) -> None:
    """The front of the study, or of each of its parts; nothing where no worker came so far."""
    from autotune.cli.context import open_studies
    from autotune.cli.front import front_document
    from autotune.cli.render import emit_json, print_front_notes, print_trials

    workers = [{"name": n, "exit_code": c, "restarts": result.restarts[n]} for n, c in result.codes.items()]
    try:
        opened = open_studies(study_file, storage)
    except AutotuneError:
        opened = []
    documents = []
    for found in opened:
        standing, reference, regimes = found.standing(), found.reference(), found.store.regimes(found.row.id)
        members, ties, gain, counts = standing.front, standing.ties(), standing.warm_start(), found.store.counts(found.row.id)
        if not as_json:
            print_trials(members, reference, f"{found.row.name}: Pareto front of {len(standing)} trials")
            print_front_notes(members, len(standing), standing.n_rounds(), ties, regimes, gain)
        documents.append({"study": found.row.name} | front_document(reference, members, counts, ties, regimes, gain))
    if as_json:
        emit_json({"workers": workers, "studies": documents})
