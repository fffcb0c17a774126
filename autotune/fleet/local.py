"""The launcher `local`: workers as processes of this host, one on each device that the study names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Self

from autotune.fleet.launcher import FleetRequest, PlacedWorker, WorkerOrder, orders_for


class LocalProcess:
    """A worker in a session of its own: Ctrl-C on the terminal reaches the fleet, which passes it on once and not twice."""

    def __init__(self, order: WorkerOrder, environment: Mapping[str, str]) -> None:
        # The worker rotates the file by itself; here is what it prints until its log is set up, and what goes past that.
        command = [sys.executable, "-m", "autotune.cli.main", *order.words, "--log-file", str(order.log_path)]
        with order.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    @property
    def where(self) -> str:
        """The process's id."""
        return f"process {self._process.pid}"

    def exit_code(self) -> int | None:
        """As Popen.poll."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; the kernel kills the trial's process with it."""
        self._process.kill()


class LocalLauncher:
    """Workers on this host. With more workers than devices, several take turns on one."""

    def __init__(self, request: FleetRequest) -> None:
        self._request = request
        self._placed: list[PlacedWorker] = []

    def orders(self) -> tuple[WorkerOrder, ...]:
        """One worker per device of the study, or as many as were asked for, dealt out in turn."""
        devices = self._request.devices
        n = self._request.workers or len(devices)
        return orders_for(self._request, tuple(devices[i % len(devices)] for i in range(n)))

    def place(self, order: WorkerOrder) -> PlacedWorker:
        """The worker's process has been started."""
        order.log_path.parent.mkdir(parents=True, exist_ok=True)
        placed = LocalProcess(order, self._request.environment)
        self._placed.append(placed)
        return placed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        for worker in self._placed:
            if worker.exit_code() is None:
                worker.kill()


def local_launcher(request: FleetRequest) -> LocalLauncher:
    """The launcher; starts nothing yet."""
    return LocalLauncher(request)
