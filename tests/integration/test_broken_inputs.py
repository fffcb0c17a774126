"""A wrong study, model or data file is refused whole, with file, line, key, what was found and what is allowed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from autotune.cache import Cache
from autotune.data.study_data import StudyData, load_study_data
from autotune.errors import SpecError
from autotune.spec.check import check_model
from autotune.spec.load import load_spec

TABLE = runpy.run_path(str(Path(__file__).parents[1] / "assets" / "broken_inputs.py"))


def checked(study: Path, cache: Path) -> StudyData:
    """What every command does before it runs a trial."""
    spec = load_spec(study)
    return load_study_data(spec, check_model(spec), Cache(cache))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", TABLE["CASES"])
def test_broken_input_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    """Exit code 2, the line of the key, the reason; nothing is written beside the study, nor half an artifact kept."""
    study = TABLE["build"](name, tmp_path / name)
    if name.startswith("torch"):
        pytest.importorskip("torch", reason="a torch model needs torch")
    before = contents(study.parent)
    with pytest.raises(SpecError) as caught:
        checked(study, tmp_path / "cache")
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert TABLE["CASES"][name].fragment in message
    assert caught.value.problems
    for problem in caught.value.problems:
        assert re.search(r"\.yaml:\d+: ", str(problem)), problem
        assert problem.key and problem.found and problem.allowed
        assert "hush" not in str(problem)
    assert contents(study.parent) == before
    # a split that is good on its own may be kept although the other is broken: it is addressed by its content
    assert len(list((tmp_path / "cache").rglob("artifact.json"))) <= 2


def test_the_table_is_broken_only_where_it_says(tmp_path: Path) -> None:
    """The study that all cases are made from is good, with arrays and with images."""
    TABLE["write_good"](tmp_path)
    study = tmp_path / "study.yaml"
    data = checked(study, tmp_path / "cache")
    assert (len(data.validation), len(data.calibration or [])) == (6, 4)
    study.write_text(TABLE["STUDY"].replace(*TABLE["IMAGES"]))
    assert checked(study, tmp_path / "cache").validation.batch(0, 9)["input"].shape == (2, 3, 4, 4)


def test_there_are_at_least_fifty_kinds() -> None:
    """The table is as wide as promised."""
    assert len(TABLE["CASES"]) >= 50
