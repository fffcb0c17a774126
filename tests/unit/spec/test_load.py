"""Rules of load_spec: presets merged, paths absolute, every fault told at once with its line."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from autotune.candidate import Choices, Range
from autotune.errors import SpecError, SpecProblem
from autotune.spec.load import load_spec
from autotune.spec.model import StudySpec

GOOD = """\
study: tiny
model: {path: model.onnx}
data:
  validation: {npz: val.npz, inputs: x, labels: y}
  calibration: {npz: val.npz}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"not looked into by load_spec")
    np.savez(tmp_path / "val.npz", x=np.zeros((2, 1)), y=np.zeros(2, np.int64))
    return tmp_path


def loaded(folder: Path, text: str, **overrides: object) -> StudySpec:
    (folder / "study.yaml").write_text(text)
    return load_spec(folder / "study.yaml", {key.replace("__", "."): value for key, value in overrides.items()})


def problems(folder: Path, text: str, **overrides: object) -> tuple[SpecProblem, ...]:
    with pytest.raises(SpecError) as caught:
        loaded(folder, text, **overrides)
    return caught.value.problems


def test_without_a_space_the_preset_of_the_device_is_used(folder: Path) -> None:
    """No `space`: all six knobs come from the cpu preset, with its priors."""
    spec = loaded(folder, GOOD)
    assert spec.space["precision"] == Choices(values=("fp32", "bf16", "int8"))
    assert spec.space["batch_size"] == Range(low=1, high=64, log=True)
    assert len(spec.space) == 6
    assert {"precision": "fp32", "batch_size": 1, "streams": 1} in spec.priors


def test_a_space_without_extends_leaves_other_knobs_at_their_default(folder: Path) -> None:
    """Only the named knobs are searched; the rest is fixed at the knob's default."""
    spec = loaded(folder, GOOD + "space: {batch_size: [1, 4]}\n")
    assert dict(spec.space) == {"batch_size": Choices(values=(1, 4))}
    assert spec.domain("streams") == Choices(values=(1,))
    assert spec.priors == ()


def test_the_study_overrides_its_preset_and_priors_that_no_longer_fit_fall_away(folder: Path) -> None:
    """A narrower precision drops the preset's priors outside it; the study's own come first."""
    spec = loaded(folder, GOOD + "space:\n  extends: cpu\n  precision: fp32\npriors: [{batch_size: 2}]\n")
    assert spec.space["precision"] == Choices(values=("fp32",))
    assert spec.priors[0] == {"batch_size": 2}
    assert {prior.get("precision", "fp32") for prior in spec.priors} == {"fp32"}


def test_a_preset_file_beside_the_study_extends_one_of_ours(folder: Path) -> None:
    """`extends` with a path is relative to the file that names it, and presets chain."""
    (folder / "sub").mkdir()
    (folder / "sub/mine.yaml").write_text("extends: ./base.yaml\nknobs: {streams: 2}\n")
    (folder / "sub/base.yaml").write_text("extends: cpu\nknobs: {streams: 4, batch_size: 3}\n")
    spec = loaded(folder, GOOD + "space: {extends: sub/mine.yaml}\n")
    assert (spec.space["streams"], spec.space["batch_size"]) == (Choices(values=(2,)), Choices(values=(3,)))


def test_paths_are_relative_to_the_study_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder plays no part, neither for files nor for the SQLite database."""
    monkeypatch.chdir("/")
    spec = loaded(folder, GOOD + "storage: sqlite:///sub/a.db?timeout=5\ncache: keep\n")
    assert spec.model.path == folder / "model.onnx"
    assert spec.storage == f"sqlite:///{folder}/sub/a.db?timeout=5"
    assert spec.cache.folder == folder / "keep"
    assert spec.file == folder / "study.yaml"


def test_a_file_that_names_no_database_takes_the_environments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As commands without a study file do, so that both look at the same one; a relative file is in the current folder."""
    monkeypatch.delenv("AUTOTUNE_STORAGE", raising=False)
    assert loaded(folder, GOOD).storage == f"sqlite:///{folder}/autotune.db"
    monkeypatch.setenv("AUTOTUNE_STORAGE", "postgresql://me@host/db")
    assert loaded(folder, GOOD).storage == "postgresql://me@host/db"
    assert loaded(folder, GOOD + "storage: sqlite:///a.db\n").storage == f"sqlite:///{folder}/a.db"
    monkeypatch.setenv("AUTOTUNE_STORAGE", "sqlite:///b.db")
    monkeypatch.chdir("/usr")
    assert loaded(folder, GOOD).storage == "sqlite:////usr/b.db"


@pytest.mark.parametrize("url", ["sqlite:////abs/a.db", "postgresql+psycopg://me:pw@host:5432/db", "postgresql:///db"])
def test_absolute_storage_is_kept_as_it_is(folder: Path, url: str) -> None:
    """An absolute SQLite file and a PostgreSQL URL are not changed."""
    assert loaded(folder, GOOD + f"storage: {url}\n").storage == url


def test_all_faults_are_told_at_once_and_in_the_order_of_the_file(folder: Path) -> None:
    """One run shows every fault, each at its own line."""
    text = GOOD.replace("model.onnx", "gone.onnx") + "devise: cpu\nspace: {streams: 0}\nbudget: {trials: no}\nseed: x\n"
    assert [(p.key, p.line) for p in problems(folder, text)] == [
        ("model.path", 2),
        ("devise", 6),
        ("space.streams", 7),
        ("budget.trials", 8),
        ("seed", 9),
    ]


