"""Dataset: the samples of one split, as named arrays with an equal first dimension."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.fingerprint import digest_of
from autotune.spec.inputs import InputSpec as InputSpec  # re-exported: what a dataset is bound to
from autotune.spec.model import PreprocessSpec, SplitSpec

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Samples as stored (`arrays`, each (n, …), possibly memory-mapped), their `labels`, and what turns them into inputs.

    `digest` names the content, preprocessing included. `casts`: array → dtype that its batches are given after preprocessing.
    `source` is the section of the study that named the samples, for messages. Reading is safe from several threads.
    """

    arrays: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None
    preprocess: PreprocessSpec | None
    digest: str
    casts: Mapping[str, str] = field(default_factory=dict)
    source: SplitSpec | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batch(self, start: int, stop: int) -> Arrays:
        """Model inputs of the samples `start`…`stop`, by input name: contiguous arrays of shape (stop − start, …)."""
        return self.take(np.arange(start, min(stop, len(self))))

    def take(self, indices: NDArray[np.intp]) -> Arrays:
        """Model inputs of the named samples, in that order."""
        return {name: self._input(name, array[indices]) for name, array in self.arrays.items()}

    def first(self, n: int) -> Dataset:
        """The first `n` samples, or all where there are fewer, under the same digest."""
        labels = None if self.labels is None else self.labels[:n]
        return replace(self, arrays={name: array[:n] for name, array in self.arrays.items()}, labels=labels)

    def sampled(self, n: int, seed: int) -> Dataset:
        """`n` of the samples, drawn at random without replacement, in the order of this set, under a digest of their own.

        They are copied. Raises ValueError where there are fewer.
        """
        if not 0 < n <= len(self):
            raise ValueError(f"{n} samples cannot be drawn from {len(self)}")
        stream = hashlib.shake_256(f"{seed} of {self.digest}".encode()).digest(8 * len(self))
        rows = np.sort(np.argsort(np.frombuffer(stream, dtype="<u8"), kind="stable")[:n])
        return replace(
            self,
            arrays={name: array[rows] for name, array in self.arrays.items()},
            labels=None if self.labels is None else self.labels[rows],
            digest=digest_of({"of": self.digest, "rows": rows.tolist()}),
        )

    def release(self) -> None:
        """Pages of memory-mapped samples no longer count as this process's memory; the next read brings them back."""
        for array in self.arrays.values():
            base: Any = array
            while isinstance(base, np.ndarray):
                base = base.base
            if isinstance(base, mmap.mmap):
                base.madvise(mmap.MADV_DONTNEED)

    def _input(self, name: str, raw: NDArray[Any]) -> NDArray[Any]:
        values = preprocessed(raw, self.preprocess)
        return values.astype(self.casts[name], copy=False) if name in self.casts else values


def preprocessed(raw: NDArray[Any], spec: PreprocessSpec | None) -> NDArray[Any]:
    """(raw·scale − mean)/std per channel as float32 in the layout asked for; without a spec the array as it is.

    `raw`: (n, height, width, channels), or any shape for layout none, where mean and std broadcast over the last axis.
    """
    if spec is None:
        return np.ascontiguousarray(raw)
    values = raw.astype(np.float32)
    values *= np.float32(spec.scale)
    values -= np.asarray(spec.mean, dtype=np.float32)
    values /= np.asarray(spec.std, dtype=np.float32)
    if spec.layout == "NCHW" and values.ndim == 4:
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values)
