"""MLPerf's LoadGen as the driver of the same sessions: it says when and how many samples run, and its log says how long.

Which samples stand in a batch is ours: they go through the pool in turn, as with our own driver. LoadGen calls our functions on
threads of its own; the workers that it feeds are those of every other load.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from autotune.bench.disturbance import CONTENDED, Windows
from autotune.bench.feeds import Work
from autotune.bench.knee import Probe
from autotune.bench.lanes import NS, overlapping
from autotune.bench.load import WIDE_INTERVAL, LoadResult, latency_summary
from autotune.bench.loadgen_log import LoadGenRun, read_log
from autotune.bench.scenario import Loadable, measured_peak
from autotune.bench.served import share_within
from autotune.bench.server import NONE_ARRIVED, at_the_knee, scaled, wanted_share
from autotune.bench.statistics import mean_estimate
from autotune.bench.workers import Workers, prompt, wake_on_time
from autotune.errors import EnvironmentProblem
from autotune.records import LoadFigures
from autotune.spec.model import LoadSpec

INVALID = "loadgen_invalid"
"""Flag of a run that LoadGen does not call valid, mostly because a search has less time than MLPerf's ten minutes."""
_SCENARIOS = {"offline": "Offline", "singlestream": "SingleStream", "multistream": "MultiStream", "server": "Server"}
_FEWEST = 460
"""Queries of one load of a search: with fewer and no violation p99 cannot be told from a worse one."""


class LoadGenFeed:
    """Samples as LoadGen issues them. `wait_ns`: a batch that is not full waits so long for more.

    One worker at a time gathers a batch, the others wait for their turn behind it. What LoadGen's thread does is one call of C
    for each sample: it shares the processors with the engine, and whatever it takes is missing there and is measured.
    """

    def __init__(self, batch_size: int, wait_ns: int, clock: Callable[[], int], complete: Callable[[list[int]], None]) -> None:
        self._batch_size, self._wait_ns, self._clock, self._complete = batch_size, wait_ns, clock, complete
        self._turn = threading.Lock()
        self._issued: SimpleQueue[tuple[list[int], int] | None] = SimpleQueue()
        self._query: tuple[list[int], int] = ([], 0)  # the one that is being dealt out, from its sample `_dealt` on
        self._dealt = 0
        self._gathered: list[int] = []
        self._since_ns = 0
        self._running: dict[int, list[int]] = {}
        self._next = 0
        self._stopped = threading.Event()

    def issue(self, ids: list[int], indices: list[int]) -> None:
        """LoadGen's call: these samples are to be run."""
        if self._stopped.is_set():
            # Answered at once, a closed scenario would ask, and log, as fast as it can until its time is over.
            time.sleep(0.01)
            self._complete(ids)
            return
        self._issued.put((ids, self._clock()))
        if self._stopped.is_set():
            self.answer_rest()  # the rest was answered meanwhile, perhaps without these

    def take(self, wait: bool = True) -> Work | None:
        """Up to a batch of what was issued."""
        if not self._turn.acquire(blocking=wait):
            return None
        try:
            if not self._gather(wait):
                return None
            first, n = self._next, len(self._gathered)
            self._next += n
            self._running[first], self._gathered = self._gathered, []
        finally:
            self._turn.release()
        return first, n

    def _gather(self, wait: bool) -> bool:
        """A batch is gathered: it is full or has waited long enough. False: there is none, or none any more."""
        gathered, issued = self._gathered, self._issued
        while not self._stopped.is_set():
            self._deal_out()
            if len(gathered) == self._batch_size:
                break
            pause_s = None if not gathered else max(0.0, (self._since_ns + self._wait_ns - self._clock()) / NS)
            if pause_s == 0.0 and issued.empty():
                break
            try:
                found = issued.get(wait and pause_s != 0.0, pause_s)
            except Empty:
                if not wait:
                    return False
                continue
            if found is not None:
                self._query, self._dealt = found, 0
        return not self._stopped.is_set()

    def _deal_out(self) -> None:
        """What the batch lacks is taken from the query, as far as there is: Offline has all of its samples in one."""
        ids, issued_ns = self._query
        found = ids[self._dealt : self._dealt + self._batch_size - len(self._gathered)]
        if found and not self._gathered:
            self._since_ns = issued_ns
        self._gathered += found
        self._dealt += len(found)

    def done(self, work: Work, at_ns: int) -> None:
        """LoadGen hears of it."""
        ids = self._running.pop(work[0], None)
        if ids is not None:
            self._complete(ids)

    def answer_rest(self) -> None:
        """Nothing is taken any more, and LoadGen gets an answer to all that it has issued and will issue."""
        self.stop()
        with self._turn:
            rest = [*self._gathered, *self._query[0][self._dealt :]]
            self._gathered, self._query = [], ([], 0)
            while not self._issued.empty():
                found = self._issued.get()
                rest += [] if found is None else found[0]
        while self._running:
            try:
                rest += self._running.popitem()[1]
            except KeyError:
                break  # a worker was done with the last one meanwhile
        if rest:
            self._complete(rest)

    def stop(self) -> None:
        """Whoever waits gets None."""
        self._stopped.set()
        self._issued.put(None)


