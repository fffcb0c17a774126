"""draw_searches: a picture in which every search can be told from the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.report.search_plot import _looks, draw_searches

LABELS = [f"{s} {h}" for s in ("cost-aware", "tpe", "gp") for h in ("+ caches + priors", "alone")]
LABELS += [f"cost-aware + caches{more}" for more in ("", " + priors + warm start from another device", " + fronts")]


def test_no_two_searches_look_alike() -> None:
    """One colour per strategy; what helped it makes the style."""
    looks = _looks(LABELS)
    assert len(set(looks.values())) == len(LABELS)
    assert looks["tpe alone"][0] == looks["tpe + caches + priors"][0]
    assert looks["tpe alone"][1] == looks["gp alone"][1]


def test_a_picture_per_table(tmp_path: Path) -> None:
    """Three documents, one of them with another set of searches: one file."""
    pytest.importorskip("matplotlib")
    curve = {"hours": [0.01, 0.02], "median": [0.5, 1.0], "low": [0.4, 0.9], "high": [0.6, 1.0]}
    documents = [
        {"table": "t", "points": 3, "device": "d", "goal": 0.95, "contestants": {x: {"curve": curve} for x in labels}}
        for labels in (LABELS, LABELS[:2], LABELS)
    ]
    assert draw_searches(documents, tmp_path / "x.png").stat().st_size > 10_000
