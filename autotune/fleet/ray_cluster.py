"""The launcher `ray`: one worker per GPU over a Ray cluster, a running one or one that is started here and ends with the fleet.

Ray only places processes: an actor that holds one GPU starts `autotune worker` beside itself. What a worker that died was
measuring is put back through the database, as everywhere; so Ray's own retries stay off, and the fleet's supervisor decides.
"""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path
from typing import Any, Self

from autotune.errors import EnvironmentProblem, SpecError
from autotune.fleet.launcher import LOST, SLOT, FleetRequest, PlacedWorker, WorkerOrder, orders_for
from autotune.fleet.ray_host import WorkerHost

_ON_LOOPBACK = "127.0.0.1"
_GPU = "GPU"
_TOKEN = (
    "; a cluster that asks for a token answers only with RAY_AUTH_MODE=token in the environment, and its token in "
    "~/.ray/auth_token or RAY_AUTH_TOKEN"
)
"""Without the mode Ray sends no token, even where there is one, and says only that it could not connect (2.60)."""


def ray_launcher(request: FleetRequest) -> RayLauncher:
    """The launcher, connected. Raises EnvironmentProblem where Ray is missing, or the cluster cannot be reached."""
    return RayLauncher(request)


class RayLauncher:
    """Settings: `address` of a running cluster ("auto": the one on this host); else a cluster is started here, on loopback.

    `gpus`: how many GPUs a started one is to have, for hosts on which Ray finds none. `resource`: what stands for a device
    in place of a GPU; the cluster's nodes declare it (`ray start --resources`).
    """

    def __init__(self, request: FleetRequest) -> None:
        self._request = request
        self._resource = request.settings.get("resource") or _GPU
        self._ray = _connected(request, self._resource)
        self._placed: list[_ActorWorker] = []
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        if len(nodes) > 1 and request.one_host_only:
            self._ray.shutdown()
            raise SpecError(f"--launcher ray: the cluster has {len(nodes)} hosts, and {request.one_host_only}")

    def orders(self) -> tuple[WorkerOrder, ...]:
        """One worker per device of the cluster, or as many as were asked for; those that find none free wait for one."""
        there = int(self._ray.cluster_resources().get(self._resource, 0))
        n = self._request.workers or there
        if there == 0:
            raise EnvironmentProblem(
                f"the Ray cluster has no {self._resource}.",
                remedy="a cluster with GPUs; on hosts without, --ray-gpus N where it is started here (elsewhere `ray start "
                "--num-gpus N`), or --ray-resource NAME",
            )
        if n > there:
            self._request.note(f"{n} workers are wanted and the cluster has {there} × {self._resource}: the others wait")
        return orders_for(self._request, (_device_word(self._request.devices[0]),) * n)

    def place(self, order: WorkerOrder) -> PlacedWorker:
        """An actor for the worker is asked for; it begins when Ray has a device for it."""
        order.log_path.parent.mkdir(parents=True, exist_ok=True)
        wanted: dict[str, Any] = {"num_gpus": 1} if self._resource == _GPU else {"resources": {self._resource: 1}}
        made = self._ray.remote(_Host).options(**wanted, num_cpus=0, max_restarts=0, max_task_retries=0).remote()
        placed = _ActorWorker(self._ray, made, order, self._request)
        self._placed.append(placed)
        return placed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        for worker in self._placed:
            worker.kill()
        self._ray.shutdown()


def _device_word(device: str) -> str:
    """What a worker calls its device. Ray shows a process its own GPU only, which is then the first."""
    kind = device.partition(":")[0]
    return {"cuda": "cuda:0", "fake": f"fake:{SLOT}"}.get(kind, kind)


class _Host(WorkerHost):
    """The actor's class: knows from Ray which device it was given."""

    def begin(self, words: tuple[str, ...], environment: dict[str, str], number: str) -> tuple[str, int, str]:
        """The worker runs; its host, process id and the device's number on that host (`number` where Ray numbers none)."""
        import ray

        slots = ray.get_gpu_ids()
        slot = str(slots[0]) if slots else number
        return (*self.start(words, environment, slot), slot)


class _ActorWorker:
    """A worker beside its actor. The driver hears of it by answers that it has asked for and never waits long for."""

    def __init__(self, ray: Any, actor: Any, order: WorkerOrder, request: FleetRequest) -> None:
        self._ray, self._actor, self._order = ray, actor, order
        self._where, self._offset = "waits for a device", 0
        self._code: int | None = None
        self._stop = 0
        self._note, self._append = request.note, request.append
        number = order.name.rpartition("-")[2]
        self._asked = actor.begin.remote(order.words, dict(request.environment), str(int(number) - 1))
        self._begun = False

    @property
    def where(self) -> str:
        """Process, host and device; that it waits, until it has one."""
        return self._where

    def exit_code(self) -> int | None:
        """None while it runs or waits; LOST when the actor or its host died."""
        if self._code is not None:
            return self._code
        ready, _ = self._ray.wait([self._asked], timeout=0)
        if not ready:
            return None
        try:
            answer = self._ray.get(ready[0])
        except self._ray.exceptions.RayActorError:
            self._code = LOST
            return self._code
        self._hear(answer)
        if self._code is None:
            self._asked = self._actor.look.remote(self._offset)
        return self._code

    def _hear(self, answer: tuple[Any, ...]) -> None:
        if not self._begun:
            host, pid, slot = answer
            self._begun, self._where = True, f"process {pid} on {host}, device {slot}"
            self._note(f"{self._order.name}: {self._where}")
            return
        code, text = answer
        if text:
            self._append(self._order.log_path, text)
            self._offset += len(text)
        elif code is not None:  # only when all of its log is here
            self._code = int(code)
            self._ray.kill(self._actor)

    def ask_to_stop(self) -> None:
        """SIGTERM to the worker; one that still waits for a device is given up."""
        if self._code is not None:
            return
        if self._begun:
            self._actor.send.remote(signal.SIGTERM)
        else:
            self.kill()

    def kill(self) -> None:
        """The actor is killed, and the kernel kills the worker with it."""
        if self._code is None:
            self._ray.kill(self._actor)
            self._code = LOST


def _connected(request: FleetRequest, resource: str) -> Any:
    """The module ray, connected to the cluster. Its usage reports are off; one that is started here has no dashboard."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without a GPU of Ray's, CUDA_VISIBLE_DEVICES stays
    address = request.settings.get("address")
    if not address:
        # Its processes listen on every interface whatever address it is given (2.60), so they ask for a token. Ray reads these
        # when it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as exc:
        raise EnvironmentProblem("--launcher ray: Ray is not installed.", remedy="pip install 'autotune[ray]'") from exc
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            gpus = request.settings.get("gpus")
            more = {"num_gpus": int(gpus)} if gpus else {}
            named = {} if resource == _GPU else {"resources": {resource: request.workers or len(request.devices)}}
            ray.init(address="local", include_dashboard=False, _node_ip_address=_ON_LOOPBACK, **more, **named, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as exc:
        where = f"at {address}" if address else "on this host"
        remedy = f"ray status, log: {_logs()}{_TOKEN if address else ''}"
        raise EnvironmentProblem(f"--launcher ray: no Ray cluster {where}: {exc}", remedy=remedy) from exc
    return ray


def _logs() -> Path:
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "session_latest" / "logs"