def run_loadgen(on: Loadable, plan: LoadSpec, give_up_below: float, clock: Callable[[], int]) -> LoadResult:
    """The session under LoadGen's version of the plan's scenario, once our own closed loop has warmed it up.

    LoadGen runs for `max_s` in one go. Raises EnvironmentProblem where it is not installed, and what the session raises.
    """
    loadgen = _library()
    began = clock()
    peak = measured_peak(on, plan, clock)
    logs = on.logs or Path("loadgen")

    def run(seconds: float, rate: float, name: str) -> LoadResult:
        before_s = (clock() - began) / NS
        return _one_run(loadgen, on, plan, seconds, rate, logs / name, clock, before_s)

    if not plan.searches_rate:
        asked = plan.server.qps if plan.server is not None else peak.items_per_s.value
        found = run(plan.max_s, float(asked), "run")
        return replace(found, flags=tuple(dict.fromkeys((*peak.flags, *found.flags))))

    def probe(rate: float) -> Probe:
        found = run(min(plan.max_s, max(2.0, _FEWEST / rate)), rate, f"{rate:.3f}-per-s")
        within = found.figures.within_slo if found.figures else None
        return Probe(items_per_s=rate, within=within or NONE_ARRIVED, wanted=wanted_share(plan))

    return at_the_knee(plan, peak, clock, probe, lambda rate: run(plan.max_s, rate, "knee"), give_up_below)


def _library() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as exc:
        raise EnvironmentProblem(
            "load.driver: loadgen needs MLPerf's LoadGen, which is not installed.", remedy="pip install 'autotune[loadgen]'"
        ) from exc
    return mlperf_loadgen


def _one_run(
    loadgen: Any,
    on: Loadable,
    plan: LoadSpec,
    seconds: float,
    rate: float,
    folder: Path,
    clock: Callable[[], int],
    before_s: float,
) -> LoadResult:
    folder.mkdir(parents=True, exist_ok=True)

    def complete(ids: list[int]) -> None:
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(i, 0, 0) for i in ids])

    wait_ns = int((plan.server.batch_wait_ms if plan.server is not None else 0.0) * 1e6)
    feed = LoadGenFeed(on.batch_size, wait_ns, clock, complete)
    workers = Workers(on.session, on.assembler(whole=plan.scenario == "offline"), feed, clock)
    n_samples = len(on.pool) * on.batch_size
    sut = loadgen.ConstructFastSUT(feed.issue, lambda: None)
    qsl = loadgen.ConstructQSL(n_samples, n_samples, lambda indices: None, lambda indices: None)
    windows = Windows(on.meter)
    # Offline's samples are one query, whose latency says nothing; a trace of it, 300 bytes a sample, would be read by nobody.
    traced = plan.scenario != "offline"
    begin = clock()
    try:
        # A worker that fails leaves LoadGen waiting for its answer, so it must be able to end without the rest.
        watch = threading.Thread(target=_answer_after_failure, args=(workers, feed), daemon=True)
        watch.start()
        wake_on_time()
        settings, logging = _settings(loadgen, plan, seconds, rate, on.seed), _logging(loadgen, folder, traced)
        with prompt():  # LoadGen's schedule is kept by this thread
            loadgen.StartTestWithLogSettings(sut, qsl, settings, logging, "")
    finally:
        end = clock()
        windows.lap()
        workers.stop()
        workers.join()
        watch.join()
        loadgen.DestroyQSL(qsl)
        loadgen.DestroyFastSUT(sut)
    if workers.errors:
        raise workers.errors[0]
    found = _result(read_log(folder, traced=traced), workers, plan, rate, begin, end, before_s)
    figures = None if found.figures is None else replace(found.figures, foreign_cpu_share=windows.foreign_share([True]))
    return replace(found, figures=figures, flags=(*found.flags, *((CONTENDED,) if any(windows.disturbed) else ())))


