"""The section `load`: every form means what it says, and what is wrong is told at the key and line where it stands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from assets import fake_study as fake
from pydantic import ValidationError

from autotune.errors import EnvironmentProblem, SpecError
from autotune.spec.arrival_file import read_arrivals
from autotune.spec.check import check_load
from autotune.spec.load import load_spec
from autotune.spec.model import LoadSpec, StudySpec

OLD = next(line for line in fake.STUDY.splitlines() if line.startswith("load:"))
LINE = fake.STUDY.splitlines().index(OLD) + 1


def loaded(folder: Path, text: str) -> StudySpec:
    folder.mkdir(exist_ok=True)
    (folder / "a.csv").write_text("second\n0.5\n1.5\n")
    return load_spec(fake.write_study(folder, (OLD, text)))


def faults(folder: Path, text: str) -> list[str]:
    """`line: key: found …; allowed: …` of each fault."""
    with pytest.raises(SpecError) as caught:
        loaded(folder, text)
    return [f"{p.line}: {p.key}: found {p.found}; allowed: {p.allowed}" for p in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("load: {scenario: offline}", {}),
        ("load: {scenario: singlestream}", {"scenario": "singlestream"}),
        ("load: {scenario: multistream}", {"scenario": "multistream", "multistream": {}}),
        ("load: {multistream: {samples_per_query: 4}}", {"scenario": "multistream", "multistream": {"samples_per_query": 4}}),
        ("load: {scenario: server, qps: 200, slo_ms: 50}", {"scenario": "server", "server": {"qps": 200.0, "slo_ms": 50.0}}),
        ("load: {server: {qps: 200, slo_ms: 50}}", {"scenario": "server", "server": {"qps": 200.0, "slo_ms": 50.0}}),
        ("load: {scenario: {server: {qps: 9}}}", {"scenario": "server", "server": {"qps": 9.0}}),
        ("load: {server: {slo_ms: 50}}", {"scenario": "server", "server": {"slo_ms": 50.0}}),
        ("load: {scenario: a.csv}", {"scenario": "trace", "trace": {"file": "a.csv"}}),
        ("load: {trace: a.csv, slo_ms: 3}", {"scenario": "trace", "trace": {"file": "a.csv", "slo_ms": 3.0}}),
        ("load: {scenario: trace, file: a.csv}", {"scenario": "trace", "trace": {"file": "a.csv"}}),
    ],
)
def test_every_form_has_one_meaning(tmp_path: Path, text: str, canonical: dict[str, Any]) -> None:
    """Short forms and the contract's own become the canonical one; a stored study reads it back."""
    spec = loaded(tmp_path, text)
    expected = {**canonical, **({"trace": canonical["trace"] | {"file": tmp_path / "a.csv"}} if "trace" in canonical else {})}
    assert spec.load.model_dump(exclude_defaults=True) == expected
    again = StudySpec.model_validate(spec.model_dump(mode="json"))
    assert again.load.model_dump() == spec.load.model_dump()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("load: {scenario: server, slo_ms: 5,\n  qps: -1}", "+1: load.qps: found -1; allowed: more than 0 or auto"),
        (
            "load:\n  scenario:\n    server:\n      qps: fast\n      slo_ms: 9",
            "+3: load.scenario.server.qps: found 'fast'; allowed: a number",
        ),
        ("load: {server: {qps: 3,\n    slo: 4}}", "+1: load.server.slo: found an unknown key (did you mean slo_ms?)"),
        ("load: {scenario: offline,\n  qps: 3}", "+1: load.qps: found a key of the scenario server"),
        ("load: {server: {qps: 3},\n  qps: 4}", "+1: load.qps: found a key of the scenario server"),
        ("load: {scenario: server}", "+0: load.server: found an empty section; allowed: slo_ms together with qps: auto"),
        ("load: {scenario: singlestream,\n  server: {qps: 3}}", "+1: load.server: found a section of the scenario server"),
        ("load: {scenario: sever}", "+0: load.scenario: found 'sever'; allowed: offline, singlestream, multistream, server"),
        ("load: {window_s: 1,\n  scenario: b.csv}", "+1: load.scenario: found b.csv (nothing there)"),
        ("load: {trace: a.csv,\n  driver: loadgen}", "+1: load.driver: found loadgen; allowed: autotune for a recorded trace"),
        ("load: {scenario: trace}", "+0: load.trace.file: found nothing; allowed: this key is needed"),
        ("load: {scenario: server, qps: 10,\n  percentile: 98}", "+1: load.percentile: found 98; allowed: 50, 90, 95, 99"),
        ("load: {server: {qps: 2},\n  multistream: {}}", "+1: load.multistream: found a section of the scenario multistream"),
        ("load: {server: 3}", "+0: load.server: found 3; allowed: a section with the keys qps, slo_ms"),
    ],
)
def test_a_fault_stands_where_it_was_written(tmp_path: Path, text: str, fault: str) -> None:
    """The line of the very key, under the name that the file has for it; and one fault for one mistake."""
    offset, _, rest = fault.removeprefix("+").partition(":")
    found = faults(tmp_path, text)
    assert len(found) == 1 and found[0].startswith(f"{LINE + int(offset)}:{rest}")


