"""What a person reads: intervals that are not misread."""

from __future__ import annotations

import pytest

from autotune.cli.render import console, with_interval
from autotune.records import Estimate


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (812.3, 808.2, 816.4, "812.3 ±4.1"),
        (100.0, 90.0, 115.0, "100.0 ±12.5"),  # lopsided, but narrow
        (100.0, 60.0, 140.0, "100.0 ±40.0"),  # wide, but even
        (0.0123, 0.0083, 0.0163, "0.0123 ±0.0040"),  # a narrow one has as many decimals as it needs
        (11811.0, 4367.0, 31941.0, "11811.0 [4367.0, 31941.0]"),  # ±13787 would reach below zero
    ],
)
def test_wide_and_lopsided_intervals_are_shown_by_their_ends(value: float, low: float, high: float, text: str) -> None:
    """± is for what is about even."""
    assert with_interval(Estimate(value=value, low=low, high=high, n=5, method="t")) == text


def test_what_was_not_measured_is_a_dash() -> None:
    """Never a zero."""
    assert with_interval(None) == "–"


def test_a_table_of_hostile_names_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither escape sequences nor what looks like markup of the table library does anything."""
    from rich.table import Table

    table = Table()
    table.add_column("layer")
    table.add_row("\x1b]0;title\x07[/red] [link=x]conv")
    out = console()
    out.print(table)
    out.print("\x1b[2J[bold]", soft_wrap=True)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\\x1b]0;title[/red] [link=x]conv" in shown and "\\x1b[2J[bold]" in shown