def _answer_after_failure(workers: Workers, feed: LoadGenFeed) -> None:
    """Returns when the workers were stopped; what LoadGen still waits for is answered, since it would wait for ever."""
    workers.wait_for_stop()
    feed.answer_rest()


def _settings(loadgen: Any, plan: LoadSpec, seconds: float, rate: float, seed: int) -> Any:
    """As short as a search needs them: MLPerf's own least duration is ten minutes."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, _SCENARIOS[plan.scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1000)
    settings.min_query_count = 1
    settings.offline_expected_qps = rate
    settings.server_target_qps = rate
    if plan.server is not None:
        settings.server_target_latency_ns = int((plan.server.slo_ms or 1000.0) * 1e6)
        settings.server_target_latency_percentile = plan.server.percentile / 100
    settings.single_stream_expected_latency_ns = max(1, int(NS / rate))
    n = plan.samples_per_query or 1
    settings.multi_stream_samples_per_query = n
    settings.multi_stream_expected_latency_ns = max(1, int(n * NS / rate))
    settings.qsl_rng_seed, settings.sample_index_rng_seed, settings.schedule_rng_seed = seed, seed + 1, seed + 2
    return settings


def _logging(loadgen: Any, folder: Path, traced: bool) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    settings = loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = traced
    return settings


def _result(
    run: LoadGenRun, workers: Workers, plan: LoadSpec, rate: float, begin_ns: int, end_ns: int, before_s: float
) -> LoadResult:
    latency_ns = run.query_latency_ns(plan.samples_per_query or 1)
    offline, slo_ms = plan.scenario == "offline", plan.slo_ms
    # In Offline all samples are one query; what is reported as latency is the batch's own, as in our closed loop.
    started, done = overlapping(workers.lanes, begin_ns, end_ns)
    latency_ms = (done - started) / 1e6 if offline else latency_ns / 1e6
    counted = mean_estimate(workers.window_rates(begin_ns, end_ns, int(plan.window_s * NS)))
    # LoadGen's own figure, which counts from its first query to its last answer, and as wide an interval around it.
    ratio = run.items_per_s / counted.value if run.items_per_s and counted.value > 0 else 1.0
    completed = replace(scaled(counted, ratio), method=f"LoadGen {run.version}; {counted.method}")
    within = share_within(latency_ns, slo_ms) if slo_ms is not None and len(latency_ns) else None
    goodput = None if within is None else scaled(within, run.scheduled_per_s or rate)
    # A rate that is given is no sample of anything: its share within the SLO has an interval, which has no such aim.
    wide = plan.server is None and completed.half_width > plan.precision * completed.value
    figures = LoadFigures(
        scenario=plan.scenario,
        driver="loadgen",
        n_requests=len(latency_ms),
        offered_items_per_s=run.scheduled_per_s,
        slo_ms=slo_ms,
        slo_percentile=plan.server.percentile if plan.server is not None and slo_ms is not None else None,
        within_slo=within,
        goodput_items_per_s=goodput,
        late_share=run.late_share((slo_ms or math.inf) * 1e6) if plan.server is not None else None,
        mean_batch=workers.mean_batch(),
    )
    return LoadResult(
        throughput_items_per_s=goodput or completed,
        latency_ms=latency_summary(np.asarray(latency_ms, dtype=np.float64)),
        n_requests=len(latency_ms),
        window_rates=(),
        measured_s=(end_ns - begin_ns) / NS,
        warmup_s=before_s,
        flags=(*((WIDE_INTERVAL,) if wide else ()), *(() if run.valid else (INVALID,))),
        figures=figures,
        completed_items_per_s=completed,
    )
