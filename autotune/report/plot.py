"""The front as a drawing: accuracy against throughput, with both intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotune.errors import EnvironmentProblem
from autotune.records import TrialRecord
from autotune.report.cloud import BARS_UP_TO, Cloud, cloud_of

MARKERS = {"fp32": "o", "bf16": "D", "fp16": "s", "int8": "^", "int8-tensor": "v"}
SHAPES = {"o": "● ", "D": "◆ ", "s": "■ ", "^": "▲ ", "v": "▼ "}
OLDER, MEASURED, FRONT, REFERENCE = "#e2d5c3", "#9aa5b1", "#c2410c", "#1d4ed8"


def draw_front(cloud: Cloud, front: Sequence[TrialRecord], reference: TrialRecord | None, path: Path) -> Path:
    """The picture of all trials at `path`, whose suffix gives the format. Raises EnvironmentProblem without matplotlib."""
    try:
        import matplotlib
    except ImportError as exc:
        raise EnvironmentProblem("drawing needs matplotlib.", remedy="pip install 'autotune[plot]'") from exc
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    others = cloud.where(~np.isin(cloud.number, [r.number for r in front]))
    _points(axes, others.where(others.older), OLDER, "before the machine changed")
    _points(axes, others.where(~others.older), MEASURED, "measured")
    _points(axes, cloud_of(front), FRONT, "Pareto front")
    if reference is not None:
        _points(axes, cloud_of([reference]), REFERENCE, "reference (unmodified)")
    line = cloud_of(front)
    if len(line):
        order = np.argsort(line.rate)
        axes.plot(line.rate[order], line.accuracy[order], color=FRONT, linewidth=1, alpha=0.6, zorder=1)
    known = [*([reference] if reference else []), *front]
    metric = next((r.metric for r in known if r.metric), "accuracy")
    axes.set_xlabel(f"{throughput_means(known)} (95 % interval)")
    axes.set_ylabel(f"{metric} (95 % interval)")
    shapes = ", ".join(f"{SHAPES.get(MARKERS.get(p, 'o'), 'circle')} {p}" for p in sorted(set(cloud.precision)))
    axes.set_title(f"{known[0].device if known else ''}\n{shapes}", fontsize=9)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def throughput_means(records: Sequence[TrialRecord]) -> str:
    """What the throughput of these trials of one study is, in words."""
    load = next((r.load for r in records if r.load is not None), None)
    return "throughput, items per second" if load is None or load.scenario == "offline" else load.throughput_means


def _points(axes: Any, cloud: Cloud, colour: str, label: str) -> None:
    drawn = cloud.thinned()
    for marker in sorted({MARKERS.get(p, "o") for p in drawn.precision}):
        group = drawn.where(np.array([MARKERS.get(p, "o") == marker for p in drawn.precision], dtype=bool))
        bars: dict[str, Any] = {}
        if len(cloud) <= BARS_UP_TO:
            bars["xerr"] = [group.rate - group.rate_low, group.rate_high - group.rate]
            bars["yerr"] = [group.accuracy - group.accuracy_low, group.accuracy_high - group.accuracy]
        axes.errorbar(
            group.rate, group.accuracy, **bars, marker=marker, color=colour, elinewidth=0.6, alpha=0.9,
            markersize=6 if bars else 3, linestyle="none", label=label,
        )  # fmt: skip
        label = "_nolegend_"
