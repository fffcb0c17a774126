"""open_bundle: a bundle from anywhere, looked at without running any of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.cache.names import is_digest, is_inside
from autotune.candidate import KNOBS, Candidate
from autotune.errors import ExportError
from autotune.export.bundle import FORMAT, MANIFEST
from autotune.fingerprint import file_digest
from autotune.records import Estimate

MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 1000
_SECTIONS = ("trial", "settings", "files")
_ESTIMATES = ("accuracy", "accuracy_drop", "throughput_items_per_s", "energy_j_per_item")
_AGAIN = "copy the bundle again, or export it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBundle:
    """A bundle whose files are those that its manifest names. `unlisted`: files beside them, which nothing vouches for."""

    folder: Path
    target: str
    candidate: Candidate
    evidence: Mapping[str, Estimate]
    settings: Mapping[str, Any]
    preprocess: Mapping[str, Any] | None
    files: Mapping[str, str]
    unlisted: tuple[str, ...] = ()


def open_bundle(folder: Path) -> OpenBundle:
    """The bundle in the folder. Nothing in it is executed or unpickled, and no file outside it is read.

    Raises ExportError where the manifest is not one that this version writes, a file is missing, leads out of the folder or is
    not the one that was exported.
    """
    values = _manifest(folder)
    files = _listed(folder, values["files"])
    for name, digest in files.items():
        _require_same(folder, name, digest)
    trial = values["trial"]
    candidate = _candidate(folder, trial.get("candidate"))
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()}
    return OpenBundle(
        folder=folder,
        target=values["target"],
        candidate=candidate,
        evidence={name: found for name in _ESTIMATES if (found := _estimate(folder, name, trial.get(name))) is not None},
        settings=values["settings"],
        preprocess=values.get("preprocess"),
        files=files,
        unlisted=tuple(sorted(present - set(files) - {MANIFEST})),
    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        if path.is_symlink() or not path.is_file():
            raise ExportError(f"{folder} holds no {MANIFEST}; a bundle is a folder that `autotune export` wrote.")
        with path.open("rb") as handle:
            content = handle.read(MAX_MANIFEST_BYTES + 1)
        if len(content) > MAX_MANIFEST_BYTES:
            raise _wrong(folder, f"more than {MAX_MANIFEST_BYTES >> 20} MiB")
        values = json.loads(content)
    except (OSError, ValueError, RecursionError) as exc:
        raise _wrong(folder, f"no JSON that can be read ({exc})") from exc
    if not isinstance(values, dict) or values.get("format") != FORMAT or isinstance(values.get("format"), bool):
        found = values.get("format") if isinstance(values, dict) else None
        raise ExportError(
            f"{path}: found the format {str(found)[:40]}; allowed: {FORMAT}. Export the bundle again with this version."
        )
    for name in _SECTIONS:
        if not isinstance(values.get(name), dict):
            raise _wrong(folder, f"no section {name}")
    if not isinstance(values.get("target"), str):
        raise _wrong(folder, "no target")
    if values.get("preprocess") is not None and not isinstance(values["preprocess"], dict):
        raise _wrong(folder, "a preprocess that is no section")
    return values


def _candidate(folder: Path, values: Any) -> Candidate:
    kinds = {"choice": str, "int": int, "float": int | float}
    known = isinstance(values, dict) and set(values) <= set(KNOBS)
    if not known or any(v is not None and not isinstance(v, kinds[KNOBS[name].kind]) for name, v in values.items()):
        raise _wrong(folder, "a candidate with knobs that this version does not know, or values that are none of theirs")
    try:
        return Candidate.from_json(values)
    except TypeError as exc:
        raise _wrong(folder, f"a candidate that lacks knobs ({exc})") from exc


def _listed(folder: Path, files: Mapping[str, Any]) -> dict[str, str]:
    if not 0 < len(files) <= MAX_FILES:
        raise _wrong(folder, f"{len(files)} files; a bundle has 1 to {MAX_FILES}")
    for name, digest in files.items():
        if not is_inside(name) or name == MANIFEST or not is_digest(digest):
            raise _wrong(folder, f"the file {name[:100]!r}, which is not a path inside the bundle with a SHA-256")
    return dict(files)


def _require_same(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        if not inside or path.is_symlink() or not path.is_file():
            raise ExportError(f"{folder}: the file {name} is missing, a link or leads out of the bundle; {_AGAIN}.")
        found = file_digest(path)
    except (OSError, RuntimeError, ValueError) as exc:
        raise ExportError(f"{folder}: the file {name} cannot be read ({exc}); {_AGAIN}.") from exc
    if found != digest:
        raise ExportError(f"{folder}: the file {name} is not the one that was exported; {_AGAIN}.")


def _estimate(folder: Path, name: str, values: Any) -> Estimate | None:
    if values is None:
        return None
    numbers = [values.get(k) for k in ("value", "low", "high")] if isinstance(values, dict) else []
    ordinary = numbers and all(_is_number(n) for n in numbers) and isinstance(values.get("n"), int)
    if not ordinary or set(values) != {"value", "low", "high", "n", "method"} or not isinstance(values["method"], str):
        raise _wrong(folder, f"a trial whose {name} is no estimate")
    return Estimate(**values)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _wrong(folder: Path, found: str) -> ExportError:
    return ExportError(f"{folder / MANIFEST}: found {found}; allowed: a manifest as `autotune export` writes it. {_AGAIN}.")
