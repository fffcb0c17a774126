"""Open loops on a virtual clock: every latency is known beforehand, to the nanosecond."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from virtual_server import MS, at_ms, serve

from autotune.bench.arrivals import poisson_schedule, recorded_schedule
from autotune.bench.knee import Bracket, Probe, find_knee
from autotune.bench.load import LoadResult
from autotune.bench.served import ServedTrace, share_within
from autotune.bench.server import UNCONFIRMED, confirmed
from autotune.bench.statistics import percentile_estimate
from autotune.records import Estimate, LatencySummary, LoadFigures
from autotune.spec.arrival_file import RecordedArrivals


def latencies_ms(trace: ServedTrace) -> list[float]:
    return [float(v) / MS for v in trace.latencies_ns()]


def test_requests_that_never_meet_take_their_service() -> None:
    """One each 10 ms, 4 ms of service: 4 ms, every time, none queued, none late."""
    trace, _ = serve(at_ms(*range(0, 200, 10)), 4)
    assert latencies_ms(trace) == [4.0] * 20
    assert (trace.queued_share(), trace.late_share(4 * MS), trace.mean_batch()) == (0.0, 0.0, 1.0)


def test_a_queue_is_lindleys() -> None:
    """Random arrivals, one server, 2 ms: the wait of each request is max(0, the last one's wait + 2 ms − the gap)."""
    schedule = poisson_schedule(400, 10, seed=5)
    wait, expected = 0, []
    for gap in np.diff(schedule.due_ns, prepend=schedule.due_ns[0]):
        wait = max(0, wait + 2 * MS - int(gap)) if expected else 0
        expected.append(wait + 2 * MS)
    trace, _ = serve(schedule, 2)
    assert trace.latencies_ns().tolist() == expected
    found = percentile_estimate(trace.latencies_ns() / MS, 99)
    assert found is not None and found.value == sorted(expected)[math.ceil(0.99 * len(expected)) - 1] / MS


def test_a_stall_shows_in_everyone_who_had_to_wait_for_it() -> None:
    """No coordinated omission. 2,000 requests, one each ms, 0.5 ms of service, but the 500th takes 100 ms.

    Request k after it is due k ms later and done 0.5·k ms after the stall: it takes 100 − 0.5·k ms. So the 1 % largest are
    100, 99.5, … 90.5 and p99 is 90 ms. Times from the actual send would show 0.5 ms in all but one.
    """
    trace, _ = serve(at_ms(*range(2000)), lambda i, n: 100.0 if i == 500 else 0.5)
    found = latencies_ms(trace)
    assert found[500:505] == [100.0, 99.5, 99.0, 98.5, 98.0] and found[699:702] == [0.5, 0.5, 0.5]
    assert sorted(found)[1979] == 90.0
    p99 = percentile_estimate(np.array(found), 99)
    assert p99 is not None and p99.value == 90.0
    # Request k finds the worker busy while 500 + k < 600 + 0.5·(k − 1), which holds up to k = 198.
    assert trace.queued_share() == 198 / 2000


def test_a_free_worker_takes_all_that_wait_up_to_a_batch() -> None:
    """Ten arrive at once, batches of four: 4, 4 and 2, done after 3, 6 and 9 ms."""
    trace, server = serve(at_ms(*[0.0] * 10), 3, batch_size=4)
    assert server.sizes == [4, 4, 2]
    assert latencies_ms(trace) == [3.0] * 4 + [6.0] * 4 + [9.0] * 2


def test_static_shapes_get_full_batches() -> None:
    """An engine that takes whole batches only is given whole ones, whatever waits."""
    _, server = serve(at_ms(*[0.0] * 10), 3, batch_size=4, partial=False)
    assert server.sizes == [4, 4, 4]


def test_a_batch_may_wait_to_be_filled() -> None:
    """Two arrive at 0 and 3 ms, the next at 50: with a wait of 10 ms they run together from 10 ms on."""
    trace, server = serve(at_ms(0, 3, 50), 5, batch_size=4, wait_ms=10)
    assert server.sizes == [2, 1]
    assert latencies_ms(trace) == [15.0, 12.0, 15.0]


def test_a_full_batch_waits_no_longer() -> None:
    """The fourth of four arrives at 6 ms, before 10 ms are over: they run from then on. Without a wait the first runs alone."""
    trace, server = serve(at_ms(0, 2, 4, 6), 5, batch_size=4, wait_ms=10)
    assert server.sizes == [4] and latencies_ms(trace) == [11.0, 9.0, 7.0, 5.0]
    trace, server = serve(at_ms(0, 2, 4, 6), 5, batch_size=4)
    assert server.sizes == [1, 2, 1] and latencies_ms(trace) == [5.0, 8.0, 6.0, 9.0]


def test_a_request_of_several_samples_ends_with_its_last() -> None:
    """Six samples at once in batches of four take two services of 5 ms: one request, 10 ms; the single one after it waits."""
    trace, server = serve(at_ms(0, 1, samples=(6, 1)), 5, batch_size=4)
    assert server.sizes == [4, 3]
    assert latencies_ms(trace) == [10.0, 9.0]


def test_who_was_never_answered_counts_with_what_he_waited() -> None:
    """Nothing is given out after 10 ms of an overload: requests due by then have waited at least since they were due."""
    trace, _ = serve(at_ms(*range(20)), 4, end_ns=10 * MS)
    cut = replace(trace, done_ns=np.where(trace.done_ns > 10 * MS, 0, trace.done_ns))
    # Done at 4 and 8; the rest of the eleven that were due by 10 ms had waited 10 − due.
    assert latencies_ms(cut) == [4.0, 7.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert cut.completed_rates(10 * MS).tolist() == pytest.approx([2 / 0.010])
    # The second begins at 4 ms, so a quarter of it lies in the first window; the third has no end.
    assert cut.completed_rates(5 * MS).tolist() == pytest.approx([1.25 / 0.005, 0.75 / 0.005])


def test_windows_count_parts_of_batches() -> None:
    """Batches of four in 3 ms without a pause are 13.33 samples in each 10 ms, where whole ones would be 12, 12 and 16."""
    trace, server = serve(at_ms(*[0.0] * 40), 3, batch_size=4)
    assert server.sizes == [4] * 10
    assert replace(trace, end_ns=30 * MS).completed_rates(10 * MS).tolist() == pytest.approx([4 / 0.003] * 3)


def test_a_batch_that_is_not_full_counts_as_what_it_holds() -> None:
    """Four and then two samples, 4 ms each: 5 of them in the first 6 ms and one in the next 6."""
    trace, server = serve(at_ms(*[0.0] * 6), 4, batch_size=4)
    assert server.sizes == [4, 2]
    assert replace(trace, end_ns=12 * MS).completed_rates(6 * MS).tolist() == pytest.approx([5 / 0.006, 1 / 0.006])


def test_in_the_middle_of_a_load_what_is_under_way_is_not_known() -> None:
    """At 10 ms the third request is being served and stays out; those not taken count as waiting."""
    trace, _ = serve(at_ms(*range(20)), 4, end_ns=10 * MS)
    taken = 3
    cut = replace(
        trace,
        done_ns=np.where(trace.done_ns > 10 * MS, 0, trace.done_ns),
        first=trace.first[:taken],
        number=trace.number[:taken],
    )
    found = [v / MS for v in cut.latencies_ns(now_ns=10 * MS)]
    assert found == [4.0, 7.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_arrivals_of_disturbed_windows_do_not_count() -> None:
    """Requests that were due between 5 and 10 ms are left out, and so are those due before the first that counts."""
    trace, _ = serve(at_ms(*range(20)), 0.5)
    skipped = replace(trace, skipped=np.array([[5 * MS, 10 * MS]]))
    assert len(skipped.latencies_ns()) == 15 and len(skipped.latencies_ns(from_ns=12 * MS)) == 8


def test_late_is_what_the_load_itself_delayed() -> None:
    """A worker was free and something was due, yet it was taken 3 ms later: late where 1 % of the SLO is less than that."""
    trace, _ = serve(at_ms(0, 10, 20, 30), 1)
    delayed = replace(trace, lag_ns=np.array([0, 3 * MS, 0, 0]))
    assert delayed.late_share(200 * MS) == 0.25 and delayed.late_share(400 * MS) == 0.0


def test_share_within_the_slo() -> None:
    """Of latencies 1…50 ms 20 keep to 20 ms; short series count as independent: Wilson's interval of 20 in 50.

    Centre (0.4 + 0.03842)/1.07683 = 0.40713, half 1.95996/1.07683·√(0.24/50 + 3.8415/10,000) = 0.13105.
    """
    share = share_within(np.arange(1, 51) * MS, 20)
    assert share.value == 0.4 and share.low == pytest.approx(0.2761, abs=1e-4) and share.high == pytest.approx(0.5382, abs=1e-4)


def test_correlated_requests_count_as_fewer() -> None:
    """A run of 500 that keep to the SLO and one of 500 that do not say less than 1,000 in random order."""
    runs = share_within(np.repeat([1, 9], 500) * MS, 5)
    mixed = share_within(np.random.default_rng(0).permutation(np.repeat([1, 9], 500)) * MS, 5)
    assert runs.value == mixed.value == 0.5 and runs.half_width > 4 * mixed.half_width


def test_poisson_arrivals_come_at_their_rate() -> None:
    """500/s for 100 s: 50,000 ± 4·√50,000; gaps have the exponential's coefficient of variation, 1; the seed decides."""
    schedule = poisson_schedule(500, 100, seed=1)
    assert abs(len(schedule.due_ns) - 50_000) < 4 * math.sqrt(50_000)
    gaps = np.diff(schedule.due_ns)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1, abs=0.02)
    assert np.array_equal(schedule.due_ns, poisson_schedule(500, 100, seed=1).due_ns)
    assert not np.array_equal(schedule.due_ns[:9], poisson_schedule(500, 100, seed=2).due_ns[:9])


def test_a_recorded_trace_begins_again_after_its_period() -> None:
    """Arrivals at 0, 1 and 4 s: the span of 4 s and a mean gap of 2 s make a period of 6 s; 8 s hold 0, 1, 4, 6 and 7."""
    recorded = RecordedArrivals(second=(0.0, 1.0, 4.0), samples=(1, 2, 3))
    schedule = recorded_schedule(recorded, 8)
    assert (schedule.due_ns / 1e9).tolist() == [0, 1, 4, 6, 7]
    assert schedule.samples.tolist() == [1, 2, 3, 1, 2]
    assert recorded.period_s == 6 and schedule.items_per_s == 1.0


# The knee


PEAK = Estimate(value=1000.0, low=990.0, high=1010.0, n=9, method="by hand")


def step(knee: float, seen: list[float] | None = None, sure: bool = True) -> object:
    """Loads of a machine that keeps the SLO up to a rate and misses it beyond, surely or just so by value."""

    def probe(rate: float) -> Probe:
        if seen is not None:
            seen.append(rate)
        value, half = (0.999, 0.0005) if rate <= knee else (0.7, 0.01)
        half = half if sure else 0.4
        return Probe(
            items_per_s=rate, within=Estimate(value=value, low=value - half, high=value + half, n=9, method=""), wanted=0.99
        )

    return probe


@pytest.mark.parametrize("knee", [40.0, 333.0, 730.0, 985.0])
def test_bisection_finds_the_knee(knee: float) -> None:
    """Wherever it lies, the bracket holds it and is at most 2 % wide; the value is a rate at which the SLO was kept."""
    seen: list[float] = []
    found = find_knee(step(knee, seen), PEAK, 0.02, lambda: False)  # type: ignore[arg-type]
    estimate = found.estimate()
    assert estimate.low <= estimate.value <= knee <= estimate.high
    assert estimate.high - estimate.low <= 0.02 * estimate.high and estimate.value in seen
    assert len(seen) <= 13


def test_loads_that_decide_nothing_widen_the_interval() -> None:
    """Where no load was sure, the knee lies somewhere between nothing and the peak."""
    estimate = find_knee(step(600, sure=False), PEAK, 0.02, lambda: False).estimate()  # type: ignore[arg-type]
    assert estimate.value == pytest.approx(600, rel=0.03) and (estimate.low, estimate.high) == (0.0, 1010.0)


def test_time_ends_the_search() -> None:
    """After three loads what is known is told: 0.8 and 0.4 of 1010 missed, 0.2 kept."""
    seen: list[float] = []
    found = find_knee(step(300, seen), PEAK, 0.001, lambda: len(seen) >= 3)  # type: ignore[arg-type]
    assert seen == [808, 404, 202] and (found.estimate().low, found.estimate().value, found.estimate().high) == (202, 202, 404)


def test_a_search_whose_knee_lies_too_low_ends() -> None:
    """Once the knee is surely below what must be reached, no more loads are spent on it."""
    seen: list[float] = []
    found = find_knee(step(300, seen), PEAK, 0.001, lambda: False, give_up_below=500)  # type: ignore[arg-type]
    assert len(seen) == 3 and found.sure_high < 500


def test_an_slo_that_nobody_who_queues_breaks_is_hopeless() -> None:
    """Missed although no stream was busy: the service itself is too long, and no lower rate helps."""
    seen: list[float] = []

    def probe(rate: float) -> Probe:
        seen.append(rate)
        none = Estimate(value=0.0, low=0.0, high=0.01, n=900, method="")
        return Probe(items_per_s=rate, within=none, wanted=0.99, queued_share=0.0 if rate < 500 else 0.6)

    found = find_knee(probe, PEAK, 0.02, lambda: False)
    assert len(seen) == 2 and found.estimate().value == 0.0


def test_the_knee_of_a_simulated_server_is_its_known_one() -> None:
    """M/D/1 with 1 ms of service and an SLO of 5 ms for p90.

    The truth comes from Lindley's recursion over 400,000 requests at each rate; the search sees 20,000 at a time.
    """

    def share(rate: float, n: int, seed: int) -> float:
        gaps = np.random.default_rng(seed).exponential(1000 / rate, n)
        walk = np.cumsum(1.0 - gaps)
        waits = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
        return float(np.mean(waits + 1.0 <= 5.0))

    rates = np.arange(700, 950, 5.0)
    truth = max(rate for rate in rates if share(rate, 400_000, 1) >= 0.9)
    seeds = iter(range(100))

    def probe(rate: float) -> Probe:
        trace, _ = serve(poisson_schedule(rate, 20_000 / rate, next(seeds)), 1)
        return Probe(items_per_s=rate, within=share_within(trace.latencies_ns(), 5.0), wanted=0.9)

    found = find_knee(probe, PEAK, 0.02, lambda: False).estimate()
    assert found.low - 5 <= truth <= found.high + 5 and found.value == pytest.approx(truth, rel=0.04)


@pytest.mark.parametrize("left", [0, 30])
def test_a_knee_is_loaded_once_more_before_it_is_one(left: int) -> None:
    """By luck 900 was kept; loaded again it misses. With time the search goes on to 650 below it, without the flag says so."""
    bracket = find_knee(step(900), PEAK, 0.02, lambda: False)  # type: ignore[arg-type]
    seen: list[float] = []

    def loaded(rate: float) -> LoadResult:
        seen.append(rate)
        within = step(650)(rate).within  # type: ignore[operator]
        figures = LoadFigures(scenario="server", n_requests=within.n, within_slo=within)
        return LoadResult(
            throughput_items_per_s=within, latency_ms=LatencySummary(), n_requests=within.n, window_rates=(), measured_s=1.0,
            warmup_s=0.0, flags=(), figures=figures,
        )  # fmt: skip

    probes: list[float] = []

    def is_over() -> bool:
        return len(probes) >= left

    found = confirmed(bracket, PEAK, 0.02, is_over, step(650, probes), loaded, 0.99)  # type: ignore[arg-type]
    assert seen[0] == pytest.approx(900, rel=0.03)
    if left:
        assert seen[-1] == bracket.low == pytest.approx(650, rel=0.03) and UNCONFIRMED not in found.flags
    else:
        assert len(seen) == 1 and UNCONFIRMED in found.flags and bracket.estimate().low < 0.99 * seen[0]


def test_a_knee_that_was_all_luck_is_given_up() -> None:
    """Loaded again it misses, and so does every lower rate: the search ends far below, long before its time is over."""
    bracket = Bracket(low=800.0, high=810.0, sure_low=0.0, sure_high=1010.0, kept=[800.0], n_loads=5)
    probes: list[float] = []
    find_knee(step(0.0, probes), PEAK, 0.02, lambda: False, bracket=bracket)  # type: ignore[arg-type]
    assert probes == []
    bracket.learn(step(0.0)(800.0))  # type: ignore[operator]
    find_knee(step(0.0, probes), PEAK, 0.02, lambda: False, bracket=bracket)  # type: ignore[arg-type]
    assert bracket.low == 0.0 and len(probes) == 10 and probes[-1] < 1


def test_a_knee_that_is_missed_again_moves_down() -> None:
    """Kept at 400 and 600, missed at 700; when 600 is then missed, 400 is what is left."""
    found = find_knee(step(650), PEAK, 0.5, lambda: False)  # type: ignore[arg-type]
    found.kept, found.low, found.sure_low = [400.0, 600.0], 600.0, 600.0
    found.learn(step(500)(600.0))  # type: ignore[operator]
    assert (found.low, found.high, found.sure_low) == (400.0, 600.0, 400.0)
