"""The load loop against traces written by hand and against the fake engine, whose throughput is a closed formula."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from autotune.bench.load import LoadTrace, run_closed_loop, summarize, window_rates
from autotune.candidate import Candidate
from autotune.engines.fake import FakeSession, service_s, throughput_items_per_s
from autotune.engines.protocol import Inputs, Outputs, driving_threads
from autotune.errors import Unstable
from autotune.records import GIVEN_UP
from autotune.spec.model import LoadSpec

MS = 1_000_000
PLAN = LoadSpec(window_s=0.1, min_windows=5, max_s=1.0, warmup_s=0.1, precision=0.02)


def candidate(**knobs: Any) -> Candidate:
    """A fake candidate of 50 ms per submission, so that waking up late, 1 ms on a busy machine, is 2 %."""
    values: dict[str, Any] = {"batch_size": 96, "streams": 1, "worker_threads": 1, "memory_pool_mib": None}
    return Candidate(engine="fake", precision="fp32", pruning_ratio=0.0, **(values | knobs))


def batches(batch_size: int, n: int = 4) -> list[Inputs]:
    """Batches whose first feature is the number of the batch."""
    return [{"x": np.full((batch_size, 2), i, dtype=np.float32)} for i in range(n)]


def rates(spans_ms: list[tuple[float, float]], edges_ms: list[float], batch: int = 10) -> list[float]:
    started, done = (np.array([s[i] * MS for s in spans_ms], dtype=np.int64) for i in (0, 1))
    return window_rates(started, done, np.array([e * MS for e in edges_ms], dtype=np.int64), batch).tolist()


def test_requests_that_fill_a_window_exactly() -> None:
    """Two requests of 10 items, 50 ms each, in each window of 100 ms: 20 items in 0.1 s, 200 per second."""
    spans = [(start, start + 50.0) for start in range(0, 200, 50)]
    assert rates(spans, [0, 100, 200]) == pytest.approx([200, 200])


def test_a_request_counts_evenly_over_its_own_duration() -> None:
    """10 items from 60 to 160 ms: 40 % of them fall before the edge at 100 ms: 4 items in the first window, 6 in the second."""
    assert rates([(60, 160)], [0, 100, 200]) == pytest.approx([40, 60])


def test_requests_in_flight_at_both_ends_count_in_part() -> None:
    """From −50 to 50 ms half the items are inside; from 80 to 120 ms half; on two slots, out of order: 10 items in 0.1 s."""
    assert rates([(-50, 50), (80, 120)], [0, 100]) == pytest.approx([100])
    assert rates([(80, 120), (-50, 50)], [0, 100]) == pytest.approx([100])


def test_a_request_longer_than_several_windows_is_spread_over_them() -> None:
    """One request of 400 ms and 10 items: 2.5 items in each of four windows of 100 ms."""
    assert rates([(0, 400)], [0, 100, 200, 300, 400]) == pytest.approx([25, 25, 25, 25])


def test_items_are_neither_lost_nor_doubled() -> None:
    """Over windows that hold all requests the items add up, however the requests overlap."""
    rng = np.random.default_rng(4)
    starts = rng.uniform(10, 900, 200)
    spans = [(float(s), float(s + d)) for s, d in zip(starts, rng.uniform(0.1, 90, 200), strict=True)]
    edges = np.linspace(0, 1000, 18)
    found = rates(spans, edges.tolist(), batch=3)
    assert float(np.sum(np.array(found) * np.diff(edges) / 1000)) == pytest.approx(600)


def test_summary_counts_latency_only_inside_the_span() -> None:
    """Of three requests one began before the span and one ended after it; the latency left is 30 ms, and n is 1."""
    spans = np.array([[-10, 20], [20, 50], [50, 210]]) * MS
    trace = LoadTrace(
        started_ns=spans[:, 0],
        done_ns=spans[:, 1],
        batch_size=1,
        begin_ns=0,
        end_ns=200 * MS,
        warmup_s=0.5,
        flags=("unsettled",),
    )
    found = summarize(trace, LoadSpec(window_s=0.1, min_windows=3))
    assert found.n_requests == 1 and found.latency_ms.p50 is None
    assert len(found.window_rates) == 2 and found.measured_s == pytest.approx(0.2)
    assert (found.warmup_s, found.flags) == (0.5, ("unsettled",))


def test_summary_of_known_latencies() -> None:
    """400 requests of 1…400 µs back to back: p50 is the 200th, p99 the 396th; milliseconds."""
    durations = np.arange(1, 401, dtype=np.int64) * 1000
    done = np.cumsum(durations)
    end = int(done[-1]) + 1
    trace = LoadTrace(started_ns=done - durations, done_ns=done, batch_size=2, begin_ns=0, end_ns=end, warmup_s=0.0)
    found = summarize(trace, LoadSpec.model_construct(window_s=end / 4 / 1e9))
    assert found.n_requests == 400
    assert found.latency_ms.p50 is not None and found.latency_ms.p50.value == pytest.approx(0.200)
    assert found.latency_ms.p99 is not None and found.latency_ms.p99.value == pytest.approx(0.396)


@pytest.mark.parametrize(("streams", "threads", "servers"), [(1, 1, 1), (3, 3, 3), (4, 2, 2)])
def test_throughput_of_the_fake_is_its_closed_formula(streams: int, threads: int, servers: int) -> None:
    """min(streams, threads) servers of 50 ms for 96 items, 1,920 items per second each.

    The interval holds the formula, or comes within the 5 % by which a busy machine wakes sleepers late. Latency is the service
    time; clients beyond the servers queue: two for each server double it on average, by Little's law.
    """
    c = candidate(streams=streams, worker_threads=threads)
    formula = 1920 * servers
    assert service_s(c) == pytest.approx(0.050) and throughput_items_per_s(c) == pytest.approx(formula)
    trace = run_closed_loop(FakeSession(c, None), batches(96), 96, PLAN)
    found = summarize(trace, PLAN)
    rate = found.throughput_items_per_s
    assert rate.low <= formula and rate.high >= 0.95 * formula and rate.value == pytest.approx(formula, rel=0.1)
    assert rate.n == len(found.window_rates) >= 5
    median = found.latency_ms.p50
    if streams == servers:
        assert median is not None and median.low >= 50 and median.value == pytest.approx(50, rel=0.1)
    else:
        assert float(np.mean(trace.done_ns - trace.started_ns)) / MS == pytest.approx(100, rel=0.25)


class Recording:
    """A session that notes which slot was given what, and by which thread; a submission takes `takes_s`."""

    def __init__(self, slots: int, takes_s: float = 0.002, fail_after: int | None = None) -> None:
        self.slots, self._takes_s, self._fail_after = slots, takes_s, fail_after
        self.seen: list[tuple[int, int, float]] = []

    def submit(self, inputs: Inputs, slot: int) -> None:
        self.seen.append((slot, threading.get_ident(), float(inputs["x"][0, 0])))

    def wait(self, slot: int) -> Outputs:
        if self._fail_after is not None and len(self.seen) > self._fail_after:
            raise Unstable("the engine gave up", stage="load")
        time.sleep(self._takes_s)
        return {}


def test_every_slot_has_a_thread_of_its_own_and_cycles_through_all_batches() -> None:
    """Four slots: four threads, one each, and every slot meets every batch, so that no slot measures warm caches only."""
    session = Recording(slots=4)
    run_closed_loop(session, batches(1, n=8), 1, PLAN)  # type: ignore[arg-type]  # no context manager is needed here
    owners = {slot: {thread for s, thread, _ in session.seen if s == slot} for slot in range(4)}
    assert all(len(threads) == 1 for threads in owners.values())
    assert len(set.union(*owners.values())) == 4
    assert all({b for s, _, b in session.seen if s == slot} == set(range(8)) for slot in range(4))


class Shared(Recording):
    """A session of as many slots that two threads drive: a submission is done `takes_s` later, whoever waits for it when."""

    threads = 2

    def __init__(self, slots: int, takes_s: float = 0.02) -> None:
        super().__init__(slots, takes_s)
        self._due = [0.0] * slots
        self.flying: set[int] = set()
        self.most_flying = 0

    def submit(self, inputs: Inputs, slot: int) -> None:
        assert slot not in self.flying, "a slot holds one execution"
        super().submit(inputs, slot)
        self.flying.add(slot)
        self.most_flying = max(self.most_flying, len(self.flying))
        self._due[slot] = time.monotonic() + self._takes_s

    def wait(self, slot: int) -> Outputs:
        time.sleep(max(0.0, self._due[slot] - time.monotonic()))
        self.flying.discard(slot)
        return {}


def test_fewer_threads_than_slots_keep_all_slots_busy() -> None:
    """Two threads drive six slots, three each, always the same: all six are in flight at once, and six executions of 20 ms in
    parallel give 300 per second, where a thread that waited before it submitted again would give 100."""
    session = Shared(slots=6)
    trace = run_closed_loop(session, batches(1, n=12), 1, PLAN)  # type: ignore[arg-type]  # no context manager is needed here
    owners = {slot: {thread for s, thread, _ in session.seen if s == slot} for slot in range(6)}
    assert all(len(threads) == 1 for threads in owners.values())
    assert owners[0] == owners[2] == owners[4] != owners[1] == owners[3] == owners[5]
    assert session.most_flying == 6 and session.flying == set(), "and none is left in flight at the end"
    assert summarize(trace, PLAN).throughput_items_per_s.value > 200


@pytest.mark.parametrize(("threads", "drivers"), [(None, 4), (1, 1), (9, 4), (0, 1)])
def test_a_session_has_as_many_threads_as_slots_unless_it_says_fewer(threads: int | None, drivers: int) -> None:
    """More threads than slots would have nothing to do."""
    session = Recording(slots=4)
    if threads is not None:
        session.threads = threads  # type: ignore[attr-defined]
    assert driving_threads(session) == drivers  # type: ignore[arg-type]


@pytest.mark.parametrize("fail_after", [0, 300])
def test_an_engine_error_ends_the_loop_at_once(fail_after: int) -> None:
    """The first submission or one under load fails: what the engine raised comes out, soon, and no thread is left."""
    before, begin = threading.active_count(), time.monotonic()
    with pytest.raises(Unstable, match="gave up"):
        run_closed_loop(Recording(slots=3, fail_after=fail_after), batches(1), 1, PLAN)  # type: ignore[arg-type]
    assert time.monotonic() - begin < 2
    assert threading.active_count() == before


def test_a_noisy_engine_reaches_the_cap_and_says_so() -> None:
    """Service times of 1 and 30 ms by turns of 0.15 s never settle at 0.1 %: the loop ends at max_s with wide_interval."""

    class Noisy(Recording):
        def wait(self, slot: int) -> Outputs:
            time.sleep(0.001 if int(time.monotonic() / 0.15) % 2 else 0.03)
            return {}

    plan = LoadSpec(window_s=0.05, min_windows=5, max_s=0.5, warmup_s=0.0, precision=0.001)
    trace = run_closed_loop(Noisy(slots=1), batches(1), 1, plan)  # type: ignore[arg-type]
    assert "wide_interval" in trace.flags
    assert (trace.end_ns - trace.begin_ns) / 1e9 == pytest.approx(0.5, abs=0.051)


def test_a_steady_engine_stops_early_without_a_flag() -> None:
    """A fake at a precision that is easy to reach ends after the fewest windows and is not flagged."""
    plan = LoadSpec(window_s=0.1, min_windows=3, max_s=5.0, warmup_s=0.1, precision=0.2)
    trace = run_closed_loop(FakeSession(candidate(), None), batches(96), 96, plan)
    assert "wide_interval" not in trace.flags
    assert (trace.end_ns - trace.begin_ns) / 1e9 < 1


def test_a_load_that_is_certainly_too_slow_is_given_up() -> None:
    """The fake makes 96 items in 50 ms, 1920/s: below 4000 it ends after three windows, flagged, with its honest interval."""
    plan = LoadSpec(window_s=0.1, min_windows=8, max_s=2.0, warmup_s=0.1, precision=1e-6)
    trace = run_closed_loop(FakeSession(candidate(), None), batches(96), 96, plan, give_up_below=4000)
    found = summarize(trace, plan)
    assert GIVEN_UP in found.flags and "wide_interval" not in found.flags
    assert 3 <= len(found.window_rates) < 8
    estimate = found.throughput_items_per_s
    assert estimate.high < 4000 and estimate.n == len(found.window_rates)


def test_a_load_that_may_still_matter_is_measured_to_the_end() -> None:
    """What must be reached lies below its speed: all windows are counted, and no flag speaks of giving up."""
    plan = LoadSpec(window_s=0.1, min_windows=6, max_s=0.6, warmup_s=0.1)
    trace = run_closed_loop(FakeSession(candidate(), None), batches(96), 96, plan, give_up_below=1000)
    found = summarize(trace, plan)
    assert len(found.window_rates) == 6 and GIVEN_UP not in found.flags
