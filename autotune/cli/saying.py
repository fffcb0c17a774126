"""What the command line tells on stderr beside its result, which a log that machines read takes as lines of its own."""

from __future__ import annotations

import logging
import sys

import click

from autotune.printable import printable

_log = logging.getLogger("autotune.cli")


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, in which nothing moves a terminal's cursor."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, or several where a traceback follows."""
        return printable(super().format(record))


def say(text: str, *, level: int = logging.INFO, before: str = "") -> None:
    """The text on stderr, with `before` in front for people. A log of objects has it as a record of that level.

    Where that log itself is on stderr nothing else is printed there, so that every line can be parsed.
    """
    structured = [h for h in logging.getLogger().handlers if getattr(h.formatter, "is_structured", False)]
    if structured:
        _log.log(level, "%s", text)
    if not any(getattr(h, "stream", None) is sys.stderr for h in structured):
        try:
            click.echo(f"{before}{printable(text)}", err=True)
        except OSError:
            pass  # stderr leads to a full disk or to nobody: what is said there is lost, and what follows is not
