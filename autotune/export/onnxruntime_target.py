"""The target `onnxruntime`: the variant's ONNX file, the session's settings, and a script that runs it on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from autotune.errors import ExportError
from autotune.export.bundle import BundleSource


def export(source: BundleSource, folder: Path) -> None:
    """model.onnx, settings.json and run.py. The graph is portable; ONNX Runtime optimizes it where it runs."""
    engine = source.record.candidate.engine
    if engine != "onnxruntime":
        raise ExportError(f"trial {source.record.number} was measured on {engine}; export it with --target {engine}")
    shutil.copyfile(source.materials.variant.path, folder / "model.onnx")
    (folder / "settings.json").write_text(
        json.dumps({"batch_size": source.record.candidate.batch_size, **source.settings}, indent=2) + "\n"
    )
    shutil.copyfile(Path(__file__).with_name("run_onnxruntime.py"), folder / "run.py")
