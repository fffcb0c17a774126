"""Whole loads on real threads: nothing is lost, errors end them, flags say what happened. No time is asserted."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.bench.assembly import Assembler
from autotune.bench.load import LoadResult, summarize
from autotune.bench.scenario import Loadable, run_scenario
from autotune.candidate import Candidate
from autotune.engines.fake import FakeSession, NullSession
from autotune.engines.protocol import Inputs, Outputs
from autotune.errors import EnvironmentProblem, Unstable
from autotune.spec.model import LoadSpec

QUICK: dict[str, Any] = {"window_s": 0.1, "min_windows": 3, "max_s": 0.6, "warmup_s": 0.1, "precision": 0.05}


def plan(**load: Any) -> LoadSpec:
    return LoadSpec.model_validate(QUICK | load)


def fake(batch_size: int = 4, streams: int = 2) -> FakeSession:
    """2 ms and 0.5 ms per sample, on as many servers as streams."""
    knobs: dict[str, Any] = {"batch_size": batch_size, "streams": streams, "worker_threads": streams, "memory_pool_mib": None}
    return FakeSession(Candidate(engine="fake", precision="fp32", pruning_ratio=0.0, **knobs), None)


def loadable(session: Any, batch_size: int = 4, **more: Any) -> Loadable:
    pool = [{"x": np.full((batch_size, 2), float(i), dtype=np.float32)} for i in range(4)]
    return Loadable(session=session, pool=pool, batch_size=batch_size, **more)


class Recording:
    """Notes every submission: slot, thread, and the first feature of each sample."""

    def __init__(self, slots: int, fail_after: int | None = None, takes_s: float = 0.001) -> None:
        self.slots, self._fail_after, self._takes_s = slots, fail_after, takes_s
        self.seen: list[tuple[int, int, int]] = []

    def submit(self, inputs: Inputs, slot: int) -> None:
        self.seen.append((slot, threading.get_ident(), len(inputs["x"])))

    def wait(self, slot: int) -> Outputs:
        if self._fail_after is not None and len(self.seen) > self._fail_after:
            raise Unstable("the engine gave up", stage="load")
        time.sleep(self._takes_s)
        return {}


def figures(result: LoadResult) -> Any:
    assert result.figures is not None
    return result.figures


def test_singlestream_sends_one_sample_after_the_other() -> None:
    """One slot, one thread, one sample each, although the session has four slots; items/s is one over the mean latency."""
    session = Recording(slots=4)
    found = run_scenario(loadable(session, batch_size=1), plan(scenario="singlestream"))
    assert {(slot, n) for slot, _, n in session.seen} == {(0, 1)} and len({t for _, t, _ in session.seen}) == 1
    assert figures(found).scenario == "singlestream" and figures(found).mean_batch == 1
    assert found.latency_ms.p90 is not None and found.latency_ms.p90.value >= 1.0


@pytest.mark.parametrize(("batch_size", "slots", "submissions"), [(4, 2, 2), (3, 4, 3), (8, 2, 1)])
def test_multistream_queries_end_with_their_last_sample(batch_size: int, slots: int, submissions: int) -> None:
    """Queries of 8 samples in batches of at most 4, 3 or 8: so many submissions each, and no query before the last is done."""
    session = Recording(slots=slots)
    on = loadable(session, batch_size, partial=True)
    found = run_scenario(on, plan(scenario="multistream"))
    sizes = [n for _, _, n in session.seen]
    whole = sizes[: len(sizes) // submissions * submissions]
    assert {sum(whole[i : i + submissions]) for i in range(0, len(whole), submissions)} == {8}
    assert found.throughput_items_per_s.value > 0 and figures(found).scenario == "multistream"


def test_a_server_gets_all_that_arrives_in_batches() -> None:
    """400/s on two slots: each slot has a thread of its own, no batch is larger than four, and what was due is answered."""
    session = Recording(slots=2)
    found = run_scenario(loadable(session, partial=True, seed=3), plan(server={"qps": 400, "slo_ms": 500}))
    load = figures(found)
    # One thread of the warm-up's closed loop, one of the load's own.
    assert len({t for s, t, _ in session.seen if s == 0}) <= 2 and max(n for _, _, n in session.seen) <= 4
    assert load.offered_items_per_s == 400 and load.within_slo is not None and load.slo_percentile == 99
    assert found.throughput_items_per_s.value == pytest.approx(400 * load.within_slo.value)
    assert found.completed_items_per_s is not None and found.completed_items_per_s.value == 400


def test_an_overload_ends_early_and_is_told() -> None:
    """A server that makes 2,000/s is sent 20,000/s: flagged, hardly anything within 20 ms, and throughput is what is."""
    found = run_scenario(loadable(fake(), seed=1), plan(server={"qps": 20_000, "slo_ms": 20}, max_s=30))
    assert "overloaded" in found.flags and found.measured_s < 30
    assert found.throughput_items_per_s.value < 4000
    assert found.completed_items_per_s is not None and found.completed_items_per_s.value < 4000


def test_the_highest_rate_is_searched_for() -> None:
    """The fake makes 2,000/s at most and takes 4 ms: with an SLO of half a second the knee lies below the peak and above 0."""
    found = run_scenario(loadable(fake(), seed=1), plan(server={"slo_ms": 500, "max_search_s": 3}))
    load, rate = figures(found), found.throughput_items_per_s
    assert load.peak_items_per_s is not None and 0 < rate.value <= rate.high <= load.peak_items_per_s.high
    assert "bisection" in rate.method and load.offered_items_per_s == rate.value


def test_an_slo_below_the_service_is_kept_at_no_rate() -> None:
    """4 ms of service, 1 ms allowed: the throughput within the SLO is 0, which was measured, and a flag says so."""
    found = run_scenario(loadable(fake(), seed=1), plan(server={"slo_ms": 1, "max_search_s": 2}))
    assert found.throughput_items_per_s.value == 0.0 and "slo_missed" in found.flags


def test_a_recorded_trace_is_replayed(tmp_path: Path) -> None:
    """200 requests of two samples, 10 ms apart: 200 samples a second arrive, and requests are what latency is of."""
    file = tmp_path / "trace.csv"
    file.write_text("second,samples\n" + "".join(f"{i / 100},2\n" for i in range(200)))
    found = run_scenario(loadable(Recording(slots=2), partial=True), plan(trace={"file": file}))
    load = figures(found)
    assert load.scenario == "trace" and load.offered_items_per_s == pytest.approx(200)
    assert load.n_requests == pytest.approx(found.measured_s * 100, abs=2)


@pytest.mark.parametrize(
    "load", [{"scenario": "singlestream"}, {"scenario": "multistream"}, {"server": {"qps": 300}}, {"server": {"slo_ms": 50}}]
)
@pytest.mark.parametrize("fail_after", [0, 200])
def test_an_engine_error_ends_every_load(load: dict[str, Any], fail_after: int) -> None:
    """What the engine raised comes out, and no thread is left."""
    before = threading.active_count()
    with pytest.raises(Unstable, match="gave up"):
        run_scenario(loadable(Recording(slots=3, fail_after=fail_after)), plan(**load))
    assert threading.active_count() == before


class Meter:
    """A host on which the windows of these numbers are disturbed."""

    limit = 0.05

    def __init__(self, *disturbed: int) -> None:
        self._disturbed, self._n = disturbed, -1  # the first lap only begins the first window

    def lap(self) -> float:
        self._n += 1
        return 0.4 if self._n in self._disturbed else 0.01


def test_a_disturbed_window_is_left_out_and_repeated() -> None:
    """The second of at least three windows is disturbed: all others count, one of them being its repetition."""
    found = run_scenario(loadable(NullSession(1), meter=Meter(2)), plan(precision=0.9))
    load = figures(found)
    assert len(found.window_rates) >= 3 and found.measured_s == pytest.approx(0.1 * (len(found.window_rates) + 1))
    assert load.n_repeated_windows == 1 and load.foreign_cpu_share == pytest.approx(0.01)
    assert "contended" not in found.flags


def test_a_neighbour_that_stays_is_told() -> None:
    """Every window is disturbed: after five repetitions all count, with the flag and the share that the neighbour took."""
    found = run_scenario(loadable(NullSession(1), meter=Meter(*range(99))), plan(precision=0.9))
    load = figures(found)
    assert "contended" in found.flags and load.foreign_cpu_share == pytest.approx(0.4) and load.n_repeated_windows == 0
    assert len(found.window_rates) >= 3 + 5


def test_a_disturbed_window_of_arrivals_is_left_out() -> None:
    """Open loops count no request that was due in one."""
    found = run_scenario(loadable(Recording(slots=2), meter=Meter(2), seed=2), plan(server={"qps": 500, "slo_ms": 400}))
    assert figures(found).n_repeated_windows == 1 and "contended" not in found.flags
    assert figures(found).n_requests < 500 * (found.measured_s - 0.1) + 4 * np.sqrt(500 * found.measured_s)


def test_batches_are_assembled_of_copies() -> None:
    """Samples 3…5 of a pool of two batches of four: rows 3, 4 and 5 in the slot's buffer; a short batch is cut or padded."""
    pool: list[Inputs] = [{"x": np.arange(4.0).reshape(4, 1)}, {"x": np.arange(4.0, 8.0).reshape(4, 1)}]
    partial, whole = (Assembler(pool, 4, 2, partial=p) for p in (True, False))
    assert partial.batch(0, 3, 3)["x"].ravel().tolist() == [3, 4, 5]
    assert whole.batch(1, 3, 3)["x"].ravel().tolist() == [3, 4, 5, 3]
    assert partial.batch(0, 6, 4)["x"].ravel().tolist() == [6, 7, 0, 1]
    assert pool[0]["x"].ravel().tolist() == [0, 1, 2, 3]


