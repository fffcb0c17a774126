"""A whole study under a load of its own: searched, repeated, stored and shown alike."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from assets import fake_study as fake

OLD = next(line for line in fake.STUDY.splitlines() if line.startswith("load:"))
QUICK = "window_s: 0.1, min_windows: 3, max_s: 0.5, warmup_s: 0.1, precision: 0.1"


def study(folder: Path, load: str) -> Path:
    """Three trials, one round of finalists, and a canary."""
    changes = ((OLD, f"load: {{{load}, {QUICK}}}"), ("trials: 12", "trials: 3"))
    again = (("finalists: off", "finalists: {rounds: 1}"), ("canary: off", "canary: {every_trials: 2}"))
    return fake.write_study(folder, *changes, *again)


@pytest.mark.parametrize(
    ("load", "scenario", "peak"),
    [("server: {slo_ms: 400, max_search_s: 2}", "server", True), ("server: {qps: 100, slo_ms: 500}", "server", False)],
    ids=["searched", "given"],
)
def test_a_study_of_a_server(tmp_path: Path, load: str, scenario: str, peak: bool) -> None:
    """Every trial, finalist and canary ran under the study's load, which JSON, SQL and tables tell."""
    study(tmp_path, load)
    fake.autotune(tmp_path, "start", "study.yaml")
    document = json.loads(fake.autotune(tmp_path, "front", "study.yaml", "--json").stdout)
    assert document["reference"]["load"]["scenario"] == scenario
    assert (document["reference"]["load"]["peak_items_per_s"] is not None) == peak
    with sqlite3.connect(tmp_path / "study.db") as connection:
        rows = connection.execute("SELECT role, scenario, slo_ms, within_slo FROM at_v_loads").fetchall()
    assert {"reference", "search", "canary"} <= {role for role, *_ in rows}
    assert {(s, slo) for _, s, slo, _ in rows} == {(scenario, 400.0 if peak else 500.0)} and all(
        w is not None for *_, w in rows
    )
    text = fake.autotune(tmp_path, "show", "study.yaml", "ref").stdout
    assert "scenario=server" in text and "within_slo=" in text
    assert "items/s:" in fake.autotune(tmp_path, "front", "study.yaml").stdout


def test_another_load_is_another_study(tmp_path: Path) -> None:
    """Throughputs under two loads are no comparison: the study is refused, and both loads are named."""
    study(tmp_path, "scenario: offline")
    fake.autotune(tmp_path, "start", "study.yaml", "--trials", "1")
    study(tmp_path, "server: {qps: 100, slo_ms: 500}")
    refused = fake.autotune(tmp_path, "start", "study.yaml", "--trials", "2", expect=2)
    assert "load.scenario: offline → server" in refused.stderr
