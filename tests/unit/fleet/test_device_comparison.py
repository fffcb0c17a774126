"""Devices side by side: each study's own best, costs by hand, and ties named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from unit.study import study_samples as samples

from autotune.errors import SpecError
from autotune.fleet.comparison import StudyOnDevice, compare_devices
from autotune.spec.prices import PriceTable, read_prices
from autotune.store.studies import StudyRow

PRICES = PriceTable(file=Path("p.yaml"), currency="EUR", per_hour={"A": 3.6, "B": 0.36})


def on(device: str, *records: Any, model: str = "m", name: str = "", has: tuple[str, ...] = ()) -> StudyOnDevice:
    row = StudyRow(
        id=1, name=name or f"s@{device}", state="idle", target_trials=1, objectives=("accuracy", "throughput"), spec={},
        spec_digest="", model_digest=model, environment_key="", created_at="",
    )  # fmt: skip
    return StudyOnDevice(row=row, spec=samples.study(), device=device, records=records, reference=None, instructions=has)


def test_costs_by_hand() -> None:
    """1000 items/s at 3.6 an hour: a million items take 1000 s at 0.001 and cost 1; 200 items/s at a tenth of it cost 0.5."""
    found = compare_devices([on("B", samples.record(1, rate=200.0)), on("A", samples.record(1, rate=1000.0))], PRICES)
    assert [r.device for r in found.results] == ["A", "B"]
    costs = {r.device: r.cost_per_million_items.value for r in found.results if r.cost_per_million_items}
    assert costs == pytest.approx({"A": 1.0, "B": 0.5})
    assert found.leaders["throughput"].study == "s@A" and found.leaders["cost"].study == "s@B"
    assert "energy" not in found.leaders, "what was not measured has no leader"


def test_ties_between_devices() -> None:
    """100 ± 3 and 104 ± 3: the difference of 4 is within √18 = 4.24."""
    near = compare_devices(
        [on("A", samples.record(1, rate=100.0, half=3.0)), on("B", samples.record(1, rate=104.0, half=3.0))], None
    )
    assert near.leaders["throughput"].study == "s@B" and near.leaders["throughput"].ties == ("s@A",)
    far = compare_devices(
        [on("A", samples.record(1, rate=100.0, half=3.0)), on("B", samples.record(1, rate=105.0, half=3.0))], None
    )
    assert far.leaders["throughput"].ties == ()


def test_what_differs_is_said() -> None:
    """Two models are no comparison of devices."""
    assert compare_devices([on("A"), on("B", model="other")], None).differences == ("model",)


def test_cpus_of_one_name_are_told_apart() -> None:
    """By what another one lacks; of a study of an earlier version nothing is known, and another name is another CPU anyway."""
    old, new = on("Xeon", name="old", has=("avx2", "vnni")), on("Xeon", name="new", has=("amx", "avx2"))
    others = (on("Xeon", name="unknown"), on("EPYC", has=("sse",)))
    found = {r.study: r.own_instructions for r in compare_devices([old, new, *others], None).results}
    assert found == {"old": ("vnni",), "new": ("amx",), "unknown": (), "s@EPYC": ()}
    document = compare_devices([old], None).as_json()["studies"][0]
    assert document["instructions"] == ["avx2", "vnni"] and compare_devices([old], None).results[0].own_instructions == ()


def test_a_device_without_a_price_is_named() -> None:
    """No price is made up."""
    with pytest.raises(SpecError, match="no price of 'C'"):
        compare_devices([on("C", samples.record(1))], PRICES)


def test_a_key_stands_for_what_begins_with_it() -> None:
    """Whole words only, and the longest one counts."""
    table = PriceTable(file=Path("p"), currency="EUR", per_hour={"Tesla V100": 1.0, "Tesla V100-SXM2-32GB": 2.0})
    assert table.price_of("Tesla V100-SXM2-16GB (sm_70, 16160 MiB)") == 1.0
    assert table.price_of("Tesla V100-SXM2-32GB (sm_70)") == 2.0
    assert table.price_of("Tesla V1000") is None


def test_faults_of_a_price_table_have_lines(tmp_path: Path) -> None:
    """Every fault at once, each with file and line."""
    file = tmp_path / "prices.yaml"
    file.write_text("currency: 7\nper_hour:\n  A: -1\n  B: true\n  C: 2\nper_day: {}\n")
    with pytest.raises(SpecError) as caught:
        read_prices(file)
    assert [p.line for p in caught.value.problems] == [1, 3, 4, 6]
    file.write_text("currency: EUR\nper_hour: {A: 1, B.5: 0.5}\n")
    assert read_prices(file).per_hour == {"A": 1.0, "B.5": 0.5}


def test_the_example_has_no_real_prices() -> None:
    """The shipped example can be read, and says that its numbers are placeholders."""
    file = Path(__file__).parents[3] / "examples" / "prices.yaml"
    assert read_prices(file).per_hour and "placeholder" in file.read_text()
