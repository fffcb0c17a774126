"""The tables of knobs and engines in README and docs, generated from the backends so that they cannot be wrong.

`python -m autotune.report.knob_table FILE` writes a table between its two markers; the first names the engines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from autotune.candidate import KNOBS
from autotune.engines.build import load_backend
from autotune.engines.protocol import Backend
from autotune.registry import ENGINES

BEGIN, END = "<!-- knobs:begin", "<!-- knobs:end -->"
_NONE = "no such knob: null"


def knob_table(engines: Sequence[str]) -> str:
    """A Markdown table: one row per knob that one of the engines has, one column per engine.

    Engines that are not installed keep their documentation.
    """
    backends = [load_backend(name) for name in engines]
    rows = ["| knob | " + " | ".join(b.name for b in backends) + " |", "|---|" + "---|" * len(backends)]
    for name, knob in KNOBS.items():
        if name != "engine" and any(_cell(b, name) != _NONE for b in backends):
            unit = f" ({knob.unit})" if knob.unit not in ("", "1") else ""
            rows.append(f"| `{name}`{unit} | " + " | ".join(_cell(b, name) for b in backends) + " |")
    return "\n".join(rows)


def _cell(backend: Backend, knob: str) -> str:
    docs = backend.capabilities().knob_docs
    if knob == "pruning_ratio":
        return "a smaller dense model"
    if knob == "precision":
        return docs[knob]
    if knob in docs:
        return f"{docs[knob]} ({'at build' if knob in backend.build_knobs else 'when opened'})"
    return _NONE


def with_table(text: str) -> str:
    """The document with the table between its markers, for the engines named in the first. Raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    line, _, rest = rest.partition("\n")
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the markers {BEGIN} … {END} are not in the document")
    engines = [name for name in line.partition("(")[0].split() if name in ENGINES.names()]
    return f"{before}{begin}{line}\n{knob_table(engines)}\n{end}{after}"


def main() -> None:
    """Rewrites the file named on the command line."""
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text()))


if __name__ == "__main__":
    main()
