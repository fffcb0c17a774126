"""The target `openvino`: IR with a static batch, the properties of compile_model, and a script that runs it on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from autotune.errors import ExportError
from autotune.export.bundle import BundleSource


def export(source: BundleSource, folder: Path) -> None:
    """model.xml with model.bin, settings.json and run.py."""
    engine = source.record.candidate.engine
    if engine != "openvino":
        raise ExportError(f"trial {source.record.number} was measured on {engine}; export it with --target {engine}")
    for name in ("model.xml", "model.bin"):
        shutil.copyfile(source.materials.engine.folder / name, folder / name)
    (folder / "settings.json").write_text(
        json.dumps({"batch_size": source.record.candidate.batch_size, **source.settings}, indent=2) + "\n"
    )
    shutil.copyfile(Path(__file__).with_name("run_openvino.py"), folder / "run.py")
