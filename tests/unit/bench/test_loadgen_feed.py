"""What LoadGen issues reaches the workers in batches, and every sample is answered once, whatever happens."""

from __future__ import annotations

import threading
import time

from autotune.bench.loadgen import LoadGenFeed


class Answers:
    """A feed and what it answered."""

    def __init__(self, batch_size: int = 4, wait_ms: float = 0.0) -> None:
        self.ids: list[int] = []
        self.feed = LoadGenFeed(batch_size, int(wait_ms * 1e6), time.monotonic_ns, self.ids.extend)


def test_what_waits_is_taken_up_to_a_batch_in_order() -> None:
    """Six samples at batch 4 are four and two, and each is answered under the id it came with."""
    answers = Answers()
    answers.feed.issue([10, 11, 12, 13, 14, 15], [0] * 6)
    first, second = answers.feed.take(), answers.feed.take()
    assert (first, second) == ((0, 4), (4, 2)) and answers.feed.take(wait=False) is None
    assert second is not None
    answers.feed.done(second, 0)
    assert answers.ids == [14, 15]


def test_a_batch_waits_for_more_no_longer_than_it_may() -> None:
    """With a wait of 30 ms one sample is not taken at once, nor lost by who looks without waiting, and then goes alone."""
    answers = Answers(wait_ms=30)
    began = time.monotonic()
    answers.feed.issue([1], [0])
    assert answers.feed.take(wait=False) is None
    assert answers.feed.take() == (0, 1) and time.monotonic() - began >= 0.03
    answers.feed.issue([2, 3, 4, 5], [0] * 4)
    assert answers.feed.take(wait=False) == (1, 4)


def test_whoever_waits_ends_with_the_feed() -> None:
    """One worker gathers and others stand behind it; all of them hear that there is no more."""
    answers = Answers()
    found: list[object] = []
    workers = [threading.Thread(target=lambda: found.append(answers.feed.take())) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers.feed.stop()
    for worker in workers:
        worker.join(timeout=5)
    assert found == [None] * 3


def test_after_a_failure_everything_is_answered_once() -> None:
    """What runs, what waits, what is gathered and what is issued later: LoadGen would wait for ever for any of it."""
    answers = Answers(wait_ms=60_000)
    answers.feed.issue([1, 2, 3, 4, 5, 6], [0] * 6)
    taken = answers.feed.take()
    assert answers.feed.take(wait=False) is None  # two are gathered
    answers.feed.issue([7], [0])
    answers.feed.answer_rest()
    answers.feed.issue([8], [0])
    assert taken is not None
    answers.feed.done(taken, 0)
    assert sorted(answers.ids) == list(range(1, 9))
    assert answers.feed.take() is None


def test_a_batch_may_hold_parts_of_several_queries() -> None:
    """Queries of 1, 2 and 3 samples at batch 4 make four and two, answered under their own ids."""
    answers = Answers()
    for ids in ([1], [2, 3], [4, 5, 6]):
        answers.feed.issue(ids, [0] * len(ids))
    first, second = answers.feed.take(), answers.feed.take()
    assert (first, second) == ((0, 4), (4, 2)) and first is not None and second is not None
    answers.feed.done(second, 0)
    answers.feed.done(first, 0)
    assert answers.ids == [5, 6, 1, 2, 3, 4]
