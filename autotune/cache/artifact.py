"""Artifact: a finished folder, and the manifest that tells whether it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune import errors
from autotune.cache.names import is_artifact_name, is_digest, is_inside
from autotune.fingerprint import file_digest

MANIFEST = "artifact.json"
"""The file in an artifact's folder that is not the maker's."""
MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished folder of files with the `facts` its maker returned.

    `hit`: it was not made now. `rebuilt`: what was there before was damaged.
    """

    kind: str
    key: str
    folder: Path
    facts: Mapping[str, Any]
    hit: bool
    rebuilt: bool = False

    @property
    def name(self) -> str:
        """What other artifacts and pins call it."""
        return f"{self.kind}/{self.key}"


class Damaged(Exception):
    """The artifact is there and not whole; the message says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an artifact is: its maker's facts or the remembered rejection, its files with their SHA-256, and what it is made of.

    `needs`: names of the artifacts that it is made from.
    """

    files: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    rejected: Mapping[str, str] | None = None
    needs: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The document that `manifest_from_json` reads."""
        said: dict[str, Any] = {"facts": dict(self.facts)} if self.rejected is None else {"rejected": dict(self.rejected)}
        return {**said, "files": dict(self.files), **({"needs": list(self.needs)} if self.needs else {})}

    def raise_if_rejected(self) -> None:
        """Raises the CandidateRejected that is remembered, if one is."""
        if self.rejected is not None:
            kind = getattr(errors, self.rejected["kind"])
            raise kind(self.rejected["message"], stage=self.rejected["stage"])


def manifest_from_json(values: Any) -> Manifest:
    """The manifest in a JSON document of any origin. Raises Damaged where it is none."""
    if not isinstance(values, dict):
        raise Damaged("its manifest is no section of keys")
    files, needs, rejected = values.get("files"), values.get("needs", []), values.get("rejected")
    if not isinstance(files, dict) or not all(_is_file(name) and is_digest(digest) for name, digest in files.items()):
        raise Damaged("its manifest names files that cannot be")
    if not isinstance(needs, list) or not all(map(is_artifact_name, needs)):
        raise Damaged("its manifest needs artifacts that cannot be")
    if rejected is not None:
        return Manifest(files=files, rejected=_rejection(rejected), needs=tuple(needs))
    if not isinstance(values.get("facts"), dict):
        raise Damaged("its manifest has no facts")
    return Manifest(files=files, facts=values["facts"], needs=tuple(needs))


def _is_file(name: object) -> bool:
    return is_inside(name) and name != MANIFEST


def _rejection(values: Any) -> Mapping[str, str]:
    names = ("kind", "stage", "message")
    if not isinstance(values, dict) or not all(isinstance(values.get(name), str) for name in names):
        raise Damaged("its manifest remembers a rejection without kind, stage and message")
    kind = getattr(errors, values["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, errors.CandidateRejected)):
        raise Damaged(f"its manifest remembers {values['kind'][:40]!r}, which is no rejection")
    return {name: values[name] for name in names}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in an artifact's folder, None where there is no such folder. Raises Damaged."""
    try:
        with (folder / MANIFEST).open("rb") as handle:
            content = handle.read(MAX_MANIFEST_BYTES + 1)
        if len(content) > MAX_MANIFEST_BYTES:
            raise Damaged(f"its manifest is larger than {MAX_MANIFEST_BYTES} bytes")
        return manifest_from_json(json.loads(content))
    except FileNotFoundError:
        if not folder.exists():
            return None
        raise Damaged("its manifest is gone") from None
    except (OSError, ValueError, RecursionError) as exc:
        raise Damaged(f"its manifest cannot be read ({exc})") from exc


def require_whole(folder: Path, manifest: Manifest) -> None:
    """Returns when every file is the one that the manifest names. Raises Damaged."""
    for name, digest in manifest.files.items():
        try:
            found = file_digest(folder / name)
        except OSError as exc:
            raise Damaged(f"its file {name} cannot be read ({exc.strerror or exc})") from exc
        if found != digest:
            raise Damaged(f"its file {name} is not the one that was made (SHA-256 {found[:12]}…, not {digest[:12]}…)")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The manifest is in the folder, and with everything else in it on the disk. Raises OSError."""
    (folder / MANIFEST).write_text(json.dumps(manifest.as_json(), indent=1))
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """The file's content, or the folder's list of names, is on the disk."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digests_of(folder: Path) -> dict[str, str]:
    """Relative POSIX path → SHA-256 of every file below the folder, the manifest apart."""
    files: Iterable[Path] = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
