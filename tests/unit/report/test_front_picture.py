"""The drawing of the front is a picture in the form its suffix names, also where little or nothing was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'autotune[plot]'")

from autotune.candidate import Candidate
from autotune.records import Estimate, TrialRecord
from autotune.report.cloud import cloud_of
from autotune.report.plot import draw_front

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def record(number: int, rate: float | None, accuracy: float | None) -> TrialRecord:
    def estimate(value: float | None) -> Estimate | None:
        return None if value is None else Estimate(value=value, low=value * 0.9, high=value * 1.1, n=9, method="test")

    candidate = Candidate.from_json(
        {"engine": "fake", "precision": "int8", "pruning_ratio": 0.0, "batch_size": 1, "streams": 1, "worker_threads": 1}
        | {"memory_pool_mib": None}
    )
    return TrialRecord(
        number=number, state="complete", candidate=candidate, metric="top1",
        accuracy=estimate(accuracy), throughput_items_per_s=estimate(rate),
    )  # fmt: skip


@pytest.mark.parametrize("suffix", MAGIC)
def test_the_suffix_gives_the_form(suffix: str, tmp_path: Path) -> None:
    """A picture of the named form; trials without a number are left out instead of drawn at zero."""
    records = [record(1, 10.0, 0.9), record(2, 20.0, 0.8), record(3, None, 0.7)]
    found = draw_front(cloud_of(records), records[:2], record(0, 5.0, 0.9), tmp_path / f"front{suffix}")
    assert found.read_bytes().startswith(MAGIC[suffix])
    if suffix == ".svg":
        text = found.read_text()
        assert "95 %" in text or "<path" in text


def test_a_study_without_a_result_has_an_empty_drawing(tmp_path: Path) -> None:
    """Nothing measured is no error."""
    assert draw_front(cloud_of([]), [], None, tmp_path / "front.png").stat().st_size > 0
