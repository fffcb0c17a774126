"""Accuracy on labelled data, measured on the built engine itself and paired with the reference."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.bench.metrics import Metric
from autotune.bench.statistics import (
    bootstrap_estimate,
    bootstrap_indices,
    mean_estimate,
    paired_share_drop,
    share_estimate,
)
from autotune.data.dataset import Dataset
from autotune.engines.protocol import Session
from autotune.errors import SpecError, Unstable
from autotune.records import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a metric gave: `per_sample`, shape (n,), or for a metric of the whole set its `value` and `resampled` values."""

    per_sample: NDArray[np.float64] | None = None
    value: float | None = None
    resampled: NDArray[np.float64] | None = None
    n: int

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that `scores_from_arrays` reads back."""
        if self.per_sample is not None:
            return {"per_sample": self.per_sample}
        return {"value": np.array([self.value]), "resampled": np.asarray(self.resampled), "n": np.array([self.n])}


def scores_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Scores:
    """The scores whose `as_arrays` was stored."""
    if "per_sample" in arrays:
        return Scores(per_sample=arrays["per_sample"], n=len(arrays["per_sample"]))
    return Scores(value=float(arrays["value"][0]), resampled=arrays["resampled"], n=int(arrays["n"][0]))


def predict(
    session: Session, dataset: Dataset, batch_size: int, rows: NDArray[np.intp] | None = None
) -> dict[str, NDArray[Any]]:
    """The outputs of every sample, by name, shape (n, …), using all slots. The last batch is padded with its own samples.

    `rows`: only these samples, in this order. Raises Unstable when an output is not finite or lost its batch dimension, and
    what the session raises.
    """
    wanted = np.arange(len(dataset)) if rows is None else rows
    n = len(wanted)
    parts: list[dict[str, NDArray[Any]] | None] = [None] * ((n + batch_size - 1) // batch_size)
    turns = itertools.count()
    failed: list[BaseException] = []

    def drive(slot: int) -> None:
        try:
            while not failed and (turn := next(turns)) < len(parts):
                start = turn * batch_size
                session.submit(dataset.take(wanted[np.arange(start, start + batch_size) % n]), slot)
                keep = min(batch_size, n - start)
                parts[turn] = {
                    name: _checked(name, value, batch_size)[:keep].copy() for name, value in session.wait(slot).items()
                }
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=drive, args=(slot,), daemon=True) for slot in range(session.slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    done = [part for part in parts if part is not None]
    return {name: np.concatenate([part[name] for part in done]) for name in done[0]}


def score(metric: Metric, outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any], seed: int = 0) -> Scores:
    """The metric on all samples, with resampled values where it has none per sample.

    Raises SpecError on a wrong metric, Unstable where it is not finite on these outputs.
    """
    result = _called(metric, outputs, labels)
    if not np.isfinite(result).all():
        raise Unstable("the metric gives a number that is not finite on this engine's outputs", stage="accuracy")
    if result.ndim == 1 and len(result) == len(labels):
        return Scores(per_sample=result, n=len(result))
    if result.ndim > 0:
        raise SpecError(f"data.metric: found scores of shape {result.shape}; allowed: ({len(labels)},), or one number")
    rows = int(getattr(metric, "rows_per_sample", 1))
    draws = bootstrap_indices(len(labels) // rows, seed)
    offsets = np.arange(rows)
    resampled = np.empty(len(draws))
    for i, draw in enumerate(draws):
        picked = (draw[:, None] * rows + offsets).ravel()
        resampled[i] = float(_called(metric, {k: v[picked] for k, v in outputs.items()}, labels[picked]))
    return Scores(value=float(result), resampled=resampled, n=len(labels) // rows)


def _called(metric: Metric, outputs: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.float64]:
    """What the metric gives, as numbers. Raises SpecError where it fails, whatever it raises: it may be the user's own code."""
    try:
        return np.asarray(metric(outputs, labels), dtype=np.float64)
    except Exception as exc:
        shapes = {name: value.shape for name, value in outputs.items()}
        raise SpecError(
            f"data.metric: the metric failed on outputs {shapes} and labels of shape {labels.shape}: "
            f"{type(exc).__name__}: {exc}; check that the metric fits the task"
        ) from exc


def accuracy_estimate(scores: Scores) -> Estimate:
    """The mean score with its interval: Wilson's for hits and misses, t for other scores, bootstrap for a metric of the set."""
    if scores.per_sample is None:
        return bootstrap_estimate(float(scores.value or 0.0), np.asarray(scores.resampled), scores.n)
    if is_hit_or_miss(scores.per_sample):
        return share_estimate(int(scores.per_sample.sum()), scores.n)
    return mean_estimate(scores.per_sample)


def drop_estimate(reference: Scores, other: Scores) -> Estimate:
    """How far `other` lies under `reference`, paired sample by sample (or resample by resample)."""
    if reference.per_sample is None or other.per_sample is None:
        value = float(reference.value or 0.0) - float(other.value or 0.0)
        return bootstrap_estimate(value, np.asarray(reference.resampled) - np.asarray(other.resampled), other.n)
    if is_hit_or_miss(reference.per_sample) and is_hit_or_miss(other.per_sample):
        return paired_share_drop(reference.per_sample, other.per_sample)
    return mean_estimate(reference.per_sample - other.per_sample)


def is_hit_or_miss(scores: NDArray[np.float64]) -> bool:
    """True when every score is 0 or 1."""
    return bool(np.all((scores == 0) | (scores == 1)))


def _checked(name: str, value: NDArray[Any], batch_size: int) -> NDArray[Any]:
    if value.ndim == 0 or value.shape[0] != batch_size:
        raise Unstable(f"output {name} has shape {value.shape} for a batch of {batch_size}", stage="accuracy")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise Unstable(f"output {name} holds values that are not finite", stage="accuracy")
    return value
