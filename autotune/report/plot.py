"""The front as a drawing: accuracy against throughput, with both intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotune.errors import EnvironmentProblem
from autotune.records import TrialRecord

_MARKERS = {"fp32": "o", "bf16": "D", "fp16": "s", "int8": "^", "int8-tensor": "v"}


def draw_front(records: Sequence[TrialRecord], front: Sequence[TrialRecord], reference: TrialRecord | None, path: Path) -> Path:
    """The picture at `path`, whose suffix gives the format. Raises EnvironmentProblem without matplotlib."""
    try:
        import matplotlib
    except ImportError as exc:
        raise EnvironmentProblem("drawing needs matplotlib.", remedy="pip install 'autotune[plot]'") from exc
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for label, group, colour in _groups(records, front):
        _points(axes, group, colour, label)
    if reference is not None:
        _points(axes, [reference], "#1d4ed8", "reference (unmodified)")
    line = sorted(front, key=lambda r: r.throughput_items_per_s.value if r.throughput_items_per_s else 0.0)
    pairs = [(r.throughput_items_per_s.value, r.accuracy.value) for r in line if r.throughput_items_per_s and r.accuracy]
    if pairs:
        axes.plot(*zip(*pairs, strict=True), color="#c2410c", linewidth=1, alpha=0.6, zorder=1)
    metric = next((r.metric for r in records if r.metric), "accuracy")
    load = next((r.load for r in records if r.load is not None), None)
    means = "throughput, items per second" if load is None or load.scenario == "offline" else load.throughput_means
    axes.set_xlabel(f"{means} (95 % interval)")
    axes.set_ylabel(f"{metric} (95 % interval)")
    used = sorted({r.candidate.precision for r in records if r.accuracy and r.throughput_items_per_s})
    shapes = ", ".join(f"{_SHAPES.get(_MARKERS.get(p, 'o'), 'circle')} {p}" for p in used)
    axes.set_title(f"{records[0].device if records else ''}\n{shapes}", fontsize=9)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _groups(records: Sequence[TrialRecord], front: Sequence[TrialRecord]) -> list[tuple[str, list[TrialRecord], str]]:
    """Label, trials and colour of what is drawn, from the back to the front."""
    members = {r.number for r in front}
    others = [r for r in records if r.number not in members]
    present = max((r.regime for r in records), default=1)
    return [
        ("before the machine changed", [r for r in others if r.regime < present], "#e2d5c3"),
        ("measured", [r for r in others if r.regime == present], "#9aa5b1"),
        ("Pareto front", list(front), "#c2410c"),
    ]


_SHAPES = {"o": "● ", "D": "◆ ", "s": "■ ", "^": "▲ ", "v": "▼ "}


def _points(axes: object, group: Sequence[TrialRecord], colour: str, label: str) -> None:
    for record in group:
        rate, accuracy = record.throughput_items_per_s, record.accuracy
        if rate is None or accuracy is None:
            continue
        axes.errorbar(  # type: ignore[attr-defined]  # matplotlib's Axes, imported only where it is needed
            rate.value,
            accuracy.value,
            xerr=[[rate.value - rate.low], [rate.high - rate.value]],
            yerr=[[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]],
            marker=_MARKERS.get(record.candidate.precision, "o"),
            color=colour,
            elinewidth=0.6,
            alpha=0.9,
            markersize=6,
            linestyle="none",
            label=label,
        )
        label = "_nolegend_"
