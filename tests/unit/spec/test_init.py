"""Rules of draft_study: what it writes loads, and what it guessed is marked."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from autotune.cache import Cache
from autotune.data.study_data import load_study_data
from autotune.errors import SpecError
from autotune.spec.check import check_model
from autotune.spec.init import draft_study
from autotune.spec.load import load_spec

TABLE = runpy.run_path(str(Path(__file__).parents[2] / "assets" / "broken_inputs.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TABLE["write_good"](tmp_path)
    return tmp_path


def test_a_folder_of_archives_becomes_a_study_that_loads(folder: Path) -> None:
    """val.npz and calib.npz are found, paths are relative to the study, and the data fits the model as drafted."""
    text = draft_study(folder / "model.onnx", folder, "cpu", folder)
    (folder / "new.yaml").write_text(text)
    assert text.startswith("# yaml-language-server: $schema=")
    assert "{npz: val.npz, inputs: x, labels: y}" in text
    spec = load_spec(folder / "new.yaml")
    data = load_study_data(spec, check_model(spec), Cache(folder / "cache"))
    assert data.calibration is not None and len(data.validation) == 6
    assert spec.study == "model-cpu"


def test_an_image_folder_with_splits_becomes_a_study_that_loads(folder: Path) -> None:
    """The column `split` gives validation and calibration; the preprocessing is marked as a guess."""
    for name in ("val.npz", "calib.npz"):
        (folder / name).unlink()
    text = draft_study(folder / "model.onnx", folder, "auto", folder)
    (folder / "new.yaml").write_text(text)
    assert "split: val}" in text and "split: calib}" in text and "# GUESS" in text
    spec = load_spec(folder / "new.yaml")
    assert len(load_study_data(spec, check_model(spec), Cache(folder / "cache")).validation) == 2


def test_without_calibration_the_draft_leaves_int8_out(folder: Path) -> None:
    """A study that cannot calibrate must not ask for int8; the draft says what is missing."""
    text = draft_study(folder / "model.onnx", folder / "val.npz", "auto", folder)
    (folder / "new.yaml").write_text(text)
    assert "int8" not in map(str, load_spec(folder / "new.yaml").space["precision"].values)  # type: ignore[union-attr]
    assert "# calibration:" in text


def test_without_data_the_places_to_fill_in_are_marked(folder: Path) -> None:
    """Nothing is invented: the data section says FILL IN."""
    assert "FILL IN" in draft_study(folder / "model.onnx", None, "auto", folder)


def test_arrays_of_the_models_type_need_no_preprocessing(folder: Path) -> None:
    """float32 samples for a float32 model go in as they are."""
    np.savez(folder / "val.npz", x=np.zeros((2, 3, 4, 4), np.float32), y=np.zeros(2, np.int64))
    assert "preprocess:" not in draft_study(folder / "model.onnx", folder / "val.npz", "auto", folder).replace(
        "# no preprocess is needed:", ""
    )


def test_a_name_that_yaml_would_misread_is_quoted(folder: Path) -> None:
    """Blanks, colons and quotes in a path read back as the same path."""
    odd = folder / 'a: "b" #1'
    odd.mkdir()
    TABLE["write_good"](odd)
    (folder / "new.yaml").write_text(draft_study(odd / "model.onnx", odd, "auto", folder))
    assert load_spec(folder / "new.yaml").model.path == odd / "model.onnx"


def test_what_cannot_be_read_is_told(folder: Path) -> None:
    """A text file as model and an empty folder as data are faults of the input."""
    with pytest.raises(SpecError, match="--model"):
        draft_study(folder / "labels.csv", None, "auto")
    (folder / "empty").mkdir()
    with pytest.raises(SpecError, match="--data"):
        draft_study(folder / "model.onnx", folder / "empty", "auto")
