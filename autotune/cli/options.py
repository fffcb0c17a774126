"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """`--json`: one document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(command)


def storage_option(command: F) -> F:
    """`--storage`: the database, where the study file does not name it."""
    text = "Database URL; default: the study file's, else $AUTOTUNE_STORAGE, else sqlite:///autotune.db."
    return click.option("--storage", metavar="URL", help=text)(command)


def study_argument(command: F) -> F:
    """STUDY: a study's name, or its yaml file."""
    return click.argument("study", metavar="STUDY")(command)


def file_argument(command: F) -> F:
    """STUDY.yaml."""
    return click.argument("study_file", metavar="STUDY.yaml")(command)
