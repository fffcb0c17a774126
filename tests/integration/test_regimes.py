"""A study on a machine that slows down in the middle: noticed, recorded, measured again and shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from assets import fake_study as fake


def test_a_slower_machine_is_noticed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the seventh trial on everything takes twice as long: a second regime at about half the speed.

    The front is measured under it, and front, show, best and status say so. The speeds make the reference's requests 10 and 20
    ms long: at 1.0 they take 2.5, which a sleep that ends 0.3 ms late makes longer by 12 %.
    """
    speed = tmp_path / "speed"
    speed.write_text("0.25")
    monkeypatch.setenv("AUTOTUNE_FAKE_SPEED", str(speed))
    fake.write_study(
        tmp_path,
        ("finalists: off", "finalists: {rounds: 2, at_most: 4}"),
        ("canary: off", "canary: {every_trials: 1}"),
    )
    fake.autotune(tmp_path, "start", "study.yaml", "--trials", 6)
    assert json.loads(fake.autotune(tmp_path, "front", "study.yaml", "--json").stdout)["regimes"] == []
    speed.write_text("0.125")
    log = fake.autotune(tmp_path, "start", "study.yaml", "--trials", 10).stderr
    assert "regime 2: the reference went from" in log
    document = json.loads(fake.autotune(tmp_path, "front", "study.yaml", "--json").stdout)
    (regime,) = document["regimes"]
    assert regime["number"] == 2 and 0.4 < regime["ratio"] < 0.6
    assert document["reference"]["regime"] == 2
    # Gains are told over the reference as it is now; over that of before the change they would be half of it.
    told = re.findall(r"^.*trial \d+ \[.*\]: ([\d.]+) .*items/s \(([\d.]+)×\)", log.partition("regime 2:")[2], re.MULTILINE)
    now = document["reference"]["throughput_items_per_s"]["value"]
    assert told and all(0.7 < float(rate) / float(gain) / now < 1.4 for rate, gain in told)
    for member in document["front"]:
        assert member["regime"] == 2 and any(p["regime"] == 2 for p in member["repetitions"])
    assert "the machine changed at" in fake.autotune(tmp_path, "front", "study.yaml").stdout
    assert "the machine changed at" in fake.autotune(tmp_path, "status", "study.yaml").stdout
    shown = fake.autotune(tmp_path, "show", "study.yaml", "ref").stdout
    assert "canary 1:" in shown and "final 1:" in shown
    chosen = json.loads(fake.autotune(tmp_path, "best", "study.yaml", "--json").stdout)
    assert chosen["throughput_items_per_s"]["n"] >= 2 and chosen["throughput_one_run"] is not None and "ties" in chosen
