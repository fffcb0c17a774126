"""Sensitivity to the calibration samples: which subsets there are, and what their accuracies say together."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.candidate import Candidate
from autotune.data.dataset import Dataset
from autotune.errors import SpecError
from autotune.records import Estimate, Rejection
from autotune.study.calibration import CalibratedAccuracy, CalibrationSpread, subset_size, summarized

CANDIDATE = Candidate(
    engine="fake", precision="int8", pruning_ratio=0.0, batch_size=1, streams=1, worker_threads=1, memory_pool_mib=None
)


def one(accuracy: float | None, seed: int | None = None) -> CalibratedAccuracy:
    if accuracy is None:
        reject = Rejection(reason="build_failed", stage="variant", message="no")
        return CalibratedAccuracy(seed=seed, size=10, accuracy=None, accuracy_drop=None, reject=reject)
    found = Estimate(value=accuracy, low=accuracy - 0.1, high=accuracy + 0.1, n=100, method="wilson")
    return CalibratedAccuracy(seed=seed, size=10, accuracy=found, accuracy_drop=found)


def spread(used: float, *drawn: float | None) -> CalibrationSpread:
    return summarized(CANDIDATE, "top1", 20, one(used), tuple(one(a, k) for k, a in enumerate(drawn, 1)))


def test_the_spread_is_that_of_the_subsets() -> None:
    """0.70, 0.72, 0.74: s = 0.02, their mean 0.72 is 0.03 above the 0.69 used; t = 4.30 with two degrees of freedom."""
    found = spread(0.69, 0.70, 0.72, 0.74)
    assert found.spread is not None and found.spread.value == pytest.approx(0.02)
    assert found.mean_against_used is not None and found.mean_against_used.value == pytest.approx(0.03)
    assert found.mean_against_used.half_width == pytest.approx(4.30265 * 0.02 / 3**0.5, rel=1e-4)
    assert found.another_subset is not None
    assert found.another_subset.half_width == pytest.approx(4.30265 * 0.02 * (4 / 3) ** 0.5, rel=1e-4)
    assert found.used_is_typical is True


def test_samples_that_stand_apart_are_named() -> None:
    """0.60 is none of the values that subsets around 0.72 give."""
    assert spread(0.60, 0.71, 0.72, 0.73).used_is_typical is False


def test_a_subset_without_a_result_is_kept_and_not_counted() -> None:
    """Two of three subsets were measured: their spread; with one there is none, and no verdict."""
    found = spread(0.7, 0.70, None, 0.72)
    assert found.spread is not None and found.spread.n == 2 and found.drawn[1].reject is not None
    alone = spread(0.7, 0.70, None)
    assert (alone.spread, alone.another_subset, alone.mean_against_used, alone.used_is_typical) == (None, None, None, None)


def test_subsets_are_smaller_than_the_split_and_no_larger_than_a_quantizer_looks_at() -> None:
    """Half by default; one sample is left out, else all subsets were one; above 512 the quantizer would choose."""
    assert [subset_size(n, None) for n in (2, 3, 200, 5000)] == [1, 1, 100, 512]
    assert subset_size(200, 199) == 199
    for n, asked in ((200, 200), (200, 0), (5000, 513), (1, None)):
        with pytest.raises(SpecError, match="--size"):
            subset_size(n, asked)


def dataset(n: int) -> Dataset:
    return Dataset(arrays={"x": np.arange(n)[:, None]}, labels=np.arange(n), preprocess=None, digest="numbers")


def test_a_sample_of_a_dataset_is_drawn_by_its_seed() -> None:
    """Without replacement, in the set's order, labels beside; equal for equal seeds, and its digest names the rows."""
    whole = dataset(50)
    part, again, other = whole.sampled(20, 1), whole.sampled(20, 1), whole.sampled(20, 2)
    rows = part.arrays["x"][:, 0].tolist()
    assert len(set(rows)) == 20 and rows == sorted(rows) and part.labels is not None and part.labels.tolist() == rows
    assert again.arrays["x"][:, 0].tolist() == rows and again.digest == part.digest
    assert len({whole.digest, part.digest, other.digest}) == 3
    with pytest.raises(ValueError, match="cannot be drawn"):
        whole.sampled(51, 1)


def test_every_sample_is_drawn_as_often_as_any() -> None:
    """Over 2,000 seeds each of 10 samples is in a half in 50 %, within 4 standard deviations."""
    whole, counts = dataset(10), np.zeros(10)
    for seed in range(2000):
        counts[whole.sampled(5, seed).arrays["x"][:, 0]] += 1
    assert np.all(np.abs(counts / 2000 - 0.5) <= 4 * (0.25 / 2000) ** 0.5)
