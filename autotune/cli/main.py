"""`autotune`: the commands, and what an error means to the shell."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from autotune import __version__
from autotune.cli.saying import TextFormatter, say
from autotune.errors import AutotuneError, EnvironmentProblem

_COMMANDS = {
    "init": ("study_commands", "Write a commented study.yaml for a model."),
    "start": ("study_commands", "Run a study, or resume it to its target."),
    "worker": ("study_commands", "One more worker for a running study."),
    "bench": ("study_commands", "Measure one candidate without searching."),
    "sweep": ("sweep_commands", "Measure every point of a study's space, for `simulate`."),
    "simulate": ("sweep_commands", "Compare search strategies on a recorded sweep."),
    "status": ("query_commands", "What runs, how far, best so far."),
    "pause": ("control_commands", "Let a study's workers wait, on all hosts and across restarts."),
    "resume": ("control_commands", "Let a paused study go on."),
    "stop": ("control_commands", "Ask a study's workers to finish their trial and leave."),
    "logs": ("log_command", "The log of a study that runs without a terminal."),
    "front": ("query_commands", "The Pareto front with intervals."),
    "best": ("query_commands", "The best configuration under the constraints."),
    "compare": ("compare_command", "Kinds of devices side by side: throughput, energy, cost."),
    "show": ("query_commands", "Everything known of one trial."),
    "explain": ("explain_command", "Why a trial takes the time it takes, alone or against another."),
    "trials": ("query_commands", "All trials, rejected ones with their reasons."),
    "importances": ("importance_commands", "What each knob contributed, and what its default would cost."),
    "calibration": ("calibration_command", "How much a trial's accuracy owes to its calibration samples."),
    "report": ("deliver_commands", "A page, or a picture, of the front and all beside it."),
    "export": ("deliver_commands", "Write a deployment bundle."),
    "dashboard": ("deliver_commands", "Serve optuna-dashboard for a study on loopback."),
    "cache": ("cache_commands", "What the cache holds and may take; `cache clean` makes room."),
    "metrics": ("metrics_command", "Serve a study's progress for Prometheus."),
    "manifest": ("manifest_command", "What makes systemd, Kubernetes or Slurm start a study."),
    "doctor": ("machine_commands", "What this machine can do, and the fix for each gap."),
    "schema": ("machine_commands", "The JSON schema of study.yaml."),
    "presets": ("machine_commands", "The search spaces that studies can extend."),
    "db": ("machine_commands", "Look after the database."),
}
INTERRUPTED = 130
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _Lazy(click.Group):
    """A group whose commands are imported when they are run, so that help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"autotune.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="autotune")
@click.option("-v", "--verbose", count=True, help="Log more to stderr; twice for everything.")
def cli(verbose: int) -> None:
    """Finds out how a trained deep-learning model is best deployed on the device at hand."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    for talkative in ("alembic", "sqlalchemy", "optuna", "torch", "onnxscript"):
        logging.getLogger(talkative).setLevel(max(level, logging.WARNING))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0 done, 2 wrong input, 3 machine, 4 database, 5 bundle, 130 interrupted."""
    try:
        code: Any = cli.main(list(arguments) if arguments is not None else None, standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; what was measured is kept", level=logging.WARNING, before="autotune: ")
        sys.exit(INTERRUPTED)
    except click.ClickException as exc:
        exc.show()
        sys.exit(2)
    except AutotuneError as exc:
        say(str(exc), level=logging.ERROR, before="autotune: ")
        sys.exit(exc.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does.
        _discard_output()
        sys.exit(0)
    except OSError as exc:
        if exc.errno not in _UNWRITABLE:
            raise
        say(f"cannot write the output: {exc.strerror}", level=logging.ERROR, before="autotune: ")
        _discard_output()
        sys.exit(EnvironmentProblem.exit_code)


def _discard_output() -> None:
    """Python would complain again while it flushes stdout at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
