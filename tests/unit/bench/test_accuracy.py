"""Accuracy: which sample an answer belongs to, what counts as an answer, and the metrics by hand."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.bench.accuracy import Scores, accuracy_estimate, drop_estimate, predict, score, scores_from_arrays
from autotune.bench.metrics import load_metric, metric_identity, negative_mse, spearman_pairs, top1, top5
from autotune.data.dataset import Dataset
from autotune.engines.protocol import Inputs, Outputs
from autotune.errors import SpecError, Unstable

Answer = Callable[[NDArray[Any]], NDArray[Any]]


def dataset(n: int) -> Dataset:
    """Sample i is the number i."""
    return Dataset(arrays={"x": np.arange(float(n))[:, None]}, labels=None, preprocess=None, digest="numbers")


class Echo:
    """A session that answers with `answer` of what it was given, and remembers the batches and the slots."""

    def __init__(self, slots: int = 1, answer: Answer = lambda x: x, every_slot: bool = False) -> None:
        self.slots, self._answer = slots, answer
        self.batches: list[tuple[int, list[float]]] = []
        self._pending: dict[int, NDArray[Any]] = {}
        # With every_slot a slot answers its first batch only once all others have theirs.
        self._together = threading.Barrier(slots) if every_slot else None
        self._met: set[int] = set()

    def submit(self, inputs: Inputs, slot: int) -> None:
        self._pending[slot] = inputs["x"]
        self.batches.append((slot, inputs["x"][:, 0].tolist()))

    def wait(self, slot: int) -> Outputs:
        if self._together is not None and slot not in self._met:
            self._met.add(slot)
            self._together.wait(timeout=10)
        return {"y": self._answer(self._pending[slot])}


def found(session: Echo, n: int, batch_size: int) -> NDArray[Any]:
    return predict(session, dataset(n), batch_size)["y"]  # type: ignore[arg-type]  # Echo is no context manager


def test_the_last_batch_is_padded_and_its_padding_dropped() -> None:
    """7 samples in batches of 3: the third batch is 6 and two of the first samples; 7 answers come out, in order."""
    session = Echo()
    assert found(session, 7, 3)[:, 0].tolist() == list(range(7))
    assert [rows for _, rows in session.batches] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]


def test_a_batch_larger_than_the_data_repeats_the_data() -> None:
    """2 samples at batch 5: every row is one of the two, and two answers come out."""
    session = Echo()
    assert found(session, 2, 5)[:, 0].tolist() == [0, 1]
    assert session.batches == [(0, [0, 1, 0, 1, 0])]


def test_all_slots_are_used_and_the_order_is_kept() -> None:
    """4 slots that wait for each other's first batch: each gets one, and the answers are in the samples' order."""
    session = Echo(slots=4, every_slot=True)
    assert found(session, 101, 2)[:, 0].tolist() == list(range(101))
    assert {slot for slot, _ in session.batches} == {0, 1, 2, 3}


def test_results_are_copied_before_the_slot_is_used_again() -> None:
    """A result is the caller's only until the next submit; a session that reuses its buffer must not change earlier answers."""
    buffer = np.zeros((2, 1))

    def reuse(x: NDArray[Any]) -> NDArray[Any]:
        buffer[:] = x
        return buffer

    assert found(Echo(answer=reuse), 6, 2)[:, 0].tolist() == list(range(6))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_unstable(bad: float) -> None:
    """One NaN among the answers rejects the candidate; argmax would have hidden it."""
    with pytest.raises(Unstable, match="not finite"):
        found(Echo(slots=2, answer=lambda x: np.where(x == 4, bad, x)), 8, 2)


def test_a_lost_batch_dimension_is_unstable() -> None:
    """An engine that answers with one row for two samples cannot be scored."""
    with pytest.raises(Unstable, match=r"shape \(1, 1\) for a batch of 2"):
        found(Echo(answer=lambda x: x[:1]), 4, 2)


def test_what_the_session_raises_comes_out() -> None:
    """Also from one of several slots, and without leaving threads behind."""

    def fail(x: NDArray[Any]) -> NDArray[Any]:
        raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        found(Echo(slots=3, answer=fail), 30, 2)
    assert threading.active_count() == before


# Metrics

LOGITS = {"logits": np.array([[0.1, 0.9, 0.0, 0, 0, 0, 0], [7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7.0]])}


