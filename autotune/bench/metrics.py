"""Metrics: functions of outputs and labels. Higher is better; shape (n,) of scores per sample, or one number for the whole set.

A metric that gives one number may carry `rows_per_sample`, the number of consecutive rows that are resampled together. A metric
whose scores lie within known bounds, each made from its own sample alone, may carry `score_range`, the least and the largest
score: a candidate can then be rejected before all samples have run. Without it every candidate runs them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from autotune.errors import SpecError, SpecProblem
from autotune.registry import METRICS, load_object
from autotune.user_code import code_digest

Metric = Callable[[Mapping[str, NDArray[Any]], NDArray[Any]], NDArray[np.float64] | float]


def load_metric(name: str) -> Metric:
    """The metric registered as `name`, or the function at `module:function`. Raises SpecError."""
    if ":" not in name:
        return cast(Metric, METRICS.load(name))
    try:
        return cast(Metric, load_object(name))
    except Exception as exc:  # a module of the user's runs while it is imported, and may raise anything
        allowed = f"{', '.join(METRICS.names())}, or module:function that Python can import from here"
        raise SpecError([SpecProblem(key="data.metric", found=f"{name!r} ({exc})", allowed=allowed)]) from exc


def top1(outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.float64]:
    """1 where the largest logit of the first output, shape (n, classes), is at the label.

    Raises ValueError on fewer than two classes, or labels that are none of them.
    """
    return cast(NDArray[np.float64], (_logits(outputs, labels).argmax(axis=1) == labels).astype(np.float64))


def top5(outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.float64]:
    """1 where the label is among the five largest logits of the first output, shape (n, classes).

    Raises ValueError on labels that are no classes, and on five classes or fewer, of which every answer would be right.
    """
    logits = _logits(outputs, labels)
    if logits.shape[1] <= 5:
        raise ValueError(f"the output has {logits.shape[1]} classes, so that every label is among the five largest; use top1")
    best = np.argpartition(-logits, 4, axis=1)[:, :5]
    return cast(NDArray[np.float64], np.any(best == labels[:, None], axis=1).astype(np.float64))


def negative_mse(outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Minus the mean squared error of the first output against labels of the same shape (n, …), else ValueError."""
    found, wanted = (a.reshape(len(labels), -1) for a in (_first(outputs), labels))
    if found.shape != wanted.shape:  # one number per sample would be compared with every output
        raise ValueError(f"{wanted.shape[1]} label numbers for each sample cannot be compared with {found.shape[1]} outputs")
    return cast(NDArray[np.float64], -np.mean((found - wanted) ** 2, axis=1, dtype=np.float64))


def spearman_pairs(outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> float:
    """Spearman's rank correlation between the cosine similarity of rows 2i and 2i+1 of the first output and labels[2i]."""
    rows = _first(outputs).astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = np.sum(rows[0::2] * rows[1::2], axis=1)
    return float(np.corrcoef(_ranks(similarity), _ranks(labels[0::2]))[0, 1])


spearman_pairs.rows_per_sample = 2  # type: ignore[attr-defined]  # functions carry attributes; see the module's docstring


def score_range(metric: Metric) -> tuple[float, float] | None:
    """The bounds of the metric's scores per sample, None where it states none. Raises SpecError where they are no bounds."""
    found = getattr(metric, "score_range", None)
    if found is None:
        return None
    try:
        low, high = map(float, found)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not -math.inf < low < high < math.inf:
        raise SpecError(f"data.metric: found score_range {found!r}; allowed: two finite numbers, the smaller one first")
    return low, high


for _counted in (top1, top5):
    _counted.score_range = (0.0, 1.0)  # type: ignore[attr-defined]  # as above


def metric_identity(name: str) -> dict[str, str | None]:
    """What a metric's scores depend on: its name, and of a function of the user's the code as well. Raises SpecError."""
    load_metric(name)
    return {"metric": name, **({"metric_code": code_digest(name)} if ":" in name else {})}


def _logits(outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[Any]:
    logits = _first(outputs)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"the first output has shape (n, {', '.join(map(str, logits.shape[1:]))}) and not (n, classes)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"the labels go from {low} to {high}, the model's classes from 0 to {logits.shape[1] - 1}")
    return logits


def _first(outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return next(iter(outputs.values()))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]
