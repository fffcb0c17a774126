"""Text from models, engines and files, as it may be shown on a terminal."""

from __future__ import annotations

import unicodedata

_PLAIN = frozenset("\n\t")


def printable(text: str) -> str:
    """The text with its control characters written out, such as \\x1b: on a terminal they move, hide and rename things.

    Line ends and tabs stay. Written out are the Unicode categories Cc, Cs, Zl and Zp, and of Cf those that turn the direction
    of writing.
    """
    if text.isprintable():
        return text
    return "".join(c if c in _PLAIN or not _acts(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _acts(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in (
        "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
    )  # fmt: skip
