"""`autotune calibration` and what `show` says of agreement, on a finished study of the fake engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from assets import fake_study as fake

from autotune.records import TrialRecord

INT8, TENSOR = 3, 2
"""Numbers of the trials that the study's priors give."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three trials: fp32, int8-tensor (rejected early) and int8."""
    pytest.importorskip("onnxruntime", reason="int8 variants are made with onnxruntime")
    found = tmp_path_factory.mktemp("calibration")
    fake.write_study(found, ("trials: 12", "trials: 3"))
    fake.autotune(found, "start", "study.yaml")
    return found


def document(folder: Path, *words: object) -> Any:
    return json.loads(fake.autotune(folder, *words, "--json").stdout)


def test_random_subsets_are_measured_beside_the_samples_used(folder: Path) -> None:
    """Three halves of 200 samples; the fake's accuracy does not depend on them, so there is no spread, and 0.88 is typical."""
    found = document(folder, "calibration", "study.yaml", INT8, "--subsets", 3)
    assert (found["study"], found["trial"], found["metric"], found["n_split"]) == ("fake", INT8, "top1", 200)
    assert (found["used"]["seed"], found["used"]["size"]) == (None, 200)
    assert [(d["seed"], d["size"], d["reject"]) for d in found["drawn"]] == [(1, 100, None), (2, 100, None), (3, 100, None)]
    for one in (found["used"], *found["drawn"]):
        assert one["accuracy"]["value"] == pytest.approx(0.88) and one["accuracy_drop"]["value"] == pytest.approx(0.02)
        assert one["accuracy"]["n"] == 200
    assert found["spread"]["value"] == 0 and found["another_subset"]["value"] == pytest.approx(0.88)
    assert found["mean_against_used"]["value"] == pytest.approx(0) and found["used_is_typical"] is True


def test_variants_of_subsets_are_made_once(folder: Path) -> None:
    """Asked again nothing is made: each subset's variant and accuracy are in the cache by their content."""
    document(folder, "calibration", "study.yaml", INT8, "--subsets", 2, "--size", 40)
    before = {kind: sorted(p.name for p in (folder / "cache" / kind).iterdir()) for kind in ("variant", "accuracy")}
    document(folder, "calibration", "study.yaml", INT8, "--subsets", 2, "--size", 40)
    after = {kind: sorted(p.name for p in (folder / "cache" / kind).iterdir()) for kind in ("variant", "accuracy")}
    assert before == after


def test_a_rejected_trial_is_measured_in_full_here(folder: Path) -> None:
    """The study's limit rejects int8-tensor early; here every subset has all samples, and the study's trial stays as it was."""
    before = document(folder, "show", "study.yaml", TENSOR)
    found = document(folder, "calibration", "study.yaml", TENSOR, "--subsets", 2)
    assert [d["accuracy"]["value"] for d in (found["used"], *found["drawn"])] == pytest.approx([0.4, 0.4, 0.4])
    assert document(folder, "show", "study.yaml", TENSOR) == before


def test_lines_for_people(folder: Path) -> None:
    """A line per choice of samples, then the spread with its interval and the verdict; progress goes to stderr."""
    done = fake.autotune(folder, "calibration", "study.yaml", INT8, "--subsets", 2)
    lines = done.stdout.splitlines()
    assert (
        lines[1].startswith("  200 of 200 samples, as in the study")
        and "0.8800 ±" in lines[1]
        and ", drop 0.0200 ±" in lines[1]
    )
    assert lines[2].startswith("  100 of 200 samples, drawn: 1")
    assert "standard deviation from subset to subset: 0.0000 [0.0000, 0.0000]" in done.stdout
    assert "the samples used are like others" in done.stdout
    assert "subset 2 of 2, 100 samples" in done.stderr


def test_an_early_rejection_says_what_it_saw(folder: Path) -> None:
    """The flag, how many samples, and the interval are in the trial; there is no agreement of what was not run."""
    found = document(folder, "show", "study.yaml", TENSOR)
    assert found["flags"] == ["accuracy_stopped_early"] and found["agreement"] is None and found["scores_key"] is None
    assert found["accuracy_drop"]["n"] < 200 and found["accuracy_drop"]["low"] <= 0.5 <= found["accuracy_drop"]["high"]
    assert found["reject"]["reason"] == "accuracy_too_low"


def test_show_tells_of_agreement(folder: Path) -> None:
    """int8 answers 196 of 200 samples as fp32 does, and no class lost beyond noise; the reference has nothing to agree with."""
    found = TrialRecord.from_json(document(folder, "show", "study.yaml", INT8)).agreement
    assert found is not None and found.top1 is not None and found.top1.value == pytest.approx(0.98)
    said = fake.autotune(folder, "show", "study.yaml", INT8).stdout
    assert "same class as the reference on 0.98 [" in said and "of 10 classes lost beyond noise: none" in said
    assert document(folder, "show", "study.yaml", "ref")["agreement"] is None
