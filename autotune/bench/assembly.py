"""Assembling batches of single samples, as a server must: every request brings a buffer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.engines.protocol import Inputs


class Assembler:
    """Batches for `slots` slots from a pool of samples, which requests go through in turn.

    `batches`: the pool, each entry with `batch_size` samples. `partial`: the session takes fewer samples than the batch size;
    else a batch that is not full is padded with what its buffer held before, as an engine with static shapes must be given it.
    `whole`: full batches of the pool are given as they stand in it, as where all samples are there from the beginning.
    """

    def __init__(self, batches: Sequence[Inputs], batch_size: int, slots: int, *, partial: bool, whole: bool = False) -> None:
        self._batches, self._batch_size, self._partial = batches, batch_size, partial
        self._whole = whole or batch_size == 1
        self._rows = {name: [row for batch in batches for row in batch[name]] for name in batches[0]}
        self._n = len(batches) * batch_size
        self._buffers: list[dict[str, NDArray[Any]]] = [
            {name: values.copy() for name, values in batches[0].items()} for _ in range(slots)
        ]

    def batch(self, slot: int, first: int, n: int) -> Inputs:
        """The samples `first`…`first + n` of the pool taken round and round, n ≤ batch size; valid until the slot's next."""
        if self._whole and n == self._batch_size and first % n == 0:
            return self._batches[first % self._n // n]
        buffers = self._buffers[slot]
        for name, buffer in buffers.items():
            rows = self._rows[name]
            for i in range(n):
                np.copyto(buffer[i], rows[(first + i) % self._n])
        if self._partial and n < self._batch_size:
            return {name: buffer[:n] for name, buffer in buffers.items()}
        return buffers
