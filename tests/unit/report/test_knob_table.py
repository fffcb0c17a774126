"""The README's table of knobs is the one that the backends give."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.report.knob_table import knob_table, with_table

README = Path(__file__).parents[3] / "README.md"


def test_readme_holds_the_generated_table() -> None:
    """Whoever changes what a knob does on an engine also changes the README: python -m autotune.report.knob_table README.md."""
    assert knob_table() in README.read_text()


def test_rewriting_changes_nothing_else() -> None:
    """Text around the markers stays, and a second rewrite changes nothing."""
    once = with_table("before\n<!-- knobs:begin x -->\nold\n<!-- knobs:end -->\nafter\n")
    assert once.startswith("before\n<!-- knobs:begin x -->\n| knob |") and once.endswith("<!-- knobs:end -->\nafter\n")
    assert with_table(once) == once


def test_a_document_without_markers_is_refused() -> None:
    """Nothing is written into a file that has no place for the table."""
    with pytest.raises(ValueError, match="markers"):
        with_table("no table here")
