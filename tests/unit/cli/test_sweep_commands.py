"""sweep and simulate on the command line: what they print, what they write, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assets import fake_study as fake
from assets.recorded_sweep import table

from autotune.cli.main import main
from autotune.simulator.table_file import save_table


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    save_table(table(), tmp_path / "t.json.gz")
    return tmp_path / "t.json.gz"


def run(*arguments: object) -> int:
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return int(left.value.code or 0)


def test_simulate_gives_one_document(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each strategy as a study runs it and alone; curve, quartiles and every seed's own time; equal runs are equal."""
    command = ("simulate", recorded, "--strategy", "random", "--strategy", "cost-aware", "--seeds", 2, "--trials", 8)
    documents = []
    for _ in range(2):
        assert run(*command, "--overhead", "0.1", "--json") == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1]
    found: Any = documents[0][0]
    assert found["table"] == "recorded" and found["points"] == 72 and found["goal"] == 0.95
    assert list(found["contestants"]) == [
        "random + caches + priors", "cost-aware + caches + priors", "random alone", "cost-aware alone",
    ]  # fmt: skip
    ours = found["contestants"]["cost-aware + caches + priors"]
    assert len(ours["seeds"]) == 2 and ours["trials"] == 8 and len(ours["curve"]["hours"]) == 60
    assert set(ours["hours_to_goal"]) == {"low", "median", "high", "not_reached"}


def test_simulate_prints_a_table_and_draws(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: a row per contestant, and a picture where one is asked for."""
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.png"
    assert run("simulate", recorded, "--strategy", "random", "--no-bare", "--seeds", 2, "--trials", 5, "--out", picture) == 0
    shown = capsys.readouterr().out
    assert "minutes to 95%" in shown and "random + caches + priors" in shown and "random alone" not in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--strategy", "magic"), "--strategy magic: allowed: cost-aware, gp, tpe, nsga2, random"),
        (("--overhead", "soon"), "--overhead soon: allowed: model, measured, or a number of seconds"),
        (("--engine", "openvino"), "no point of the table runs on openvino; it holds box"),
        (("--out", "curves.txt"), "found the suffix '.txt'"),
        *((("--overhead", x), f"--overhead {x}: allowed: model, measured, or a number") for x in ("nan", "inf", "-1", "1e999")),
        *((("--goal", x), f"--goal {x}: allowed: a share from 0 to 1") for x in ("nan", "1.5", "-0.1", "most")),
        *((("--noise", x), f"--noise {x}: allowed: a standard deviation of at least 0") for x in ("nan", "inf", "-0.1")),
        *((("--hours", x), f"--hours {x}: allowed: a number of hours above 0") for x in ("nan", "inf", "0", "-2")),
    ],
)
def test_simulate_refuses(recorded: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and one line with what is allowed."""
    assert run("simulate", recorded, "--seeds", 1, *arguments) == 2
    assert says in capsys.readouterr().err


def test_simulate_takes_the_ends_of_its_ranges(recorded: Path) -> None:
    """What is refused beyond them is not refused at them."""
    options = ("--overhead", "0", "--goal", "1", "--noise", "0", "--hours", "0.001")
    assert run("simulate", recorded, "--seeds", 1, "--strategy", "random", "--no-bare", *options) == 0


def test_simulate_names_the_table_that_is_not_complete(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any other is replayed: its file, how much it lacks, and the command that finishes it."""
    made, path = table(), tmp_path / "part.json.gz"
    save_table(replace(made, points=made.points[:-3], missing=3), path)
    monkeypatch.setattr("autotune.cli.simulating.compare", lambda *a, **k: pytest.fail("it was replayed"))
    assert run("simulate", recorded, path, "--seeds", 1) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"{path}: lacks 3 of the 72 points of its grid" in said and f"autotune sweep STUDY.yaml --out {path}" in said


def test_simulate_names_a_file_that_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing there, or something else there."""
    assert run("simulate", tmp_path / "none.json.gz") == 2
    assert "no such table" in capsys.readouterr().err


def test_sweep_shows_its_grid_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run: the values of each knob, those of --grid in place of the study's, and how many points that makes."""
    study = fake.write_study(tmp_path)
    out = tmp_path / "t.json.gz"
    assert run("sweep", study, "--out", out, "--dry-run", "--grid", "streams=1,2", "--grid", "batch_size=8") == 0
    shown = capsys.readouterr().err
    assert "streams: 1, 2\n" in shown and "18 points, each in up to 2 processes" in shown
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--out", "t.npz"), "a name that ends in .json.gz"),
        (("--out", "t.json.gz", "--grid", "streams"), "--grid streams: allowed: KNOB=V,V,…"),
        (("--out", "t.json.gz", "--grid", "streams=a"), "values of kind int"),
        (("--out", "t.json.gz", "--grid", "streams=64"), "--grid streams: found [64]"),
        (("--out", "t.json.gz", "--hours", "nan"), "--hours nan: allowed: a number of hours above 0"),
        (("--out", "t.json.gz", "--grid", "engine=fake"), "with KNOB one of pruning_ratio"),
    ],
)
def test_sweep_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is measured."""
    monkeypatch.chdir(tmp_path)
    assert run("sweep", fake.write_study(tmp_path), *arguments) == 2
    assert says in capsys.readouterr().err


def test_a_finished_table_is_not_recorded_over(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It took hours: whoever wants it anew removes it."""
    assert run("sweep", fake.write_study(tmp_path), "--out", recorded) == 2
    assert "is there already, and complete" in capsys.readouterr().err
