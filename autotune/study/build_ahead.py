"""BuildAhead: while a worker measures one candidate, what the search may soon want is built on cores of its own.

A build runs only while this worker has the device and nobody else on the host measures. During a load it is stopped, or takes
turns with being stopped, window by window (`bench.beside`): what was measured beside it counts only once many loads have shown
that it disturbs none. What is built ahead is found in the cache by the trial that needs it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from autotune.bench.beside import COUNTED_BESIDE, Evidence, ProcessGroup, was_disturbed
from autotune.cache.trial_logs import AHEAD
from autotune.candidate import KNOBS, Candidate
from autotune.errors import BuiltOnly
from autotune.fingerprint import cpu_fingerprint
from autotune.records import TrialRecord
from autotune.spec.model import LimitsSpec
from autotune.study.device_lock import holders
from autotune.study.outcome import LASTING
from autotune.study.plan import StudyPlan
from autotune.study.proposer import Proposal, Proposer
from autotune.telemetry.host import host_probes
from autotune.trial.isolation import Interrupted, TrialProcess
from autotune.trial.request import TrialRequest

_log = logging.getLogger(__name__)
BUILT_AHEAD = "built_ahead"
"""Flag of a trial whose variant or engine was made before it began."""
_POLL_S = 0.005
_LONGEST_STOP_S = 5.0
"""So long a build may be stopped between two trials with what it has locked; then it is ended, for others may want that."""
_LOOK_S = 1.0
"""How often a build looks whether somebody else measures."""
_MOST_HELD = 3
"""Candidates that wait for one build: those that share it."""
_MEMORY_SHARE = 0.4
"""Of the machine's memory, for a build beside a trial; unless the study says what a trial may take, half of which it gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnderWay:
    candidate: Candidate
    future: Future[tuple[TrialRecord | None, float]]


