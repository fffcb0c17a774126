"""A table as a file: what was written is read again, and nothing else is."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from assets.recorded_sweep import table

from autotune.errors import SpecError
from autotune.simulator import table_file
from autotune.simulator.table_file import document_of, load_table, save_table, table_of

TABLES = Path(__file__).parents[3] / "benchmarks" / "tables"


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


def _refusal(change: Callable[[dict[str, Any]], None], **fields: Any) -> str:
    """What is said of the table with that change."""
    document = json.loads(json.dumps(document_of(table(**fields))))
    change(document)
    with pytest.raises(SpecError) as caught:
        table_of(document, "t.json.gz")
    message = str(caught.value)
    assert message.startswith("t.json.gz: the table is damaged: ") and message.endswith("a table written by `autotune sweep`")
    return message


@pytest.mark.parametrize(
    "path",
    [
        ("artifacts", 0, "seconds"),
        ("points", "open_s", 3),
        ("points", "probe_s", 3),
        ("points", "other_s", 3),
        ("missing",),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_no_time_and_no_count_is_negative(path: tuple[Any, ...]) -> None:
    """Otherwise the virtual clock would go back; the message says where the number stands."""
    where = (
        f"{path[0]}.{path[1]}[{path[2]}]" if path[0] == "points" else "missing" if len(path) == 1 else "artifacts[0].seconds"
    )
    assert f"it has -1 where a {'whole ' * (len(path) == 1)}number of at least 0 belongs: {where};" in _refusal(
        _set(*path, to=-1)
    )


@pytest.mark.parametrize("name", ["p99_ms", "memory_mib", "energy_j"])
def test_what_a_load_measured_is_a_number_or_none(name: str) -> None:
    """Neither below 0 nor text nor NaN nor true; None is what was not measured."""
    assert "an impossible load" in _refusal(_set("loads", name, 2, to=-0.5))
    for wrong in ("fast", float("nan"), True, [1], 10**400):
        assert f"where a number belongs: loads.{name}[2]" in _refusal(_set("loads", name, 2, to=wrong))
    document = json.loads(json.dumps(document_of(table())))
    document["loads"][name][2] = None
    assert getattr(table_of(document, "t.json.gz").points[1].loads[0], name) is None


@pytest.mark.parametrize("windows", [6.0, 6.5, "6", None, True, 1], ids=repr)
def test_windows_are_counted(windows: Any) -> None:
    """At least two of them, and whole."""
    assert "an impossible load" in _refusal(_set("loads", "windows", 0, to=windows))


@pytest.mark.parametrize("name", ["accuracy", "drop"])
@pytest.mark.parametrize("part", ["value", "low", "high"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "good", None], ids=repr)
def test_estimates_of_accuracy_are_finite(name: str, part: str, wrong: Any) -> None:
    """Of artifacts and of the reference: value and both ends of the interval."""
    row = next(i for i, a in enumerate(table().artifacts) if a.kind == "accuracy")
    said = _refusal(_set("artifacts", row, name, part, to=wrong))
    assert f"where a number belongs: artifacts[{row}].{name}.{part};" in said
    field = {"accuracy": "accuracy", "drop": "accuracy_drop"}[name]
    assert f"where a number belongs: reference.{field}.{part};" in _refusal(_set("reference", field, part, to=wrong))


def test_accuracy_has_no_upper_bound() -> None:
    """A metric need not be a share: 31.5 of a user's own is taken."""
    document = json.loads(json.dumps(document_of(table())))
    row = next(i for i, a in enumerate(table().artifacts) if a.kind == "accuracy")
    document["artifacts"][row]["accuracy"] |= {"value": 31.5, "low": 30.0, "high": 33.0}
    found = table_of(document, "t.json.gz").artifacts[row].accuracy
    assert found is not None and found.value == 31.5


def _without_last(n: int) -> dict[str, Any]:
    return {"points": table().points[:-n]}


