"""Samples that judge a candidate and taught it as well are counted and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fuzzing.corpus import STUDIES, write_good

from autotune.cache import Cache
from autotune.data.study_data import StudyData, load_study_data
from autotune.spec.check import check_model, model_notes
from autotune.spec.load import load_spec


def loaded(folder: Path, text: str = STUDIES[0]) -> StudyData:
    (folder / "study.yaml").write_text(text)
    spec = load_spec(folder / "study.yaml")
    return load_study_data(spec, check_model(spec), Cache(folder / "cache"))


def test_shared_samples_are_counted(tmp_path: Path) -> None:
    """By content: three validation samples, one of them twice, are among the calibration samples in another order."""
    write_good(tmp_path)
    with np.load(tmp_path / "val.npz") as val:
        x = np.concatenate([val["x"][:5], val["x"][:1]])
        np.savez(tmp_path / "calib.npz", x=val["x"][[3, 0]])
        np.savez(tmp_path / "val.npz", x=x, y=val["y"])
    (note,) = loaded(tmp_path).notes
    assert note.startswith("3 of the 6 validation samples are in data.calibration as well")


def test_disjoint_splits_are_not_mentioned(tmp_path: Path) -> None:
    """Neither are other samples, nor images."""
    write_good(tmp_path)
    assert loaded(tmp_path).notes == () and loaded(tmp_path, STUDIES[1]).notes == ()


def test_a_model_with_two_outputs_is_told(tmp_path: Path) -> None:
    """Metrics of ours look at the first output only, which nobody need guess."""
    from fuzzing.corpus import quantized

    write_good(tmp_path)
    assert model_notes(load_spec(tmp_path / "study.yaml")) == ()
    (tmp_path / "model.onnx").write_bytes(quantized().SerializeToString())
    (note,) = model_notes(load_spec(tmp_path / "study.yaml"))
    assert "2 outputs (logits, g); top1 looks at the first one, logits" in note
