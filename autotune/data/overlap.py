"""Samples that two splits share, found by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autotune.cache import Cache
from autotune.data.dataset import Dataset
from autotune.fingerprint import digest_of


def n_shared(judged: Dataset, other: Dataset, cache: Cache) -> int:
    """How many samples of `judged` are in `other` too, byte for byte as they are stored. Counted once per pair of splits."""

    def make(folder: Path) -> Mapping[str, Any]:
        known = set(_samples(other))
        return {"n": sum(digest in known for digest in _samples(judged))}

    return int(cache.get_or_make("overlap", digest_of([judged.digest, other.digest]), make).facts["n"])


def _samples(dataset: Dataset) -> Iterator[bytes]:
    """A digest of each sample, over all of its arrays."""
    arrays = [dataset.arrays[name] for name in sorted(dataset.arrays)]
    for i in range(len(dataset)):
        seen = hashlib.blake2b(digest_size=16)
        for array in arrays:
            row = np.ascontiguousarray(array[i])
            seen.update(f"{row.dtype.str}{row.shape}".encode())
            seen.update(row.tobytes())
        yield seen.digest()
