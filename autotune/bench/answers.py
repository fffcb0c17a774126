"""What is kept of a session's answers: a score per sample, the class it named, and the first outputs themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.bench.accuracy import Scores, scores_from_arrays
from autotune.bench.visit import PROBE_SAMPLES

Outputs = Mapping[str, NDArray[Any]]
_SCORES, _NAMED, _OUTPUTS = "scores.npz", "named.npz", "outputs.npz"
_MAX_OUTPUT_BYTES = 4 << 20
_MAX_OUTPUT_SAMPLES = 1024
"""Of so many samples at most the outputs are kept: 1,000 relative differences give their mean within a few per cent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers to some samples, in one order for all fields.

    `scores`: what the metric gave. `named`, shape (n,): the class with the largest logit of the first output, None where that
    is no (n, classes) array. `outputs`: of the first samples in the order of the visit, by name, shape (k, …).
    """

    scores: Scores
    named: NDArray[np.int32] | None = None
    outputs: Outputs = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """The files that `stored_answers` reads back are in the folder."""
        np.savez(folder / _SCORES, **self.scores.as_arrays())  # type: ignore[arg-type]  # numpy's stub takes only its own keyword
        np.savez(folder / _OUTPUTS, **self.outputs)  # type: ignore[arg-type]  # the same
        if self.named is not None:
            np.savez(folder / _NAMED, named=self.named)


def stored_answers(folder: Path) -> Answers:
    """What `Answers.save` wrote; of an artifact of an older version the scores alone."""
    named = _arrays(folder / _NAMED).get("named")
    return Answers(scores=stored_scores(folder), named=named, outputs=_arrays(folder / _OUTPUTS))


def stored_scores(folder: Path) -> Scores:
    """The scores of a finished accuracy artifact."""
    return scores_from_arrays(_arrays(folder / _SCORES))


def are_stored(folder: Path) -> bool:
    """True when the folder holds answers."""
    return (folder / _SCORES).exists()


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def named_classes(outputs: Outputs) -> NDArray[np.int32] | None:
    """The class with the largest value of the first output, shape (n,); None where it does not hold a number per class."""
    first = next(iter(outputs.values()))
    if first.ndim != 2 or first.shape[1] < 2 or first.dtype.kind != "f":
        return None
    named: NDArray[np.int32] = first.argmax(axis=1).astype(np.int32)
    return named


def n_outputs_kept(outputs: Outputs) -> int:
    """Of how many samples the outputs are kept: as many as 4 MiB hold, at least the probe's and at most 1,024."""
    per_sample = max(1, sum(value[:1].nbytes for value in outputs.values()))
    return min(_MAX_OUTPUT_SAMPLES, max(PROBE_SAMPLES, _MAX_OUTPUT_BYTES // per_sample))
