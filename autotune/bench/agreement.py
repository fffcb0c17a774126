"""How a variant differs from the reference beside the mean: its answers themselves, and the classes that lost most."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.bench.accuracy import Scores, is_hit_or_miss
from autotune.bench.answers import Answers, Outputs
from autotune.bench.statistics import holm_adjusted, mean_estimate, p_of_losses, paired_share_drop, share_estimate
from autotune.records import Agreement, ClassDrop, Estimate

_MOST_CLASSES = 10
"""Classes that are reported at most: a record stays small however many lost."""
_LEVEL = 0.05


def agreement(reference: Answers, other: Answers, labels: NDArray[Any]) -> Agreement:
    """What the two answered on the same samples. `labels`: in the order of the scores.

    A field is None where the task has no such thing: no class is named, labels are no classes, scores no hits and misses.
    """
    classes = class_drops(reference.scores, other.scores, labels)
    return Agreement(
        top1=_same_class(reference, other),
        output_difference=output_difference(reference.outputs, other.outputs),
        n_classes=None if classes is None else len(np.unique(labels)),
        classes=classes or (),
    )


def _same_class(reference: Answers, other: Answers) -> Estimate | None:
    if reference.named is None or other.named is None:
        return None
    return share_estimate(int(np.sum(reference.named == other.named)), len(other.named))


def output_difference(reference: Outputs, other: Outputs) -> Estimate | None:
    """Mean over the samples of ‖other − reference‖ / ‖reference‖, all floating outputs of a sample taken together.

    Over the samples of which both were kept; None where that are fewer than two, or the outputs do not match.
    """
    names = [name for name, value in reference.items() if value.dtype.kind == "f"]
    if not names or any(name not in other or other[name].shape[1:] != reference[name].shape[1:] for name in names):
        return None
    n = min(len(reference[names[0]]), len(other[names[0]]))
    if n < 2:
        return None
    before, after = (
        np.concatenate([o[k][:n].reshape(n, -1).astype(np.float64) for k in names], axis=1) for o in (reference, other)
    )
    scale = np.linalg.norm(before, axis=1)
    return mean_estimate(np.linalg.norm(after - before, axis=1) / np.where(scale > 0, scale, 1.0))


def class_drops(reference: Scores, other: Scores, labels: NDArray[Any]) -> tuple[ClassDrop, ...] | None:
    """The classes that lose certainly more than they win, the worst first; None where there are no classes.

    For each class with a sample the exact test of McNemar, Holm's correction over all classes, so that with 95 % no class is
    named which lost by chance; the intervals of all classes hold at once, too.
    """
    before, after = reference.per_sample, other.per_sample
    if before is None or after is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    if not (is_hit_or_miss(before) and is_hit_or_miss(after)):
        return None
    classes, index = np.unique(labels, return_inverse=True)
    lost = np.bincount(index, weights=before > after, minlength=len(classes)).astype(int)
    won = np.bincount(index, weights=after > before, minlength=len(classes)).astype(int)
    p = holm_adjusted(np.array([p_of_losses(int(x), int(y)) for x, y in zip(lost, won, strict=True)]))
    found = [
        ClassDrop(
            label=int(classes[k]),
            drop=paired_share_drop(before[index == k], after[index == k], n_intervals=len(classes)),
            p_value=float(p[k]),
        )
        for k in np.flatnonzero(p < _LEVEL)
    ]
    return tuple(sorted(found, key=lambda c: (-c.drop.value, c.label))[:_MOST_CLASSES])