def test_an_unknown_key_is_told_at_its_own_line_with_the_nearest_name(folder: Path) -> None:
    """A typing error names the key that was meant, and all that are known."""
    (problem,) = problems(folder, GOOD.replace("  calibration:", "  calibratoin:") + "space: {streams: 1}\n")
    assert (problem.key, problem.line) == ("data.calibratoin", 5)
    assert "did you mean calibration?" in problem.found
    assert "validation, calibration, train, preprocess, metric" in problem.allowed


def test_overrides_replace_the_file_and_their_faults_name_the_command_line(folder: Path) -> None:
    """`--trials 3` wins over the file; a wrong value is not blamed on a line of the file."""
    assert loaded(folder, GOOD + "budget: {trials: 9, hours: 1}\n", budget__trials=3).budget.trials == 3
    (problem,) = problems(folder, GOOD, budget__trials=0)
    assert str(problem) == "command line: budget.trials: found 0; allowed: at least 1"


def test_sections_name_their_line_to_later_stages_even_after_pickling(folder: Path) -> None:
    """A fault that is found when the data is read still names file and line, also in a trial's process."""
    spec = loaded(folder, GOOD)
    again: StudySpec = pickle.loads(pickle.dumps(spec))  # noqa: S301  # our own bytes
    assert again == spec
    problem = again.data.validation.problem("npz", "a", "b")
    assert (problem.key, problem.line, problem.file) == ("data.validation.npz", 4, str(folder / "study.yaml"))
    assert again.problem("load.scenario", "a", "b").line == 1


def test_defaults_that_studies_share_carry_no_position(folder: Path) -> None:
    """A section that is not in the file is a shared default and must not remember the last study."""
    loaded(folder, GOOD)
    assert StudySpec.model_fields["budget"].default.problem("trials", "a", "b").line is None


def test_a_spec_survives_its_json_form(folder: Path) -> None:
    """The JSON that the database keeps reads back as the same study."""
    spec = loaded(folder, GOOD)
    again = StudySpec.model_validate_json(spec.model_dump_json())
    assert (again.space, again.data.model_dump(), again.priors) == (spec.space, spec.data.model_dump(), spec.priors)


def test_a_number_with_an_exponent_is_a_number(folder: Path) -> None:
    """YAML 1.1 reads 1e-3 as text; people mean a number."""
    spec = loaded(folder, GOOD + "  preprocess: {scale: 1e-3}\n")
    assert spec.data.preprocess is not None
    assert spec.data.preprocess.scale == 0.001


def test_aliases_and_merge_keys_work_as_in_yaml(folder: Path) -> None:
    """Honest anchors are fine: what is written beside << wins over what is merged."""
    text = GOOD.replace("{npz: val.npz, inputs: x, labels: y}", "&v {npz: val.npz, limit: 1}")
    spec = loaded(folder, text.replace("calibration: {npz: val.npz}", "calibration: {<<: *v, limit: 2}"))
    assert spec.data.calibration is not None
    assert (spec.data.calibration.npz, spec.data.calibration.limit) == (folder / "val.npz", 2)


def test_a_password_is_in_no_message(folder: Path) -> None:
    """Wherever a URL with a password stands, and whatever is wrong with it, the password is not shown."""
    for value in ("mysql://u:hush@h/d", "[postgresql://u:hush@h/d]", "postgresql://u:hu@sh@h:x/d"):
        (problem,) = problems(folder, GOOD + f"storage: {value}\n")
        assert "***" in problem.found
        assert "hush" not in str(problem) and "sh@" not in str(problem)


def test_int8_that_only_the_preset_asks_for_needs_calibration_too(folder: Path) -> None:
    """The message names both ways out."""
    (problem,) = problems(folder, GOOD.replace("  calibration: {npz: val.npz}\n", ""))
    assert problem.key == "data.calibration"
    assert "int8" in problem.allowed and "space.precision" in problem.allowed


def test_no_heavy_library_is_loaded() -> None:
    """Reading a study imports neither onnx nor torch nor an engine."""
    import subprocess
    import sys

    heavy = ("torch", "onnx", "onnxruntime", "openvino", "optuna", "PIL")
    code = f"import sys, autotune.spec.load; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_early_stop_is_on_and_can_be_switched_off(folder: Path) -> None:
    """1 % unless the study says otherwise; `off` is an error rate of 0, which stops nothing; more than ½ is refused."""
    assert loaded(folder, GOOD).accuracy.early_stop.error_rate == 0.01
    assert loaded(folder, GOOD + "accuracy: {early_stop: {error_rate: 0.05}}\n").accuracy.early_stop.error_rate == 0.05
    for off in ("off", "'off'", "{error_rate: 0}"):
        assert loaded(folder, GOOD + f"accuracy: {{early_stop: {off}}}\n").accuracy.early_stop.error_rate == 0
    (fault,) = problems(folder, GOOD + "accuracy: {early_stop: {error_rate: 0.6}}\n")
    assert fault.key == "accuracy.early_stop.error_rate" and fault.line == 6
