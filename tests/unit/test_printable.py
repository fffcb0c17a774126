"""What a terminal would act on is written out; what a person would read stays."""

from __future__ import annotations

import pytest

from autotune.printable import printable


@pytest.mark.parametrize("text", ["", "conv_1/relu: 5 µs ×2 ±0.1 – ok\tend\n", "日本語 naïve ﷽"])
def test_text_stays(text: str) -> None:
    """Also tabs, line ends and every script."""
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x08\x7f\x9b2J", "a\\rb\\x08\\x7f\\x9b2J"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),
        ("\udce9", "\\udce9"),
    ],
)
def test_what_acts_is_written_out(text: str, shown: str) -> None:
    """Escape sequences, carriage returns, 8-bit controls, turned writing, line separators, lone surrogates."""
    assert printable(text) == shown
