"""The front as SVG for a page: accuracy against throughput, drawn with the standard library so that a report is quick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from autotune.records import TrialRecord
from autotune.report.cloud import BARS_UP_TO, Cloud, cloud_of
from autotune.report.plot import FRONT, MARKERS, MEASURED, OLDER, REFERENCE, throughput_means

_WIDTH, _HEIGHT = 860, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 34, 52
_SHAPES = {
    "o": '<circle cx="{x}" cy="{y}" r="{r}"/>',
    "s": '<path d="M{x} {y}m-{r}-{r}h{d}v{d}h-{d}z"/>',
    "D": '<path d="M{x} {y}m0-{r}l{r} {r}l-{r} {r}l-{r}-{r}z"/>',
    "^": '<path d="M{x} {y}m0-{r}l{r} {d}h-{d}z"/>',
    "v": '<path d="M{x} {y}m0 {r}l{r}-{d}h-{d}z"/>',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """From a value to pixels, linear, with some air at both ends."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin), 1)

    def ticks(self) -> list[float]:
        """About six round numbers."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / 5))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= 7)
        first = math.ceil(self.low / step)
        return [step * i for i in range(first, math.floor(self.high / step) + 1)]


def front_svg(cloud: Cloud, front: Sequence[TrialRecord], reference: TrialRecord | None) -> str:
    """An <svg> element with axes, all trials, the front with both intervals, and the reference. Nothing in it is fetched."""
    members, base = cloud_of(front), cloud_of([reference] if reference else [])
    drawn = cloud.where(~np.isin(cloud.number, members.number))
    shown = [c for c in (drawn, members, base) if len(c)]
    if not shown:
        return "<p>Nothing was measured yet.</p>"
    known = [*([reference] if reference else []), *front]
    metric = next((r.metric for r in known if r.metric), "accuracy")
    x = _scale([v for c in shown for v in _extent(c, "rate")], _LEFT, _WIDTH - _RIGHT)
    y = _scale([v for c in shown for v in _extent(c, "accuracy")], _HEIGHT - _BOTTOM, _TOP)
    order = np.argsort(members.rate)
    line = " ".join(f"{x(members.rate[i])},{y(members.accuracy[i])}" for i in order)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="accuracy against throughput">',
        *_axes(x, y, f"{throughput_means(known)} (95 % interval)", f"{metric} (95 % interval)"),
        _group(drawn.where(drawn.older), x, y, OLDER),
        _group(drawn.where(~drawn.older), x, y, MEASURED),
        f'<polyline points="{line}" fill="none" stroke="{FRONT}" opacity=".6"/>',
        _group(members, x, y, FRONT),
        _group(base, x, y, REFERENCE),
        *_legend(drawn, base),
        "</svg>",
    ]
    return "\n".join(parts)


def _extent(cloud: Cloud, name: str) -> tuple[float, float]:
    bars = len(cloud) <= BARS_UP_TO
    low = getattr(cloud, f"{name}_low" if bars else name)
    high = getattr(cloud, f"{name}_high" if bars else name)
    return float(np.min(low)), float(np.max(high))


def _scale(values: Sequence[float], begin: float, end: float) -> _Scale:
    low, high = min(values), max(values)
    air = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return _Scale(low=low - air, high=high + air, begin=begin, end=end)


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str) -> list[str]:
    found = []
    for tick in x.ticks():
        found.append(f'<path d="M{x(tick)} {_TOP}V{_HEIGHT - _BOTTOM}" class="g"/>')
        found.append(f'<text x="{x(tick)}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        found.append(f'<path d="M{_LEFT} {y(tick)}H{_WIDTH - _RIGHT}" class="g"/>')
        found.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:.4g}</text>')
    found.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    found.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    return found


def _group(cloud: Cloud, x: _Scale, y: _Scale, colour: str) -> str:
    bars, drawn = len(cloud) <= BARS_UP_TO, cloud.thinned()
    parts = [f'<g fill="{colour}" stroke="none">']
    for i in range(len(drawn)):
        px, py, r = x(drawn.rate[i]), y(drawn.accuracy[i]), 4 if bars else 2
        if bars:
            ends = x(drawn.rate_low[i]), x(drawn.rate_high[i]), y(drawn.accuracy_low[i]), y(drawn.accuracy_high[i])
            parts.append(f'<path d="M{ends[0]} {py}H{ends[1]}M{px} {ends[2]}V{ends[3]}" stroke="{colour}" stroke-width=".6"/>')
        shape = _SHAPES[MARKERS.get(drawn.precision[i], "o")].format(x=px, y=py, r=r, d=2 * r)
        name = f"trial {drawn.number[i]}, {drawn.precision[i]}: {drawn.rate[i]:.1f} items/s, {drawn.accuracy[i]:.4f}"
        parts.append(f"<g>{shape}<title>{escape(name)}</title></g>" if bars else shape)
    return "\n".join([*parts, "</g>"])


def _legend(drawn: Cloud, base: Cloud) -> list[str]:
    entries = [("Pareto front", FRONT), ("measured", MEASURED)]
    entries += [("before the machine changed", OLDER)] if drawn.older.any() else []
    entries += [("reference (unmodified)", REFERENCE)] if len(base) else []
    found, at = [], float(_LEFT)
    for text, colour in entries:
        found.append(f'<circle cx="{at + 5}" cy="16" r="5" fill="{colour}"/><text x="{at + 14}" y="20">{escape(text)}</text>')
        at += 34 + 7 * len(text)
    return found
