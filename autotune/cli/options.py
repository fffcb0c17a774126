"""Options that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from autotune.errors import EnvironmentProblem, SpecError

PASSED_STORAGE = "AUTOTUNE_PASSED_STORAGE"
"""How a process of ours is told its `--storage`: everybody on the host may read a command line, and a URL holds a password."""
F = TypeVar("F", bound=Callable[..., Any])


class FiniteNumber(click.FloatRange):
    """A finite number in the range; `allowed` is the range in words. Click's own lets nan through, and infinity."""

    def __init__(self, allowed: str, low: float, high: float | None = None, *, min_open: bool = False) -> None:
        super().__init__(low, high, min_open=min_open)
        self.allowed = allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises SpecError, which names the option."""
        try:
            found = float(super().convert(value, param, ctx))
        except click.BadParameter:
            found = math.nan
        if not math.isfinite(found):
            raise SpecError(f"{param.opts[0] if param else 'number'} {value}: allowed: {self.allowed}")
        return found


HOURS = FiniteNumber("a number of hours above 0", 0, min_open=True)


def json_option(command: F) -> F:
    """`--json`: one document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(command)


def storage_option(command: F) -> F:
    """`--storage`: the database, where the study file does not name it."""
    text = "Database URL; default: the study file's, else $AUTOTUNE_STORAGE, else sqlite:///autotune.db."
    text += " env:NAME reads it from that variable."
    return click.option("--storage", metavar="URL", help=text, envvar=PASSED_STORAGE, callback=_storage)(command)


def _storage(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The URL; `env:NAME` keeps one with a password out of the list of processes. Raises SpecError where there is no NAME."""
    if value is None or not value.startswith("env:"):
        return value
    name = value.removeprefix("env:")
    if not os.environ.get(name):
        raise SpecError(f"--storage {value}: found no variable {name} in the environment; allowed: one with a URL")
    return os.environ[name]


def log_options(command: F) -> F:
    """`--log-format`, and `--log-file`, which detached processes are given."""
    text = "json: one object per line with time, level, logger, message, study, trial and worker."
    as_format = click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help=text)
    to_file = click.option("--log-file", type=click.Path(path_type=Path), help="Log to this file, which rotates at 10 MiB.")
    return as_format(to_file(command))


def study_argument(command: F) -> F:
    """STUDY: a study's name, or its yaml file."""
    return click.argument("study", metavar="STUDY")(command)


def file_argument(command: F) -> F:
    """STUDY.yaml."""
    return click.argument("study_file", metavar="STUDY.yaml")(command)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A failure of the system inside the block, such as a full disk, is an EnvironmentProblem that names the path."""
    try:
        yield
    except OSError as exc:
        raise EnvironmentProblem(
            f"cannot write {path}: {exc.strerror or exc}.", remedy="another place, or look after its permissions and free space"
        ) from exc


@contextmanager
def writing_whole(path: Path) -> Iterator[Path]:
    """The file to write in place of `path`, whose place it takes once the block has ended well: nobody sees half of it.

    Its folder is made where it is not there. A pipe or a device is written to as it is. Raises as `writing`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.resolve()
        if whole.exists() and not whole.is_file():
            yield whole
            return
        scratch = whole.with_name(f".{whole.stem[:100]}.{os.getpid()}{whole.suffix}")
        try:
            yield scratch
            scratch.replace(whole)
        finally:
            scratch.unlink(missing_ok=True)
