"""Cloud: what was measured of all trials of a study, as columns, for drawings of thousands of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.records import TrialRecord

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
BARS_UP_TO = 500
"""Of more points than this the intervals would cover the picture; those of the front are drawn always."""
_CELLS = (400, 250)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Throughput in items/s and accuracy of trials that have both, each with its interval; every array has shape (n,).

    `older`: measured before the machine changed last.
    """

    number: NDArray[np.int64]
    rate: Array
    rate_low: Array
    rate_high: Array
    accuracy: Array
    accuracy_low: Array
    accuracy_high: Array
    precision: Sequence[str]
    older: Mask

    def __len__(self) -> int:
        return len(self.number)

    def where(self, which: Mask) -> Cloud:
        """Those of the trials."""
        return Cloud(
            number=self.number[which],
            rate=self.rate[which],
            rate_low=self.rate_low[which],
            rate_high=self.rate_high[which],
            accuracy=self.accuracy[which],
            accuracy_low=self.accuracy_low[which],
            accuracy_high=self.accuracy_high[which],
            precision=[self.precision[int(i)] for i in np.flatnonzero(which)],
            older=self.older[which],
        )

    def thinned(self) -> Cloud:
        """One trial for each place of a picture that can be told from the others; all where they are few."""
        if len(self) <= BARS_UP_TO:
            return self
        cells = [_cell(self.rate, _CELLS[0]), _cell(self.accuracy, _CELLS[1])]
        kinds = np.unique(np.array(self.precision), return_inverse=True)[1]
        _, first = np.unique(np.stack([*cells, kinds, self.older], axis=1), axis=0, return_index=True)
        which = np.zeros(len(self), dtype=bool)
        which[first] = True
        return self.where(which)


def _cell(values: Array, n: int) -> NDArray[np.int64]:
    span = float(np.ptp(values)) or 1.0
    found: NDArray[np.int64] = np.floor((values - np.min(values)) / span * (n - 1)).astype(np.int64)
    return found


def cloud_of(records: Sequence[TrialRecord]) -> Cloud:
    """The records that have both."""
    both = [(r, r.throughput_items_per_s, r.accuracy) for r in records]
    found = [(r, rate, accuracy) for r, rate, accuracy in both if rate is not None and accuracy is not None]
    present = max((r.regime for r in records), default=1)
    ends = [(t.value, t.low, t.high, a.value, a.low, a.high) for _, t, a in found]
    columns = np.array(ends, dtype=np.float64).reshape(len(found), 6).T
    return Cloud(
        number=np.array([r.number for r, *_ in found], dtype=np.int64),
        rate=columns[0],
        rate_low=columns[1],
        rate_high=columns[2],
        accuracy=columns[3],
        accuracy_low=columns[4],
        accuracy_high=columns[5],
        precision=[r.candidate.precision for r, *_ in found],
        older=np.array([r.regime < present for r, *_ in found], dtype=bool),
    )
