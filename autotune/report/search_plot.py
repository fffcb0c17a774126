"""Searches side by side as a drawing: hypervolume over virtual hours, median and quartiles over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.errors import EnvironmentProblem

_Style = str | tuple[int, tuple[float, ...]]
_STYLES: tuple[_Style, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))


def draw_searches(documents: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """The picture at `path`, a panel per document of `simulator.comparison.document`. Raises EnvironmentProblem."""
    try:
        import matplotlib
        import matplotlib.lines
    except ImportError as exc:
        raise EnvironmentProblem("drawing needs matplotlib.", remedy="pip install 'autotune[plot]'") from exc
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(documents))
    rows = -(-len(documents) // columns)
    labels = list(dict.fromkeys(label for found in documents for label in found["contestants"]))
    looks = _looks(labels)
    size = (7.5 * columns, 4.2 * rows + 0.8)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes, found in zip(grid.flat, documents, strict=False):
        _panel(axes, found, looks)
    for axes in list(grid.flat)[len(documents) :]:
        axes.axis("off")
    handles = [matplotlib.lines.Line2D([], [], color=looks[x][0], linestyle=looks[x][1], label=x) for x in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if columns > 1 else 1, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _looks(labels: Sequence[str]) -> dict[str, tuple[str, _Style]]:
    """Colour and style of each label's line: a colour per strategy, which is its first word, and a style for what helped it."""
    strategies = list(dict.fromkeys(label.split()[0] for label in labels))
    helps = list(dict.fromkeys(label.partition(" ")[2] for label in labels))
    return {
        label: (
            f"C{strategies.index(label.split()[0]) % 10}",
            _STYLES[helps.index(label.partition(" ")[2]) % len(_STYLES)],
        )
        for label in labels
    }


def _panel(axes: Any, found: Mapping[str, Any], looks: Mapping[str, tuple[str, _Style]]) -> None:
    for label, result in found["contestants"].items():
        curve = result["curve"]
        minutes = [60 * h for h in curve["hours"]]
        colour, style = looks[label]
        axes.step(minutes, curve["median"], where="post", linewidth=1.5, color=colour, linestyle=style)
        axes.fill_between(minutes, curve["low"], curve["high"], step="post", alpha=0.08, color=colour, linewidth=0)
    axes.axhline(found["goal"], color="#888888", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("virtual minutes")
    axes.set_ylabel("share of the exhaustive hypervolume")
    axes.set_title(f"{found['table']}, {found['points']} points; {found['device']}", fontsize=9)
    axes.grid(alpha=0.25, which="both")
