"""Early rejection: wrong no more often than claimed whenever one looks, quick at gross drops, exact at the last sample."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.bench.sequential import DropTest, log_capital
from autotune.bench.visit import PROBE_SAMPLES, next_look, visiting_order

Scores = NDArray[np.float64]
ROUNDS = 2000
N = 400


def pair(n: int, right: int, lost: int, won: int, rng: np.random.Generator) -> tuple[Scores, Scores]:
    """A reference with `right` hits and a candidate that loses and wins so many samples, in a random order."""
    reference, candidate = np.zeros(n), np.zeros(n)
    reference[:right] = 1
    candidate[lost:right] = 1
    candidate[right : right + won] = 1
    order = rng.permutation(n)
    return reference[order], candidate[order]


def drop_test(reference: Scores, limit: float = 0.01, error_rate: float = 0.01) -> DropTest:
    return DropTest(reference=reference, score_range=(0.0, 1.0), limit=limit, error_rate=error_rate)


def first_rejection(test: DropTest, candidate: Scores) -> int | None:
    """After how many samples the test first rejects when one looks after each of them."""
    n = len(candidate)
    if not test.rejects(candidate):
        return None
    return next(t for t in range(1, n + 1) if test.rejects(candidate[:t]))


def wrong_share(n: int, right: int, lost: int, won: int, limit: float, error_rate: float, rounds: int = ROUNDS) -> float:
    """Share of orders in which a candidate within the limit is rejected before the last sample.

    A rejection is never taken back, so the look after the last but one sample shows every earlier one.
    """
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(rounds):
        reference, candidate = pair(n, right, lost, won, rng)
        wrong += drop_test(reference, limit, error_rate).rejects(candidate[:-1])
    return wrong / rounds


@pytest.mark.parametrize("error_rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(
    ("n", "right", "lost", "won"),
    [(400, 300, 20, 0), (400, 300, 40, 20), (400, 360, 60, 40), (100, 80, 5, 0), (2000, 1560, 160, 60)],
)
def test_a_candidate_at_the_limit_is_rejected_no_more_often_than_stated(
    n: int, right: int, lost: int, won: int, error_rate: float
) -> None:
    """The hardest case, a drop of exactly the limit of 5 points, looked at after every sample: at most α, within 4 σ of it."""
    assert (lost - won) / n == pytest.approx(0.05)
    rounds = ROUNDS if n < 1000 else 500
    share = wrong_share(n, right, lost, won, 0.05, error_rate, rounds)
    assert share <= error_rate + 4 * math.sqrt(error_rate * (1 - error_rate) / rounds)


def test_the_stated_error_rate_is_used() -> None:
    """With α = 0.2 at the limit of a large set the test errs in more than 2 % of the orders: it is not idle."""
    assert wrong_share(2000, 1560, 160, 60, 0.05, 0.2, 500) > 0.02


def test_what_lies_well_within_the_limit_is_not_rejected() -> None:
    """Half the limit with as many discordant samples: in 2,000 orders not one error in a hundred of what is allowed."""
    assert wrong_share(400, 300, 30, 20, 0.05, 0.01) <= 0.001


def test_a_rejection_is_never_taken_back() -> None:
    """Looking more often can only find a rejection sooner: from the first one on, every longer prefix rejects."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        reference, candidate = pair(200, 150, 30, 5, rng)
        test = drop_test(reference)
        verdicts = [test.rejects(candidate[:t]) for t in range(1, 201)]
        assert verdicts == sorted(verdicts)


@pytest.mark.parametrize(("lost", "won", "share", "within"), [(573, 5, 0.99, 40), (180, 10, 0.99, 150), (80, 10, 0.5, 450)])
def test_gross_drops_are_found_in_few_samples(lost: int, won: int, share: float, within: int) -> None:
    """MobileNetV2 with one scale per tensor (78.1 % to 7.1 % of 800) is rejected within 40 samples in 99 of 100 orders.

    A drop of 21 points takes at most 150, and one of 9 points at most 450 in half of the orders.
    """
    rng = np.random.default_rng(3)
    stops = []
    for _ in range(200):
        reference, candidate = pair(800, 625, lost, won, rng)
        stops.append(first_rejection(drop_test(reference), candidate) or 800)
    assert np.quantile(stops, share) <= within


def test_at_the_last_sample_the_drop_is_known() -> None:
    """4 of 400 lost at a limit of 0.01 is within, 5 is not: whatever the order and the error rate, as the full set says."""
    rng = np.random.default_rng(5)
    for lost, won in ((4, 0), (5, 0), (10, 6), (11, 6), (0, 8), (0, 0)):
        reference, candidate = pair(N, 300, lost, won, rng)
        test = drop_test(reference, error_rate=0.5)
        assert test.rejects(candidate) == ((lost - won) / N > 0.01)
        found = test.drop(candidate)
        assert found.value == pytest.approx((lost - won) / N) and found.n == N
        assert found.low == pytest.approx(found.value) == pytest.approx(found.high)


def test_what_the_rest_cannot_make_good_is_rejected_for_certain() -> None:
    """8 of 10 right, all 3 first lost, the rest can win 2 at most: the drop is at least 0.1, above 0.05 even at α = 1e-12."""
    reference = np.array([1, 1, 1, 1, 0, 1, 1, 0, 1, 1.0])
    test = drop_test(reference, 0.05, 1e-12)
    assert test.rejects(np.zeros(3))
    assert not test.rejects(np.zeros(2)), "2 lost and 2 won would be no drop at all"