@pytest.mark.parametrize(
    ("change", "fields", "says"),
    [
        (_set("points", "streams", 0, to=5), {}, "streams=5 is not on its grid: streams is 5 where one of 1, 2, 3 belongs"),
        (_set("points", "streams", 0, to=None), {}, "streams is nothing where one of 1, 2, 3 belongs"),
        (_set("points", "batch_size", 0, to=True), {}, "batch_size is true where one of 1, 2, 4, 8 belongs"),
        (_set("points", "worker_threads", to=[4] * 72), {}, "worker_threads is 4 where nothing belongs"),
        (_set("engines", "box", "knobs", to=["batch_size"]), {}, "streams is 1 where nothing belongs"),
        (_set("values", "streams", to=[1, 2, 3, 4]), {}, "its grid has 96 points, of which 72 are there and 0 counted"),
        (_set("missing", to=1), {}, "its grid has 72 points, of which 72 are there and 1 counted as missing"),
        (_set("missing", to=0), _without_last(2), "its grid has 72 points, of which 70 are there and 0 counted as missing"),
        (_set("missing", to=2.5), _without_last(2), "it has 2.5 where a whole number of at least 0 belongs: missing"),
        (_set("values", "streams", to=[1, 2, 3, 2]), {}, "values.streams has 2 twice"),
        (_set("values", "pruning_ratio", to=[0, 0.5, 0.0]), {}, "values.pruning_ratio has 0.0 twice"),
        (_set("values", "batch_size", to=["a", "b"]), {}, "where an integer in 1…65536 samples belongs: values.batch_size[0]"),
        (_set("values", "batch_size", to=[[1], 2]), {}, "where an integer in 1…65536 samples belongs: values.batch_size[0]"),
        (_set("values", "speed", to=[1]), {}, "values has 'speed' where one of pruning_ratio, batch_size, "),
        (_set("pairs", 1, to=["box", "fp32"]), {}, "pairs has box/fp32 twice"),
        (_set("engines", to={}), {}, "pairs has the engine 'box', of which engines says nothing"),
    ],
    ids=[
        "off-grid", "knob-absent", "true-for-1", "knob-that-is-nobodys", "knob-of-no-engine", "grid-larger", "missing-too-many",
        "missing-too-few", "missing-broken", "value-twice", "value-twice-as-float", "text", "list", "unknown-knob",
        "pair-twice", "engine-unknown",
    ],
)  # fmt: skip
def test_the_points_are_those_of_the_grid(change: Callable[[dict[str, Any]], None], fields: dict[str, Any], says: str) -> None:
    """Every point lies on the grid of the table's own values, and those that do not occur are counted as missing."""
    assert says in _refusal(change, **fields)


def test_a_grid_too_large_to_list_is_only_counted() -> None:
    """A damaged table may claim more points than fit into memory: 3 × 2 × 60,000 × 1,024 here."""
    document = json.loads(json.dumps(document_of(table())))
    document["values"] |= {"batch_size": list(range(1, 60_001)), "streams": list(range(1, 1025))}
    with pytest.raises(SpecError, match="its grid has 368640000 points, of which 72 are there"):
        table_of(document, "t.json.gz")


def test_a_table_that_says_what_it_lacks_is_read() -> None:
    """As a sweep leaves it that was stopped."""
    made = replace(table(**_without_last(5)), missing=5)
    assert table_of(json.loads(json.dumps(document_of(made))), "t.json.gz").missing == 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("objectives", to=["beauty"]), "damaged: objectives[0]: Input should be 'accuracy'"),
        (_set("objectives", to=["cost"]), "the objective cost needs price_per_hour"),
        (_set("constraints", to={"beauty": 1}), "damaged: beauty: Extra inputs are not permitted"),
    ],
    ids=["objective", "price", "constraint"],
)
def test_what_the_study_cannot_be_is_told(change: Callable[[dict[str, Any]], None], says: str) -> None:
    """The first fault with its place, instead of how many there are."""
    assert says in _refusal(change)


@pytest.mark.parametrize("path", sorted(TABLES.rglob("*.json.gz")), ids=lambda path: path.name)
def test_the_recorded_tables_are_whole(path: Path) -> None:
    """Those in benchmarks/tables, of real machines: no check refuses them, and none of their points is missing."""
    assert load_table(path).missing == 0
