"""What every scheduler's manifest must know of a study: which workers it comes to, and how they learn of the database."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from autotune.errors import SpecError
from autotune.fleet.manifests import ManifestRequest
from autotune.redact import url_without_secrets
from autotune.spec.model import StudySpec

STORAGE_VARIABLE = "AUTOTUNE_STORAGE"
STORAGE_FROM_ENVIRONMENT = ("--storage", f"env:{STORAGE_VARIABLE}")
"""The database's URL comes from the environment: it may hold a password, and process lists and manifests are read by many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGroup:
    """Workers that are alike. `device`: what each calls its device; a scheduler shows it one GPU only, which is the first."""

    device: str
    n_workers: int

    @property
    def needs_gpu(self) -> bool:
        """True where each worker gets a GPU of its own. `auto` is asked of a scheduler for the sake of its GPUs."""
        return self.device in ("auto", "cuda:0")

    @property
    def kind(self) -> str:
        """The kind of device in one word."""
        return "gpu" if self.needs_gpu else self.device.partition(":")[0]


def worker_groups(request: ManifestRequest, spec: StudySpec) -> tuple[WorkerGroup, ...]:
    """The workers of the request by kind of device: so many per device, of the study file's devices where none are given."""
    devices = request.devices or spec.devices or (spec.device,)
    words = [{"cuda": "cuda:0", "fake": "fake:0"}.get(kind, kind) for kind in (d.partition(":")[0] for d in devices)]
    if len(set(words)) > 1 and spec.device_kinds == "one":
        raise SpecError(
            f"devices {', '.join(devices)} are of several kinds; a study holds one kind of device. "
            "Allowed: devices of one kind, or device_kinds: several in the study file, which keeps kinds apart"
        )
    return tuple(WorkerGroup(device=word, n_workers=n * request.workers) for word, n in Counter(words).items())


def shared_storage(request: ManifestRequest, spec: StudySpec, groups: tuple[WorkerGroup, ...]) -> str:
    """The database's URL. Raises SpecError where several workers, perhaps on several hosts, would share a file."""
    url = request.storage or spec.storage
    n = sum(group.n_workers for group in groups)
    if url.startswith("sqlite") and n > 1:
        raise SpecError(
            f"{n} workers on hosts that a scheduler chooses, and the database is the file of one host ({url}): SQLite's locks "
            "do not hold over network file systems. Allowed: --storage postgresql+psycopg://USER@HOST/DATABASE, or one worker"
        )
    return url


def has_password(url: str) -> bool:
    """True where the URL must be kept out of what is written: it has a password, or what may be one."""
    return url_without_secrets(url) != url