def test_batches_that_stand_in_the_pool_are_given_as_they_are() -> None:
    """Where all samples are there from the beginning nothing is copied but what straddles two batches or is not full."""
    pool: list[Inputs] = [{"x": np.arange(4.0).reshape(4, 1)}, {"x": np.arange(4.0, 8.0).reshape(4, 1)}]
    found = Assembler(pool, 4, 2, partial=True, whole=True)
    assert found.batch(0, 4, 4) is pool[1] and found.batch(1, 8, 4) is pool[0]
    assert found.batch(0, 6, 4)["x"].ravel().tolist() == [6, 7, 0, 1]
    assert found.batch(0, 4, 3)["x"].ravel().tolist() == [4, 5, 6]


class Shared(Recording):
    """Two threads drive all slots; a submission is done `takes_s` later, whoever waits for it when."""

    threads = 2

    def __init__(self, slots: int) -> None:
        super().__init__(slots, takes_s=0.01)
        self.flying: set[int] = set()
        self.most_flying = 0
        self._due = [0.0] * slots

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


@pytest.mark.parametrize("load", [{"server": {"qps": 3000, "slo_ms": 500}}, {"multistream": {"samples_per_query": 16}}])
def test_fewer_threads_than_slots_keep_all_slots_busy(load: dict[str, Any]) -> None:
    """Two threads drive four slots: under enough load all four are in flight, and none is left over."""
    session = Shared(slots=4)
    run_scenario(loadable(session, partial=True, seed=1), plan(**load))
    own = session.seen[len(session.seen) // 2 :]  # the second half is the load's own, whatever came before it
    owners = {slot: {thread for s, thread, _ in own if s == slot} for slot in range(4)}
    assert session.most_flying == 4 and session.flying == set()
    assert all(len(threads) <= 2 for threads in owners.values())


def test_without_loadgen_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is an extra; who asks for it without having it hears how to get it."""
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(EnvironmentProblem, match="LoadGen") as caught:
        run_scenario(loadable(NullSession(1)), plan(driver="loadgen"))
    assert "pip install 'autotune[loadgen]'" in str(caught.value)


@pytest.mark.parametrize(
    "load",
    [
        {"scenario": "offline"},
        {"scenario": "singlestream"},
        {"scenario": "multistream"},
        {"server": {"qps": 300, "slo_ms": 200}},
    ],
    ids=lambda load: str(load.get("scenario", "server")),
)
def test_loadgen_drives_the_same_session(load: dict[str, Any], tmp_path: Path) -> None:
    """LoadGen's own log becomes the same estimates, and stays in the trial's log folder."""
    pytest.importorskip("mlperf_loadgen", reason="LoadGen is not installed: pip install 'autotune[loadgen]'")
    session = Recording(slots=2)
    found = run_scenario(loadable(session, partial=True, logs=tmp_path, seed=7), plan(driver="loadgen", **load))
    assert figures(found).driver == "loadgen" and figures(found).n_requests > 10
    assert found.latency_ms.p50 is not None and found.latency_ms.p50.value >= 1.0
    assert found.throughput_items_per_s.value > 0 and (tmp_path / "run" / "mlperf_log_detail.txt").exists()
    assert max(n for _, _, n in session.seen) <= 4


def test_figures_of_loadgen_fit_each_other(tmp_path: Path) -> None:
    """No more is within the SLO than was sent, whatever LoadGen drew of the rate; every value lies in its interval."""
    pytest.importorskip("mlperf_loadgen", reason="LoadGen is not installed: pip install 'autotune[loadgen]'")
    on = loadable(Recording(slots=2), partial=True, logs=tmp_path, seed=3)
    sent = run_scenario(on, plan(driver="loadgen", server={"qps": 30, "slo_ms": 200}))
    good, offered = figures(sent).goodput_items_per_s, figures(sent).offered_items_per_s
    assert 0 < good.value <= good.high <= offered and sent.throughput_items_per_s == good
    for precision, flagged in ((1e-9, True), (0.999, False)):
        one = run_scenario(on, plan(driver="loadgen", scenario="singlestream", precision=precision))
        rate = one.throughput_items_per_s
        assert rate.low < rate.value < rate.high and ("wide_interval" in one.flags) == flagged


def test_nothing_that_arrives_is_told_and_crashes_nothing() -> None:
    """Arrivals are random, so a rate may bring none in the time there is: of nothing there is no latency, and a rate of 0."""
    session, slow = loadable(fake()), plan(server={"qps": 20})
    server = slow.server
    assert server is not None
    none = slow.model_copy(update={"server": server.model_copy(update={"qps": 1e-6})})
    found = run_scenario(session, none)
    assert (found.throughput_items_per_s.value, found.n_requests, found.latency_ms.p50) == (0.0, 0, None)


def test_an_overloaded_engine_has_an_interval() -> None:
    """Without an SLO the throughput is what it made, window by window, which is not known exactly."""
    found = run_scenario(loadable(fake(), seed=1), plan(server={"qps": 20_000}, max_s=30))
    rate = found.throughput_items_per_s
    assert "overloaded" in found.flags and 0 <= rate.low < rate.value < rate.high and rate.value < 4000


def test_an_engine_error_under_loadgen_comes_out(tmp_path: Path) -> None:
    """LoadGen waits for every answer; a session that fails must not hang it."""
    pytest.importorskip("mlperf_loadgen", reason="LoadGen is not installed: pip install 'autotune[loadgen]'")
    before = threading.active_count()
    with pytest.raises(Unstable, match="gave up"):
        on = loadable(Recording(slots=2, fail_after=250), logs=tmp_path)
        run_scenario(on, plan(driver="loadgen", server={"qps": 300, "slo_ms": 20}, max_s=2))
    assert threading.active_count() == before


def test_summaries_name_their_scenario() -> None:
    """Also the closed loop's, so that a stored trial says how it was loaded."""
    found = run_scenario(loadable(NullSession(2)), plan())
    assert figures(found).scenario == "offline" and figures(found).driver == "autotune" and figures(found).slo_ms is None
    assert summarize.__module__ == "autotune.bench.load"
