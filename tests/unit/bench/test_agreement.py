"""Agreement with the reference: by hand, null where a task has no such thing, and no class named by chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.bench.accuracy import Scores
from autotune.bench.agreement import agreement, class_drops, output_difference
from autotune.bench.answers import Answers, n_outputs_kept, named_classes, stored_answers


def scores(values: Any) -> Scores:
    return Scores(per_sample=np.asarray(values, dtype=np.float64), n=len(values))


def answers(values: Any, named: list[int] | None = None, **outputs: NDArray[Any]) -> Answers:
    return Answers(scores=scores(values), named=None if named is None else np.array(named, dtype=np.int32), outputs=outputs)


def test_the_same_class_is_counted_whether_or_not_it_is_right() -> None:
    """3 of 4 samples are named alike, one of them wrongly by both."""
    found = agreement(answers([1, 1, 0, 1], [0, 1, 2, 3]), answers([1, 1, 0, 0], [0, 1, 2, 0]), np.array([0, 1, 1, 3]))
    assert found.top1 is not None and (found.top1.value, found.top1.n) == (0.75, 4)
    assert found.output_difference is None, "no outputs were kept"
    assert found.n_classes == 3 and found.classes == ()


def test_outputs_differ_by_a_share_of_their_norm() -> None:
    """(3, 4) against (3, 4 + 1) is 1/5, (0, 2) against itself 0: 0.1 on average; whole numbers are no outputs to compare."""
    before = {"y": np.array([[3.0, 4], [0, 2]]), "k": np.array([[1], [2]])}
    after = {"y": np.array([[3.0, 5], [0, 2]]), "k": np.array([[9], [9]])}
    found = output_difference(before, after)
    assert found is not None and found.value == pytest.approx(0.1) and found.n == 2
    assert output_difference({"k": before["k"]}, {"k": after["k"]}) is None
    assert output_difference(before, {"y": np.zeros((2, 3))}) is None


def test_a_regression_has_no_classes() -> None:
    """Labels that are no whole numbers, scores that are no hits: only the outputs are compared."""
    y = np.array([[1.0], [2.0], [3.0]])
    found = agreement(answers([-0.1, -0.2, 0], y=y), answers([-0.3, -0.2, 0], y=2 * y), np.array([0.5, 1.5, 2.5]))
    assert (found.top1, found.n_classes, found.classes) == (None, None, ())
    assert found.output_difference is not None and found.output_difference.value == pytest.approx(1)
    assert class_drops(scores([0.5, 1]), scores([0.5, 1]), np.array([0, 1])) is None


def test_a_metric_of_the_whole_set_has_agreement_of_outputs_alone() -> None:
    """Spearman's correlation has no score per sample; its embeddings still differ by a share of their norm."""
    whole = Scores(value=0.7, resampled=np.zeros(3), n=3)
    y = np.eye(3)
    found = agreement(Answers(scores=whole, outputs={"y": y}), Answers(scores=whole, outputs={"y": y}), np.array([1, 2, 3]))
    assert found.n_classes is None and found.output_difference is not None and found.output_difference.value == 0


def test_the_class_that_lost_is_named_and_the_others_are_not() -> None:
    """Ten classes of 40: class 7 loses 20 and wins none (p = 2⁻²⁰, times 10), class 3 loses 3 (1/8): only 7 is named."""
    labels = np.repeat(np.arange(10), 40)
    before, after = np.ones(400), np.ones(400)
    after[7 * 40 : 7 * 40 + 20] = 0
    after[3 * 40 : 3 * 40 + 3] = 0
    found = class_drops(scores(before), scores(after), labels)
    assert found is not None and [c.label for c in found] == [7]
    assert found[0].drop.value == 0.5 and found[0].drop.n == 40
    assert found[0].p_value == pytest.approx(10 / 2**20)
    assert found[0].drop.method.endswith("10 intervals at once")


def test_classes_are_not_named_by_chance() -> None:
    """100 classes that lose and win alike: in at most 5 % of 300 variants any class is named (exact tests are below it)."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 30)
    named = 0
    for _ in range(300):
        before = (rng.random(3000) < 0.7).astype(float)
        after = np.where(rng.random(3000) < 0.3, 1 - before, before)
        flip = rng.random(3000) < 0.5
        found = class_drops(scores(np.where(flip, before, after)), scores(np.where(flip, after, before)), labels)
        assert found is not None
        named += bool(found)
    assert named / 300 <= 0.05


def test_at_most_ten_classes_are_reported_the_worst_first() -> None:
    """20 classes that lost all of 30, 29, 28, … samples: the ten with the largest drops, in order."""
    labels = np.repeat(np.arange(20), 30)
    before, after = np.ones(600), np.ones(600)
    for k in range(20):
        after[k * 30 : k * 30 + 30 - k // 2] = 0
    found = class_drops(scores(before), scores(after), labels)
    assert found is not None and [c.label for c in found] == list(range(10))


def test_answers_are_stored_and_read_back(tmp_path: Path) -> None:
    """Scores, classes and outputs come back as they were; what an older version stored has scores alone."""
    answers([1, 0], [4, 5], y=np.eye(2, dtype=np.float32)).save(tmp_path)
    found = stored_answers(tmp_path)
    assert found.scores.per_sample is not None and found.scores.per_sample.tolist() == [1, 0]
    assert found.named is not None and found.named.tolist() == [4, 5]
    assert found.outputs["y"].dtype == np.float32 and found.outputs["y"].tolist() == [[1, 0], [0, 1]]
    for name in ("named.npz", "outputs.npz"):
        (tmp_path / name).unlink()
    assert stored_answers(tmp_path).named is None and stored_answers(tmp_path).outputs == {}


def test_only_an_array_of_numbers_per_class_names_classes() -> None:
    """Shape (n, classes) of floats; a single number per sample, pictures and integers name none."""
    assert named_classes({"y": np.array([[0.1, 0.9], [2, 1]])}) is not None
    for other in (np.zeros((2, 1)), np.zeros(2), np.zeros((2, 3, 4)), np.zeros((2, 3), dtype=np.int64)):
        assert named_classes({"y": other}) is None


@pytest.mark.parametrize(("width", "kept"), [(1, 1024), (1001, 1024), (4096, 256), (10_000_000, 16)])
def test_outputs_are_kept_compactly(width: int, kept: int) -> None:
    """At most 1,024 samples and about 4 MiB of float32, and never fewer than the 16 of the probe."""
    assert n_outputs_kept({"y": np.zeros((1, width), dtype=np.float32)}) == kept