def test_top1_by_hand() -> None:
    """Largest at 1, 0 and 6; labels 1, 2 and 6."""
    assert top1(LOGITS, np.array([1, 2, 6])).tolist() == [1, 0, 1]


def test_top5_by_hand() -> None:
    """Row 1's best five are 0…4, row 2's are 2…6: label 4 is in, 5 is out; 2 is in, 1 is out."""
    rows = {"logits": LOGITS["logits"][[1, 1, 2, 2]]}
    assert top5(rows, np.array([4, 5, 2, 1])).tolist() == [1, 0, 1, 0]


def test_negative_mse_by_hand() -> None:
    """(1 + 4)/2 = 2.5 and 0; the sign turns, because higher is better."""
    assert negative_mse({"y": np.array([[1.0, 2], [3, 4]])}, np.array([[0.0, 0], [3, 4]])).tolist() == [-2.5, 0]


def test_mse_of_another_shape_is_refused() -> None:
    """One label per sample against two outputs would silently be compared with both."""
    with pytest.raises(ValueError, match="1 label numbers for each sample cannot be compared with 2 outputs"):
        negative_mse({"y": np.zeros((3, 2))}, np.zeros(3))


def _pairs(cosines: list[float]) -> dict[str, NDArray[Any]]:
    """Rows 2i and 2i + 1 at the given cosine, of different lengths, which must not matter."""
    rows = [row for c in cosines for row in ([2.0, 0.0], [3 * c, 3 * (1 - c * c) ** 0.5])]
    return {"embedding": np.array(rows)}


def test_spearman_with_ties_by_hand() -> None:
    """Similarities .1 .5 .5 .9 have ranks 0, 1.5, 1.5, 3; labels 1 2 3 4 ranks 0…3.

    Deviations −1.5, 0, 0, 1.5 and −1.5, −.5, .5, 1.5: 4.5/√(4.5·5) = 0.948683. The plain 1 − 6Σd²/n(n²−1) would say 0.95.
    """
    labels = np.repeat([1.0, 2, 3, 4], 2)
    assert spearman_pairs(_pairs([0.1, 0.5, 0.5, 0.9]), labels) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_spearman_sees_order_only() -> None:
    """Any rising labels give 1, falling ones −1."""
    pairs = _pairs([-0.9, 0.0, 0.2, 0.99])
    assert spearman_pairs(pairs, np.repeat([1, 10, 100, 1000], 2)) == pytest.approx(1)
    assert spearman_pairs(pairs, np.repeat([4, 3, 2, 1], 2)) == pytest.approx(-1)


def test_pairs_are_resampled_together() -> None:
    """Spearman's interval resamples whole pairs: its n is their number, and split pairs would destroy the correlation."""
    cosines = np.linspace(-0.9, 0.9, 60).tolist()
    scores = score(spearman_pairs, _pairs(cosines), np.repeat(np.arange(60.0), 2))
    estimate = accuracy_estimate(scores)
    assert estimate.value == pytest.approx(1) and estimate.n == 60
    assert estimate.low == pytest.approx(1)


