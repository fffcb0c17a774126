"""Pins: what a study's front and reference were measured with, written into the cache itself.

They are files beside the artifacts, so that whoever makes room needs no database to know what must stay.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autotune.cache.artifact import Damaged, read_manifest, sync
from autotune.cache.disk import telling_disk_faults
from autotune.cache.inventory import PINS
from autotune.cache.names import is_artifact_name
from autotune.errors import EnvironmentProblem
from autotune.fingerprint import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A study and the artifacts that it keeps. `storage`: its database, without a password."""

    study: str
    storage: str
    artifacts: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """The study's name is a part of it for people; the digest tells equal names in two databases apart."""
        return f"{self.study}-{digest_of([self.storage, self.study])[:12]}.json"


def set_pin(root: Path, pin: Pin) -> None:
    """The study keeps these artifacts in the cache, and no others. Raises DiskFull, OSError."""
    path = root / PINS / pin.file_name
    text = json.dumps({"study": pin.study, "storage": pin.storage, "artifacts": sorted(set(pin.artifacts))}, indent=1) + "\n"
    with telling_disk_faults(path.parent):
        with suppress(OSError, ValueError):
            if path.read_text() == text:
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".pin-")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
            sync(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def pins(root: Path) -> list[Pin]:
    """Every study's pin. Raises EnvironmentProblem where one cannot be read: then nobody knows what may go."""
    found = []
    for path in sorted((root / PINS).glob("[!.]*.json")):
        try:
            values = json.loads(path.read_text())
            artifacts = values["artifacts"]
            if not isinstance(artifacts, list) or not all(map(is_artifact_name, artifacts)):
                raise ValueError("names that are none of artifacts")
            found.append(Pin(study=str(values["study"]), storage=str(values["storage"]), artifacts=tuple(artifacts)))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
            raise EnvironmentProblem(
                f"the pin {path} cannot be read ({exc}), so nothing is removed from the cache.",
                remedy="remove that file, then start the study once more, which writes it anew",
            ) from exc
    return found


def unpin(root: Path, study: str) -> int:
    """No study of that name, in whatever database, keeps artifacts here; how many there were."""
    gone = [pin for pin in pins(root) if pin.study == study]
    for pin in gone:
        (root / PINS / pin.file_name).unlink(missing_ok=True)
    return len(gone)


def pinned(root: Path, found: Iterable[Pin]) -> Mapping[str, tuple[str, ...]]:
    """Artifact's name → the studies that keep it, each with all that it was made from."""
    kept: dict[str, dict[str, None]] = {}
    for pin in found:
        waiting, seen = list(pin.artifacts), set[str]()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                kept.setdefault(name, {})[pin.study] = None
                waiting += _needs(root / name)
    return {name: tuple(studies) for name, studies in kept.items()}


def _needs(folder: Path) -> tuple[str, ...]:
    try:
        manifest = read_manifest(folder)
    except Damaged:
        return ()
    return () if manifest is None else manifest.needs
