"""Searches side by side as a drawing: hypervolume over virtual hours, median and quartiles over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.errors import EnvironmentProblem


def draw_searches(documents: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """The picture at `path`, a panel per document of `simulator.comparison.document`. Raises EnvironmentProblem."""
    try:
        import matplotlib
    except ImportError as exc:
        raise EnvironmentProblem("drawing needs matplotlib.", remedy="pip install 'autotune[plot]'") from exc
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(documents))
    rows = -(-len(documents) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(7.5 * columns, 4.5 * rows), layout="constrained", squeeze=False)
    for axes, found in zip(grid.flat, documents, strict=False):
        _panel(axes, found)
    for axes in list(grid.flat)[len(documents) :]:
        axes.axis("off")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _panel(axes: Any, found: Mapping[str, Any]) -> None:
    ends = []
    for label, result in found["contestants"].items():
        curve = result["curve"]
        minutes = [60 * h for h in curve["hours"]]
        (line,) = axes.step(minutes, curve["median"], where="post", label=label, linewidth=1.5)
        axes.fill_between(minutes, curve["low"], curve["high"], step="post", alpha=0.12, color=line.get_color())
        ends.append(minutes[-1])
    axes.axhline(found["goal"], color="#888888", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, max(ends, default=1.0))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("virtual minutes")
    axes.set_ylabel("share of the exhaustive hypervolume")
    axes.set_title(f"{found['table']}, {found['points']} points; {found['device']}", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=7)