class BuildAhead:
    """The builder of one worker; does nothing where the plan sets no cores apart. A context manager, for the study's thread.

    `proposer` names what to build; `say` is told what a person should know; waiting ends when `should_stop`.
    """

    def __init__(
        self,
        plan: StudyPlan,
        proposer: Proposer,
        say: Callable[[str], None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._plan, self._proposer, self._say, self._should_stop = plan, proposer, say, should_stop
        self._on_gpu = plan.fingerprint.kind == "cuda"
        # A GPU's builder times its kernels on the GPU, which is being measured.
        self.stages = ("prune", "variant") if self._on_gpu else ("prune", "variant", "engine")
        self._process = TrialProcess(plan.preload)
        self._threads: ThreadPoolExecutor | None = None  # one: a process dies with the thread that started it
        if plan.build_cores:
            self._threads = ThreadPoolExecutor(1, "build-ahead", initializer=_run_on, initargs=(plan.build_cores,))
        self._takes_turns = bool(plan.build_cores) and self._can_compare()
        self._abort = threading.Event()
        self._idle_since: float | None = None
        self._is_over = False
        self._now: _UnderWay | None = None
        self._stage = ""
        self._seen: set[Hashable] = set()
        """Whose builds were begun, here or by their trials."""
        self._took: dict[Hashable, Mapping[str, float]] = {}
        self._held: list[Proposal] = []
        self._evidence = Evidence()
        self.n_built, self.built_s, self.n_ended = 0, 0.0, 0

    def _can_compare(self) -> bool:
        """True where the windows of a load tell what a build does to it: not to latencies, nor to energy of the whole CPU."""
        spec = self._plan.spec
        windowed = not spec.load.arrivals and spec.load.driver == "autotune"
        latency = "latency_p99" in spec.objectives or spec.constraints.latency_p99_ms is not None
        counter = not self._on_gpu and any(p.metric == "cpu_energy_j" and p.absent is None for p in host_probes())
        return windowed and not latency and not counter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No build is under way any more, and none begins."""
        self.rest()
        if self._threads is not None:
            self._threads.shutdown()
        self._threads = None

    def rest(self) -> None:
        """No build is under way any more, and no process is kept for the next."""
        self.abort()
        if self._threads is not None:
            self._threads.submit(self._process.close).result()

    def abort(self) -> None:
        """The build under way has ended, its locks are free, and what it made of a stage is lost."""
        if self._now is not None:
            self._abort.set()
            self._now.future.result()
            self.take_in()

    def begin(self, number: int, candidate: Candidate) -> None:
        """Unless one is under way, a build begins beside the trial `number` of `candidate`. The device is this worker's."""
        if self._threads is None or self._is_over:
            return
        self._seen.add(self._key(candidate))
        self._idle_since = None
        self.take_in()
        if self._now is not None or self._others_measure():
            return
        wanted = self._proposer.next_build(lambda c: self._key(c) in self._seen, self.stages)
        if wanted is None:
            return
        self._seen.add(self._key(wanted))
        self._abort.clear()
        self._stage = ""
        self._proposer.note_building(wanted, self.stages)
        self._now = _UnderWay(candidate=wanted, future=self._threads.submit(self._built, self._request(number, wanted)))
        _log.info("build_ahead=%s beside=%d", wanted, number)
        # From here on it can be stopped; before, the process that forks it may still be importing.
        while self._process.child is None and not self._now.future.done():
            if self._should_stop():
                self.abort()
                return
            time.sleep(_POLL_S)

    def _request(self, number: int, wanted: Candidate) -> TrialRequest:
        spec = self._plan.spec
        limits = spec.limits
        mib = limits.memory_mib // 2 if limits.memory_mib else int(_MEMORY_SHARE * cpu_fingerprint().memory_mib)
        own = LimitsSpec(deadline_s=limits.deadline_s, memory_mib=max(64, mib))
        return TrialRequest(
            spec=spec.model_copy(update={"limits": own}),
            number=number,
            role="bench",
            candidate=wanted,
            cache_root=self._plan.cache_root,
            log_path=self._plan.cache_root / "logs" / spec.study / f"{AHEAD}-{number:05d}.log",
            build_only=True,
            variant_only=self._on_gpu,
        )

    def _built(self, request: TrialRequest) -> tuple[TrialRecord | None, float]:
        """On the builder's thread: the record and how long the build was stopped. No record where it was ended, or the machine
        is at fault; then no more is built.
        """
        looked = time.monotonic()

        def is_to_end() -> bool:
            nonlocal looked
            now, idle = time.monotonic(), self._idle_since
            if self._abort.is_set() or (idle is not None and now - idle > _LONGEST_STOP_S):
                return True
            if now - looked < _LOOK_S:
                return False
            looked = now
            return self._others_measure()

        try:
            record = self._process.run(request, self._enter, is_to_end, stops_count=False)
            return record, self._process.stopped_s
        except Interrupted:
            return None, 0.0
        except Exception as exc:  # the trial that needs it meets the same fault, and reports it
            _log.exception("build_ahead=%s no more is built ahead: %s", request.candidate, exc)
            self._is_over = True
            return None, 0.0

    def _enter(self, stage: str) -> None:
        self._stage = stage

    def take_in(self) -> None:
        """A build that has ended is known, to the search as well."""
        if self._now is None or not self._now.future.done():
            return
        done, self._now = self._now, None
        self._proposer.note_building(None, self.stages)
        (record, stopped_s), key = done.future.result(), self._key(done.candidate)
        if record is None:
            self._seen.discard(key)
            self.n_ended += 1
            return
        reason = record.reject.reason if record.reject is not None else ""
        if reason == BuiltOnly.reason:
            self._took[key] = self._working_s(record, stopped_s)
            self.n_built += 1
            self.built_s += sum(self._took[key].values())
        if reason == BuiltOnly.reason or reason in LASTING:
            self._proposer.note_built(done.candidate, self.stages)
        _log.info("build_ahead=%s ended=%s cached=%s", done.candidate, reason, ",".join(record.cached) or "-")

    def _working_s(self, record: TrialRecord, stopped_s: float) -> dict[str, float]:
        """Seconds of each stage, less the build's stops, which are taken to be spread evenly."""
        share = max(0.0, 1 - stopped_s / max(1e-9, sum(record.stage_s.values())))
        return {name: share * seconds for name, seconds in record.stage_s.items() if name in self.stages}

    def next_proposal(self, ask: Callable[[], Proposal]) -> Proposal:
        """What to measure next: what was held back, once its build is done; else what `ask` gives, or gives in its place.

        A candidate whose build is under way is held back, so that another is measured while it is built.
        """
        self.take_in()
        for held in self._held:
            if not self._is_at(held.candidate):
                self._held.remove(held)
                return held
        proposal = ask()
        while self._is_at(proposal.candidate) and len(self._held) < _MOST_HELD:
            self._held.append(proposal)
            proposal = ask()
        return proposal

    def let_go(self) -> None:
        """What was held back waits to be asked for again."""
        for held in self._held:
            self._proposer.put_back(held.number)
        self._held = []

    def _is_at(self, candidate: Candidate) -> bool:
        """True when the candidate would wait for what is being built."""
        if self._now is None:
            return False
        built = self._now.candidate
        if self._key(candidate) == self._key(built):
            return True
        shares_pruned = candidate.pruning_ratio == built.pruning_ratio > 0
        return shares_pruned and self._stage not in ("variant", "engine")

    @contextmanager
    def measuring(self, request: TrialRequest) -> Iterator[TrialRequest]:
        """Inside the block this worker measures the request, which is given as it is to be made; a build goes on meanwhile."""
        self._idle_since = None
        group = self._group()
        if group is not None:
            group.go_on()
        verdict = self._evidence.verdict
        turns = group is not None and self._takes_turns and request.role == "search" and verdict != "disturbs"
        try:
            yield replace(
                request,
                build_group=self._process.child if turns else None,
                build_is_harmless=turns and verdict == "harmless",
            )
        finally:
            self._idle_since = time.monotonic()
            if (group := self._group()) is not None:
                group.stop()  # the device is about to be another's

    def at_stage(self, request: TrialRequest, stage: str) -> None:
        """The measured trial has come to that stage. Where the build takes turns, the trial stops it by itself."""
        group = self._group()
        if stage == "load" and group is not None and request.build_group is None:
            group.stop()

    def disturbed(self, record: TrialRecord) -> bool:
        """True when a load counted windows beside a build that were certainly others than those without: it tells nothing."""
        return COUNTED_BESIDE in record.flags and was_disturbed(record.telemetry)

    def learn(self, record: TrialRecord) -> None:
        """What the trial tells of the build beside it is taken in; a person is told when it changes what is done."""
        before = self._evidence.verdict
        self._evidence.add(record.telemetry)
        if self._evidence.verdict != before:
            self._say(f"builds ahead: {self._told_effect()}")

    def flagged(self, record: TrialRecord) -> TrialRecord:
        """The record with the flag that its build was made ahead, if it was."""
        return replace(record, flags=(*record.flags, BUILT_AHEAD)) if self._key(record.candidate) in self._took else record

    def as_if_built(self, record: TrialRecord) -> TrialRecord:
        """The record with the seconds that its build took ahead of it, from which a search learns what others would take."""
        took = self._took.pop(self._key(record.candidate), {})
        return replace(record, stage_s={**record.stage_s, **took}) if took else record

    @property
    def summary(self) -> str | None:
        """What was built ahead, and what it did to what was measured beside it; None where nothing was begun."""
        if not self.n_built and not self.n_ended:
            return None
        ended = f" ({self.n_ended} more were ended: others measured, or a pause or the end came)" if self.n_ended else ""
        built = f"{self.n_built} builds ahead in {self.built_s:.0f} s beside the measurements{ended}"
        return f"{built}: {self._told_effect()}"

    def _told_effect(self) -> str:
        effect = self._evidence.effect
        if not self._takes_turns:
            return "they were stopped during every load, of which one without builds alone can be counted here"
        if effect is None:
            return "too few loads to tell what throughput is beside one; no window beside one counts"
        what = {
            "harmless": "harmless, so windows beside one count",
            "disturbs": "which disturbs, so they are stopped during loads",
            "unknown": "not known to be harmless, so no window beside one counts",
        }[self._evidence.verdict]
        return f"throughput beside one changes by {effect.value:+.2%} [{effect.low:+.2%}, {effect.high:+.2%}], {what}"

    def _group(self) -> ProcessGroup | None:
        """The processes of the build under way."""
        child = self._process.child
        return None if self._now is None or child is None else ProcessGroup(child)

    def _others_measure(self) -> bool:
        return any(h.pid != os.getpid() and not h.waits for h in holders())

    def _key(self, candidate: Candidate) -> Hashable:
        """What is built ahead for the candidate; the same for candidates that share it."""
        knobs = {name for name, knob in KNOBS.items() if knob.stage == "variant"}
        if not self._on_gpu:
            knobs |= self._plan.space.build_knobs_of.get(candidate.engine, frozenset())
        return (candidate.engine, candidate.precision, *(getattr(candidate, name) for name in sorted(knobs)))


def _run_on(cores: tuple[int, ...]) -> None:
    """This thread, and the processes that it starts, run on these cores only."""
    os.sched_setaffinity(0, cores)
