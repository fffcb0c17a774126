"""A bundle from anywhere is looked at without running it, and refused unless every file is the one that its manifest names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing.corpus import bundle_files

from autotune.errors import ExportError
from autotune.export.reader import open_bundle


def written(folder: Path) -> Path:
    for name, content in bundle_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))


def test_a_whole_bundle_opens(tmp_path: Path) -> None:
    """Candidate, settings and evidence are the manifest's; files that it does not list are named."""
    folder = written(tmp_path / "b")
    (folder / "numpy.py").write_text("")
    bundle = open_bundle(folder)
    assert (bundle.target, bundle.candidate.batch_size, bundle.evidence["accuracy"].value) == ("onnxruntime", 4, 0.75)
    assert bundle.unlisted == ("numpy.py",) and set(bundle.files) == set(bundle_files()) - {"manifest.json"}


BROKEN: dict[str, Callable[[Path], object]] = {
    "changed": lambda f: (f / "run.py").write_text("evil()"),
    "missing": lambda f: (f / "run.py").unlink(),
    "a link out": lambda f: ((f / "run.py").unlink(), (f / "run.py").symlink_to("/etc/hostname")),
    "a linked manifest": lambda f: ((f / "m").write_bytes((f / "manifest.json").read_bytes()), (f / "manifest.json").unlink(),
                                    (f / "manifest.json").symlink_to("m")),
    "a path out": lambda f: edit(f, lambda d: d["files"].update({"../x": "0" * 64})),
    "an absolute path": lambda f: edit(f, lambda d: d["files"].update({"/etc/hostname": "0" * 64})),
    "no digest": lambda f: edit(f, lambda d: d["files"].update({"run.py": "x"})),
    "no files": lambda f: edit(f, lambda d: d.update(files={})),
    "another format": lambda f: edit(f, lambda d: d.update(format=2)),
    "true as format": lambda f: edit(f, lambda d: d.update(format=True)),
    "no target": lambda f: edit(f, lambda d: d.pop("target")),
    "an unknown knob": lambda f: edit(f, lambda d: d["trial"]["candidate"].update(x=1)),
    "a knob of another type": lambda f: edit(f, lambda d: d["trial"]["candidate"].update(batch_size="4")),
    "too few knobs": lambda f: edit(f, lambda d: d["trial"]["candidate"].pop("engine")),
    "an estimate without end": lambda f: edit(f, lambda d: d["trial"]["accuracy"].update(high=float("inf"))),
    "an estimate that is a number": lambda f: edit(f, lambda d: d["trial"].update(accuracy=0.5)),
    "deep JSON": lambda f: (f / "manifest.json").write_text("[" * 200_000),
    "no JSON": lambda f: (f / "manifest.json").write_text("{"),
    "a list": lambda f: (f / "manifest.json").write_text("[]"),
    "too large": lambda f: (f / "manifest.json").write_text(" " * (5 << 20)),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_anything_else_is_refused_with_its_folder(name: str, tmp_path: Path) -> None:
    """Exit code 5, and the words say which bundle."""
    folder = written(tmp_path / "b")
    BROKEN[name](folder)
    with pytest.raises(ExportError, match=str(folder)) as caught:
        open_bundle(folder)
    assert caught.value.exit_code == 5


def test_no_bundle_at_all(tmp_path: Path) -> None:
    """A folder without a manifest, and no folder."""
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ExportError, match="holds no manifest"):
            open_bundle(folder)