def test_two_scenarios_are_refused_outside_files_too() -> None:
    """A value made in code is held to the same rules."""
    with pytest.raises(ValidationError, match="one scenario"):
        LoadSpec.model_validate({"scenario": "offline", "server": {"qps": 3}})


def test_what_a_load_may_take() -> None:
    """15 s; where the rate is searched for, the peak and the last load of 15 s each and four times that for the search."""
    assert LoadSpec().longest_s == 15 and LoadSpec.model_validate({"server": {"qps": 3}}).longest_s == 15
    assert LoadSpec.model_validate({"server": {"slo_ms": 3}}).longest_s == 90
    assert LoadSpec.model_validate({"server": {"slo_ms": 3, "max_search_s": 20}}).longest_s == 50


def test_only_other_loads_change_a_studys_identity() -> None:
    """Studies from before there were scenarios go on; how long a load lasts is no other load."""
    assert LoadSpec().identity() == LoadSpec(max_s=3).identity() == {}
    server = LoadSpec.model_validate({"server": {"qps": 3}}).identity()
    assert server != LoadSpec.model_validate({"server": {"qps": 4}}).identity() != {}
    assert LoadSpec(driver="loadgen").identity() != {}


def test_a_driver_that_is_missing_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(EnvironmentProblem, match="LoadGen") as caught:
        check_load(LoadSpec(driver="loadgen"))
    assert "pip install 'autotune[loadgen]'" in str(caught.value)


def test_a_rate_at_which_hardly_anything_arrives_is_told(tmp_path: Path) -> None:
    """Ten requests are expected at 0.5 a second in 20 s and 9.5 in 19 s: told at the line, with the rate that would do."""
    check_load(loaded(tmp_path, "load: {server: {qps: 0.5}, max_s: 20}").load)
    for rate in ("0.5", "1.0e-310"):
        with pytest.raises(SpecError) as caught:
            check_load(loaded(tmp_path, f"load: {{scenario: server, max_s: 19,\n  qps: {rate}}}").load)
        (problem,) = caught.value.problems
        assert (problem.key, problem.line) == ("load.qps", LINE + 1) and "a rate from 0.53 on" in problem.allowed
        assert "requests within load.max_s = 19 s" in problem.found


# Recorded traces


def trace(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    return file


def test_a_trace_begins_with_its_first_arrival(tmp_path: Path) -> None:
    """Seconds since any epoch, with or without a header, with or without samples."""
    found = read_arrivals(trace(tmp_path, "second,samples\n1000.5,2\n1001.0,1\n\n1001.0,3\n"))
    assert found.second == (0.0, 0.5, 0.5) and found.samples == (2, 1, 3)
    assert read_arrivals(trace(tmp_path, "3\n4\n")).samples == (1, 1)


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("second\n1\n0.5\n", 3, "0.5 after 1"),
        ("second\n1\nlater\n", 3, "'later'"),
        ("time\n1\n2\n", 1, "'time'"),
        ("1\nnan\n", 2, "'nan'"),
        ("1\n2,0\n", 2, "'2,0'"),
        ("1\n2,1.5\n", 2, "'2,1.5'"),
        ("1\n2,3,4\n", 2, "'2,3,4'"),
        ("second,samples\n1,2\n2\n", 3, "'2' under a header of 2"),
        ("second\n1\n2,3\n", 3, "'2,3' under a header of 1"),
        ("1\n", None, "1 arrivals in no time"),
        ("1\n1\n", None, "2 arrivals in no time"),
        ("", None, "0 arrivals in no time"),
    ],
)
def test_a_wrong_trace_names_its_own_line(tmp_path: Path, text: str, line: int | None, found: str) -> None:
    """The fault is placed in the CSV file, not in the study."""
    file = trace(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        check_load(LoadSpec.model_validate({"trace": {"file": file}}))
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.key, problem.found) == (str(file), line, "load.trace", found)
