"""A table as a file: what was written is read again, and nothing else is."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from assets.recorded_sweep import table

from autotune.errors import SpecError
from autotune.simulator import table_file
from autotune.simulator.table_file import document_of, load_table, save_table, table_of


def test_round_trip(tmp_path: Path) -> None:
    """Every field comes back, numbers to five digits, and the same table gives the same bytes."""
    made = table()
    save_table(made, tmp_path / "t.json.gz")
    found = load_table(tmp_path / "t.json.gz")
    assert document_of(found) == document_of(made)
    assert found.points[1].candidate == made.points[1].candidate
    assert found.points[1].loads[0].items_per_s == pytest.approx(made.points[1].loads[0].items_per_s, rel=5e-5)
    assert found.artifacts == made.artifacts and found.reference == made.reference
    save_table(made, tmp_path / "again.json.gz")
    assert (tmp_path / "t.json.gz").read_bytes() == (tmp_path / "again.json.gz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.json.gz", "t.json.gz"], "nothing else is left behind"


def test_it_is_small_and_can_be_read_by_anybody(tmp_path: Path) -> None:
    """Plain JSON under gzip with its format and version in front; 72 points take a few kilobytes."""
    save_table(table(), tmp_path / "t.json.gz")
    document = json.loads(gzip.decompress((tmp_path / "t.json.gz").read_bytes()))
    assert list(document)[:2] == ["format", "version"] and document["version"] == 1
    assert (tmp_path / "t.json.gz").stat().st_size < 5_000


def test_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """A table of a later autotune is not guessed at."""
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(json.dumps(document_of(table()) | {"version": 2}).encode()))
    with pytest.raises(SpecError, match=r"version 2; this autotune reads version 1\. Record it again"):
        load_table(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        # Without the time in the file, which is part of a test's name here: processes that share the tests must agree on it.
        (b"not gzip at all", "no whole gzip file"),
        (gzip.compress(b'{"format": "autotune-sweep", "version"', mtime=0)[:-12], "no whole gzip file"),
        (gzip.compress(b"{]", mtime=0), "no JSON"),
        (gzip.compress(b"[" * 100_000, mtime=0), "no JSON"),
        (gzip.compress(b"[1, 2]", mtime=0), 'no "format"'),
        (gzip.compress(b'{"format": "autotune-sweep", "version": 1}', mtime=0), "damaged: no 'study'"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, says: str) -> None:
    """Garbage, a file cut off, JSON that is none or another's: one line that names the file, never a traceback."""
    path = tmp_path / "t.json.gz"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=says) as caught:
        load_table(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    """Whoever has no table yet hears how to record one."""
    with pytest.raises(SpecError, match=r"autotune sweep STUDY\.yaml"):
        load_table(tmp_path / "none.json.gz")


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stops at a bound, whatever the file would unpack to."""
    monkeypatch.setattr(table_file, "MOST_BYTES", 1 << 20)
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(b"0" * (3 << 20)))
    with pytest.raises(SpecError, match="unpacks to more than 1 MiB"):
        load_table(tmp_path / "t.json.gz")


def test_a_pickle_in_a_zip_is_no_table(tmp_path: Path) -> None:
    """The format of numpy's archives, which may hold pickles, is not even opened."""
    with zipfile.ZipFile(tmp_path / "t.json.gz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY")
    with pytest.raises(SpecError, match="no whole gzip file"):
        load_table(tmp_path / "t.json.gz")


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("points", "state", 0, to=7), "row 7 of 3"),
        (_set("points", "row_of_variant", 0, to=-1), "row -1 of"),
        (_set("points", "row_of_variant", 0, to=1), "an artifact of another kind"),
        (_set("points", "batch_size", to=[1]), "differ in length"),
        (_set("points", "engine", 0, to="other"), "no pair of engine and precision"),
        (_set("points", "n_loads", 0, to=1), "complete with 0 loads|of which its points name"),
        (_set("points", "open_s", 0, to="soon"), "'soon' where a number belongs"),
        (_set("loads", "items_per_s", 0, to=0), "an impossible load"),
        (_set("loads", "items_per_s", 0, to=float("inf")), "where a number belongs"),
        (_set("loads", "seconds", 0, to=-1.0), "an impossible load"),
        (_set("artifacts", 0, "seconds", to=None), "where a number belongs"),
        (_set("objectives", to=["beauty"]), "damaged"),
        (_set("constraints", to={"beauty": 1}), "damaged"),
        (_set("device", to={"device": "x"}), "damaged"),
        (_set("priors", to=[{"engine": "box"}]), "damaged"),
        (_set("points", to={"state": []}), "damaged"),
        (_set("reference_artifacts", to={"variant": 999}), "row 999"),
    ],
)
def test_damage_inside(change: Callable[[dict[str, Any]], None], says: str) -> None:
    """Each part is checked against the others: a row that is not there, a column too short, a number that is none."""
    document = json.loads(json.dumps(document_of(table())))
    change(document)
    with pytest.raises(SpecError, match=says):
        table_of(document, "t.json.gz")


def test_a_point_that_occurs_twice_is_refused() -> None:
    """Otherwise which of the two counts would be chance."""
    document = json.loads(json.dumps(document_of(table())))
    for knob in ("precision", "batch_size", "streams", "pruning_ratio"):
        document["points"][knob][1] = document["points"][knob][0]
    with pytest.raises(SpecError, match="occurs twice"):
        table_of(document, "t.json.gz")