def test_a_single_sample_and_equal_scores() -> None:
    """n = 1: lost is a drop of 1, kept is 0. A candidate that answers as the reference does is never rejected."""
    one = np.ones(1)
    assert drop_test(one, 0.5).rejects(np.zeros(1)) and not drop_test(one, 0.5).rejects(one)
    for scores in (np.zeros(50), np.ones(50), np.arange(50) % 2.0):
        test = drop_test(scores, 0.0, 0.5)
        assert not any(test.rejects(scores[:t]) for t in range(1, 51))
        found = test.drop(scores)
        assert found.low == pytest.approx(0) and found.high == pytest.approx(0)


def test_a_limit_of_nothing_falls_with_the_first_certain_loss() -> None:
    """Limit 0 and a reference without a miss: nothing can be won, so one loss decides."""
    test = drop_test(np.ones(100), 0.0, 0.01)
    assert test.rejects(np.zeros(1)) and not test.rejects(np.ones(99))


def test_the_interval_holds_the_full_drop_wherever_one_stops() -> None:
    """The worst look of each order is taken: the 95 % interval misses the drop of the full set in at most 5 % of 150 orders."""
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(150):
        reference, candidate = pair(200, 150, 30, 10, rng)
        test = drop_test(reference)
        found = [test.drop(candidate[:t]) for t in (8, 16, 32, 64, 100, 150, 190)]
        missed += any(not e.low - 1e-9 <= 0.1 <= e.high + 1e-9 for e in found)
        assert all(e.low <= e.value <= e.high for e in found)
    assert missed / 150 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 150)


def test_accuracy_is_the_references_less_the_drop() -> None:
    """The reference's score on all samples is known: 0.75 here, and the interval is the drop's, turned round."""
    reference, candidate = pair(200, 150, 60, 0, np.random.default_rng(2))
    test = drop_test(reference)
    drop, accuracy = test.drop(candidate[:50]), test.accuracy(candidate[:50])
    assert accuracy.value == pytest.approx(0.75 - drop.value)
    assert (accuracy.low, accuracy.high) == pytest.approx((0.75 - drop.high, 0.75 - drop.low))


def test_scores_between_the_bounds_are_tested_as_well() -> None:
    """Scores in [−2, 3]: a loss of 0.5 per sample at a limit of 0.25 is found, one of 0.25 exactly is not."""
    rng = np.random.default_rng(4)
    reference = rng.uniform(-1, 3, size=400)
    test = DropTest(reference=reference, score_range=(-2.0, 3.0), limit=0.25, error_rate=0.01)
    assert test.rejects((reference - 0.5)[:399]) and not test.rejects(reference - 0.25)
    wrong = 0
    for _ in range(300):
        noise = rng.permutation(np.repeat([-0.25, 0.75], 200))  # mean 0.25
        wrong += test.rejects((reference - noise)[:399])
    assert wrong / 300 <= 0.01 + 4 * math.sqrt(0.01 * 0.99 / 300)


def test_the_capital_is_what_the_bets_make_by_hand() -> None:
    """Two samples of four, limit 0, both lost: δ is 0, then (0 − 1)/3, so a stake c gives (1 + c)·(1 − c + c·2/(2/3))."""
    stakes = np.array([0.05, 0.15, 0.35, 0.6, 0.9])
    by_hand = np.mean((1 + stakes) * (1 - stakes + stakes * 3))
    assert log_capital(np.array([1.0, 1.0]), 4, 0.0, 1.0) == pytest.approx(math.log(by_hand))


def test_evidence_falls_with_the_mean_that_is_tested() -> None:
    """What is no evidence against a mean is none against a larger one: the whole range up to the limit is tested at once."""
    d = np.array([1.0, 0, 0, 1, -1, 1, 0, 1, 1, 0])
    found = [log_capital(d, 40, m, 1.0) for m in (-0.3, -0.1, 0.0, 0.05, 0.2, 0.6)]
    assert all(a > b for a, b in itertools.pairwise(found))


def test_the_order_is_a_permutation_that_follows_from_the_data() -> None:
    """Every sample once; equal for equal data, another for other data, and the same for ever: these numbers must not change."""
    order = visiting_order("abc", 12)
    assert sorted(order) == list(range(12)) and order.tolist() == visiting_order("abc", 12).tolist()
    assert order.tolist() != visiting_order("abd", 12).tolist()
    assert order.tolist() == FOR_EVER


FOR_EVER = [4, 5, 10, 3, 0, 2, 9, 11, 1, 6, 7, 8]


def test_looks_come_after_the_probe_and_a_quarter_more_each_time() -> None:
    """One sample at a time: 16, 20, 25, 31, …; batches of 64: whole batches; never beyond the end."""
    looks, done = [], 0
    while done < 100:
        done = next_look(done, 100, 1)
        looks.append(done)
    assert looks == [16, 20, 25, 31, 38, 47, 58, 72, 90, 100]
    assert [next_look(done, 1000, 64) for done in (0, 64, 512)] == [64, 128, 640]
    assert next_look(0, 7, 1) == 7 and PROBE_SAMPLES == 16
