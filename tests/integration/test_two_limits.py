"""Two studies on one cache: what the first stopped early, the second goes on with under its looser limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from assets import fake_study as fake


def study(folder: Path, limit: str) -> list[dict[str, Any]]:
    """The trials of a study of eight trials with this limit, and the front's."""
    cache = ("cache: cache", f"cache: {folder.parent / 'cache'}")
    fake.write_study(folder, ("accuracy_drop: 0.05", f"accuracy_drop: {limit}"), ("trials: 12", "trials: 8"), cache)
    fake.autotune(folder, "start", "study.yaml")
    trials: list[dict[str, Any]] = json.loads(fake.autotune(folder, "trials", "study.yaml", "--json").stdout)
    front = json.loads(fake.autotune(folder, "front", "study.yaml", "--json").stdout)
    assert front["front"] and all(t["accuracy"]["n"] == fake.N_SAMPLES for t in front["front"]), "the front has all samples"
    return trials


def test_a_second_study_goes_on_from_the_part(tmp_path: Path) -> None:
    """int8-tensor (0.5 under the reference) is stopped at a limit of 0.05 and measured on all 200 samples at one of 0.6."""
    pytest.importorskip("onnxruntime", reason="int8 variants are made with onnxruntime")
    strict = [t for t in study(tmp_path / "strict", "0.05") if t["candidate"]["precision"] == "int8-tensor"]
    assert strict and all(t["state"] == "rejected" and "accuracy_stopped_early" in t["flags"] for t in strict)
    assert len({t["accuracy_drop"]["n"] for t in strict}) == 1 and strict[0]["accuracy_drop"]["n"] < fake.N_SAMPLES
    assert all("accuracy" in t["cached"] for t in strict[1:]), (
        "every further setting of the variant is rejected on what is known"
    )
    kept = tmp_path / "cache" / "accuracy-part"
    assert len([p for p in kept.iterdir() if p.is_dir()]) == 1

    loose = [t for t in study(tmp_path / "loose", "0.6") if t["candidate"]["precision"] == "int8-tensor"]
    assert loose and all(t["state"] == "complete" for t in loose)
    assert all((t["accuracy"]["value"], t["accuracy"]["n"]) == (pytest.approx(0.4), fake.N_SAMPLES) for t in loose)
    assert "accuracy" not in loose[0]["cached"] and all(t["agreement"]["top1"]["value"] == pytest.approx(0.5) for t in loose)