def test_custom_metric_by_module_and_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:function` is imported and used like a registered one; one score per sample gets a t interval."""
    (tmp_path / "my_metric_of_test.py").write_text("def half(outputs, labels):\n    return labels / 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    scores = score(load_metric("my_metric_of_test:half"), {"y": np.zeros((3, 1))}, np.array([1.0, 2, 3]))
    assert scores.per_sample is not None and scores.per_sample.tolist() == [0.5, 1, 1.5]
    assert accuracy_estimate(scores).method == "t with autocorrelation"
    sys.modules.pop("my_metric_of_test")


@pytest.mark.parametrize("name", ["no_such_metric", "no_such_module_here:f", "json:no_such_function"])
def test_an_unknown_metric_is_the_studys_fault(name: str) -> None:
    """The message names data.metric and what is allowed."""
    with pytest.raises(SpecError, match=r"data\.metric.*top1"):
        load_metric(name)


@pytest.mark.parametrize("error", [ValueError, IndexError, TypeError, KeyError])
def test_a_metric_that_fails_is_the_studys_fault(error: type[Exception]) -> None:
    """The message has the shapes that the metric was given and what it said."""

    def metric(outputs: Any, labels: Any) -> float:
        raise error("wrong axis")

    with pytest.raises(SpecError, match=r"\(4, 2\).*\(4,\).*wrong axis"):
        score(metric, {"y": np.zeros((4, 2))}, np.zeros(4))


def test_scores_of_another_length_are_the_studys_fault() -> None:
    """Three scores for four samples belong to nobody."""
    with pytest.raises(SpecError, match=r"shape \(3,\); allowed: \(4,\)"):
        score(lambda outputs, labels: np.zeros(3), {"y": np.zeros((4, 2))}, np.zeros(4))


# Scores and their drops


def test_hits_get_wilson_and_pairs_get_bonett_price() -> None:
    """Scores of 0 and 1 are shares; two models on the same samples are compared sample by sample."""
    reference = Scores(per_sample=np.array([1.0, 1, 1, 0]), n=4)
    other = Scores(per_sample=np.array([1.0, 0, 1, 0]), n=4)
    assert accuracy_estimate(reference).method == "wilson" and accuracy_estimate(reference).value == 0.75
    drop = drop_estimate(reference, other)
    assert (drop.value, drop.method) == (0.25, "paired, bonett-price")


def test_drop_of_real_scores_is_the_mean_difference() -> None:
    """Scores −1, −2 against −2, −4 lie 1.5 lower."""
    drop = drop_estimate(Scores(per_sample=np.array([-1.0, -2]), n=2), Scores(per_sample=np.array([-2.0, -4]), n=2))
    assert drop.value == 1.5


def test_drop_of_a_set_metric_pairs_the_resamples() -> None:
    """The same resamples of both models: a constant difference of 0.1 has an interval of no width."""
    resampled = np.linspace(0.4, 0.6, 1000)
    reference, other = (Scores(value=0.5 - d, resampled=resampled - d, n=30) for d in (0.0, 0.1))
    drop = drop_estimate(reference, other)
    assert drop.value == pytest.approx(0.1) and drop.half_width == pytest.approx(0, abs=1e-12)


def test_scores_survive_storage() -> None:
    """Both forms come back from their arrays as they went in."""
    hits = Scores(per_sample=np.array([1.0, 0]), n=2)
    again = scores_from_arrays(hits.as_arrays())
    assert again.n == 2 and again.per_sample is not None and again.per_sample.tolist() == [1, 0]
    whole = scores_from_arrays(Scores(value=0.5, resampled=np.array([0.4, 0.6]), n=9).as_arrays())
    assert (whole.value, whole.n) == (0.5, 9)


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "said"),
    [
        ("top1", np.full((4, 1), 0.7), [0, 1, 1, 0], "has shape (n, 1) and not (n, classes)"),
        ("top1", np.eye(4), [1, 2, 3, 4], "the labels go from 1 to 4, the model's classes from 0 to 3"),
        ("top1", np.eye(4), [-1, 0, 1, 2], "the labels go from -1 to 2"),
        ("top5", np.eye(4), [0, 1, 2, 3], "every label is among the five largest; use top1"),
    ],
)
def test_labels_that_are_no_classes_are_refused(name: str, outputs: np.ndarray, labels: list[int], said: str) -> None:
    """Counting them as misses, or a single column as always right, would make a number that means nothing."""
    with pytest.raises(SpecError, match=re.escape(said)):
        score(load_metric(name), {"logits": outputs}, np.array(labels))


def test_a_users_metric_may_raise_anything_and_give_any_sequence() -> None:
    """Whatever it raises is told as the metric's fault; a list of scores is as good as an array."""
    with pytest.raises(SpecError, match="ZeroDivisionError"):
        score(lambda outputs, labels: 1 / 0, {"y": np.zeros((3, 1))}, np.zeros(3))
    assert score(lambda outputs, labels: [1.0, 0.0, 1.0], {"y": np.zeros((3, 1))}, np.zeros(3)).n == 3  # type: ignore[arg-type, return-value]


def test_a_metric_that_is_not_finite_rejects_the_candidate() -> None:
    """NaN is no accuracy, and no comparison with a limit would notice it."""
    for result in (float("nan"), np.array([1.0, np.inf, 0.0])):
        with pytest.raises(Unstable, match="not finite"):
            score(lambda outputs, labels, r=result: r, {"y": np.zeros((3, 1))}, np.zeros(3))  # type: ignore[misc]


def test_the_code_of_a_users_metric_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of an older version of the function are not taken for those of the present one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for value in (1, 2):
        (tmp_path / "users_metric.py").write_text(f"def m(outputs, labels):\n    return {value}.0\n")
        found.append(metric_identity("users_metric:m"))
    assert found[0] != found[1] and metric_identity("top1") == {"metric": "top1"}
