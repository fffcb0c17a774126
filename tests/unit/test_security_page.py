"""docs/security.md names the tests that show its defences; they are there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_page_names_exists() -> None:
    """A defence whose test was renamed or removed is no defence that anybody shows."""
    page = (ROOT / "docs" / "security.md").read_text()
    named = set(re.findall(r"`((?:[\w/]+/)?test_\w+\.py)`", page))
    assert len(named) > 15
    assert [n for n in sorted(named) if not list((ROOT / "tests").rglob(n))] == []
    cases = runpy.run_path(str(ROOT / "tests" / "assets" / "broken_inputs.py"))["CASES"]
    said = re.findall(r"`test_broken_inputs\.py` \(([\w, …-]+)\)", page)
    assert [c for line in said for c in line.split(", ") if not c.endswith("…") and c not in cases] == []
