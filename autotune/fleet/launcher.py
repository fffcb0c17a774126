"""The seam between a fleet and what places its workers: a Launcher starts one process for each WorkerOrder, here or elsewhere.

Every worker is the same command, `autotune worker STUDY.yaml --device D`; a launcher only says where. Which trial is whose is
between the workers and their database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

LOST = -9
"""The exit code of a worker whose host or supervisor vanished: as if it had been killed."""
SLOT = "{slot}"
"""Stands in a worker's words for the number of the device that the launcher gave it, where only the launcher knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder:
    """A worker that is wanted. `words`: what follows `autotune` on its command line. `log_path`: where its output goes."""

    name: str
    device: str
    words: tuple[str, ...]
    log_path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRequest:
    """What a launcher is given. `devices`: those of the study file. `workers`: how many are wanted, None for one per device.

    `options`: those of the study and of the command, handed on to every worker. `environment`: variables that a worker gets
    in addition, among them what must not stand on a command line. `one_host_only`: why the workers must all be on one host,
    empty where they need not. `settings`: the launcher's own, by name. `append`: puts a piece of a log that a launcher gathers
    at the end of its file, which it keeps from growing for ever.
    """

    study_file: Path
    devices: tuple[str, ...]
    workers: int | None
    log_folder: Path
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    one_host_only: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    note: Callable[[str], None] = lambda text: None
    append: Callable[[Path, bytes], None]


class PlacedWorker(Protocol):
    """One worker that was started, or waits for a device."""

    @property
    def where(self) -> str:
        """Process, host and device, for people."""
        ...

    def exit_code(self) -> int | None:
        """None while it runs or waits; negative where a signal ended it. What it printed is in its log by the next call."""
        ...

    def ask_to_stop(self) -> None:
        """It finishes or puts back its trial, then ends. Safe to call when it is over."""
        ...

    def kill(self) -> None:
        """It ends at once. Safe to call when it is over."""
        ...


class Launcher(Protocol):
    """Places workers; used from one thread, as a context manager that leaves nothing running."""

    def orders(self) -> tuple[WorkerOrder, ...]:
        """The workers that the request comes to here. Raises EnvironmentProblem where there is no device, SpecError."""
        ...

    def place(self, order: WorkerOrder) -> PlacedWorker:
        """The worker is started or waits for its device; the same order may be placed again when it died."""
        ...

    def __enter__(self) -> Launcher: ...

    def __exit__(self, *details: object) -> None: ...


def orders_for(request: FleetRequest, devices: tuple[str, ...]) -> tuple[WorkerOrder, ...]:
    """One order for each of `devices`, numbered from 1."""
    made = []
    for i, device in enumerate(devices, start=1):
        words = ("worker", str(request.study_file), "--device", device, *request.options)
        made.append(
            WorkerOrder(
                name=f"worker-{i}",
                device=device.replace(SLOT, "N"),
                words=words,
                log_path=request.log_folder / f"worker-{i}.log",
            )
        )
    return tuple(made)
