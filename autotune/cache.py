"""Content-addressed artifacts on disk: made once, seen whole or not at all, checked before use, shared by processes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from autotune import errors
from autotune.fingerprint import file_digest

MANIFEST = "artifact.json"
"""The file in an artifact's folder that is not the maker's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished folder of files with the `facts` its maker returned. `hit`: it was there already."""

    key: str
    folder: Path
    facts: Mapping[str, Any]
    hit: bool


class Cache:
    """Artifacts under `root/kind/key/`. Any number of processes may use one root; a key is made by one of them at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get_or_make(self, kind: str, key: str, make: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        """The artifact `key`, made by `make(folder)` if it is not there or is damaged.

        `make` fills an empty folder and returns JSON facts. A CandidateRejected that is deterministic is remembered and raised
        again for the same key, and its log, if it names one in the folder, is kept; any other exception leaves nothing behind.
        Files are replaced by rename after an fsync, so a reader never sees half of one, and their digests are compared on every
        hit.
        """
        target = self.root / kind / key
        self._require_folder(target.parent)
        with FileLock(f"{target}.lock"):
            found = self._read(key, target)
            if found is not None:
                return found
            shutil.rmtree(target, ignore_errors=True)
            self._replace(key, target, make)
        made = self._read(key, target)
        if made is None:
            raise errors.EnvironmentProblem(
                f"the artifact {target} was written but cannot be read back.", remedy=f"check the disk that holds {self.root}"
            )
        return Artifact(key=key, folder=target, facts=made.facts, hit=False)

    def renew(self, kind: str, key: str, make: Callable[[Path], Mapping[str, Any]]) -> None:
        """The artifact `key` is what `make(folder)` gives now, whatever it was: for knowledge that grows, such as a part of a
        measurement. Otherwise as `get_or_make`; a kill in the moment of the exchange loses it.
        """
        target = self.root / kind / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            self._replace(key, target, make)

    def find(self, kind: str, key: str) -> Artifact | None:
        """The finished artifact `key`, or None. Raises the CandidateRejected that is remembered for it."""
        target = self.root / kind / key
        if not target.exists():
            return None
        with FileLock(f"{target}.lock"):
            return self._read(key, target)

    def _replace(self, key: str, target: Path, make: Callable[[Path], Mapping[str, Any]]) -> None:
        scratch = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=target.parent))
        try:
            self._fill(scratch, make)
            shutil.rmtree(target, ignore_errors=True)
            scratch.replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def has(self, kind: str, key: str) -> bool:
        """True when the artifact is finished, or known to be impossible."""
        return (self.root / kind / key / MANIFEST).exists()

    def _require_folder(self, folder: Path) -> None:
        """The folder is there and can be written to. Raises EnvironmentProblem where it cannot be."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as exc:
            raise errors.EnvironmentProblem(
                f"the cache {self.root} cannot be written: {exc.strerror or exc} ({folder}).",
                remedy="another folder as `cache:` of the study or in $AUTOTUNE_CACHE, or free space there",
            ) from exc

    def _fill(self, folder: Path, make: Callable[[Path], Mapping[str, Any]]) -> None:
        try:
            manifest: dict[str, Any] = {"facts": dict(make(folder))}
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            manifest["files"] = {p.relative_to(folder).as_posix(): file_digest(p) for p in files}
        except errors.CandidateRejected as exc:
            if not exc.deterministic:
                raise
            _clear(folder, exc.log_path)
            manifest = {"rejected": {"kind": type(exc).__name__, "stage": exc.stage, "message": str(exc)}, "files": {}}
        with (folder / MANIFEST).open("w") as handle:
            json.dump(manifest, handle, indent=1)
            handle.flush()
            os.fsync(handle.fileno())

    def _read(self, key: str, folder: Path) -> Artifact | None:
        """The artifact if it is whole, else None. Raises the remembered CandidateRejected."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if any(file_digest(folder / name) != digest for name, digest in manifest["files"].items()):
                return None
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        if rejected := manifest.get("rejected"):
            kind: type[errors.CandidateRejected] = getattr(errors, rejected["kind"])
            raise kind(rejected["message"], stage=rejected["stage"])
        return Artifact(key=key, folder=folder, facts=manifest["facts"], hit=True)


def _clear(folder: Path, kept: Path | None) -> None:
    """Nothing is in the folder but the file `kept`, if it was there."""
    for path in folder.iterdir():
        if path == kept:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def default_cache_root() -> Path:
    """$AUTOTUNE_CACHE, or the user's cache folder of the platform's convention (XDG)."""
    if explicit := os.environ.get("AUTOTUNE_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autotune"
