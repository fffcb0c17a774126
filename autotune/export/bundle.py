"""export_bundle: a folder that a deployment starts from, complete or not there at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from autotune import __version__
from autotune.errors import ExportError, SpecError
from autotune.export.readme import FILE as README
from autotune.export.readme import readme
from autotune.fingerprint import file_digest
from autotune.records import TrialRecord
from autotune.registry import EXPORTERS
from autotune.trial.materialize import Materials

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """What a target may take from: the trial's record, its files, and the engine's own names for the settings.

    `instructions`: of the CPU that measured it, where they are known.
    """

    record: TrialRecord
    materials: Materials
    settings: Mapping[str, Any]
    preprocess: Mapping[str, Any] | None
    instructions: tuple[str, ...] = ()


Exporter = Callable[[BundleSource, Path], None]
"""Writes a target's files into an empty folder; raises ExportError where the trial does not fit the target."""


def export_bundle(source: BundleSource, target: str, out: Path) -> Path:
    """The finished bundle's folder `out`, which must not exist or be empty.

    A README.md says what it is and how to run it. Its manifest holds the SHA-256 of every other file, the candidate, the
    measured numbers with their intervals, the device and the versions. Raises ExportError or SpecError; then `out`
    is as it was.
    """
    if target not in EXPORTERS.names():
        raise SpecError(f"--target {target}: allowed: {', '.join(EXPORTERS.names())}")
    if source.record.state != "complete":
        raise ExportError(f"trial {source.record.number} is {source.record.state}; only a complete trial can be exported")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} is there already and not empty; name a new folder with --out")
    _require_same_model(source)
    exporter = cast(Exporter, EXPORTERS.load(target))
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        exporter(source, scratch)
        present = sorted(p.relative_to(scratch).as_posix() for p in scratch.rglob("*") if p.is_file())
        (scratch / README).write_text(readme(source, target, present), encoding="utf-8")
        (scratch / MANIFEST).write_text(json.dumps(_manifest(source, target, scratch), indent=2) + "\n")
        scratch.chmod(0o755)
        if out.exists():
            out.rmdir()
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def _require_same_model(source: BundleSource) -> None:
    """Returns when the files are those that were measured. Raises ExportError where making them again gave others."""
    then, now = source.record.variant, source.materials.variant
    if then is not None and then.key != now.key:
        raise ExportError(
            f"trial {source.record.number} was measured on the variant {then.key}, and what was made again is {now.key}: the "
            "model, the data or a library changed since. Measure it again: autotune start STUDY.yaml"
        )


def _manifest(source: BundleSource, target: str, folder: Path) -> dict[str, Any]:
    record = source.record
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    keep = ("number", "candidate", "metric", "accuracy", "accuracy_drop", "throughput_items_per_s", "throughput_one_run",
            "repetitions", "regime", "latency_ms", "latency_one_run_ms", "energy_j_per_item", "energy_one_run_j_per_item",
            "peak_memory_mib", "variant", "device", "versions", "flags", "finished_at")  # fmt: skip
    document = record.as_json()
    return {
        "format": FORMAT,
        "autotune": __version__,
        "target": target,
        "trial": {name: document[name] for name in keep},
        "instructions": list(source.instructions),
        "settings": dict(source.settings),
        "preprocess": source.preprocess,
        "files": files,
    }
