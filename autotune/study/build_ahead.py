"""BuildAhead: while a worker measures one candidate, what the search may soon want is built on cores of its own.

A build runs only while this worker has the device and nobody else on the host measures. During a load it is stopped, unless
the windows of earlier loads have shown that it disturbs none (`bench.beside`): until that is known it takes turns with being
stopped, and what is measured beside it does not count. What is built ahead is found in the cache by the trial that needs it.
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

from autotune.bench.beside import Evidence, ProcessGroup
from autotune.cache.trial_logs import AHEAD
from autotune.candidate import KNOBS, Candidate
from autotune.errors import AutotuneError, BuiltOnly
from autotune.records import TrialRecord
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
BESIDE_A_BUILD = "beside_a_build"
"""Flag of a trial whose load counted windows in which a build ran, because such builds had been shown to be harmless."""
_POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnderWay:
    candidate: Candidate
    future: Future[TrialRecord | None]


class BuildAhead:
    """The builder of one worker; does nothing where the plan sets no cores apart. A context manager, for the study's thread.

    `proposer` names what to build; `say` is told what a person should know.
    """

    def __init__(self, plan: StudyPlan, proposer: Proposer, say: Callable[[str], None]) -> None:
        self._plan, self._proposer, self._say = plan, proposer, say
        self._on_gpu = plan.fingerprint.kind == "cuda"
        # A GPU's builder times its kernels on the GPU, which is being measured.
        self.stages = ("prune", "variant") if self._on_gpu else ("prune", "variant", "engine")
        self._process = TrialProcess(plan.preload)
        self._threads: ThreadPoolExecutor | None = None  # one: a process dies with the thread that started it
        if plan.build_cores:
            self._threads = ThreadPoolExecutor(1, "build-ahead", initializer=_run_on, initargs=(plan.build_cores,))
        self._abort = threading.Event()
        self._now: _UnderWay | None = None
        self._begun: set[Hashable] = set()
        self._took: dict[Hashable, Mapping[str, float]] = {}
        self._evidence = Evidence()
        self._held: Proposal | None = None
        self._is_over = False
        self._counted_beside = False
        self._compares = not plan.spec.load.arrivals and plan.spec.load.driver == "autotune" and not self._counts_energy()
        self.n_built, self.built_s = 0, 0.0

    def _counts_energy(self) -> bool:
        """True where the energy of a load is read from a counter of the whole CPU, which a build would add to."""
        return not self._on_gpu and any(p.metric == "cpu_energy_j" and p.absent is None for p in host_probes())

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
        self._begun.add(self._key(candidate))
        self.take_in()
        if self._threads is None or self._is_over or self._now is not None or self._others_measure():
            return
        wanted = self._proposer.next_build(lambda c: self._key(c) in self._begun, self.stages)
        if wanted is None:
            return
        self._begun.add(self._key(wanted))
        request = TrialRequest(
            spec=self._plan.spec,
            number=number,
            role="bench",
            candidate=wanted,
            cache_root=self._plan.cache_root,
            log_path=self._plan.cache_root / "logs" / self._plan.spec.study / f"{AHEAD}-{number:05d}.log",
            build_only=True,
            variant_only=self._on_gpu,
        )
        self._abort.clear()
        self._now = _UnderWay(candidate=wanted, future=self._threads.submit(self._built, request))
        _log.info("build_ahead=%s beside=%d", wanted, number)
        # From here on it can be stopped; before, the process that forks it may still be importing.
        while self._process.child is None and not self._now.future.done():
            time.sleep(_POLL_S)

    def _built(self, request: TrialRequest) -> TrialRecord | None:
        """On the builder's thread: the record. None where it was ended, or the machine is at fault; then no more is built."""
        try:
            return self._process.run(request, should_abort=self._abort.is_set)
        except Interrupted:
            return None
        except (AutotuneError, OSError) as exc:  # the trial that needs it meets the same fault, and reports it
            _log.warning("build_ahead=%s no more is built ahead: %s", request.candidate, exc)
            self._is_over = True
            return None

    def take_in(self) -> None:
        """A build that has ended is known, to the search as well."""
        if self._now is None or not self._now.future.done():
            return
        done, self._now = self._now, None
        record, key = done.future.result(), self._key(done.candidate)
        if record is None:
            self._begun.discard(key)
            return
        reason = record.reject.reason if record.reject is not None else ""
        if reason == BuiltOnly.reason:
            self._took[key] = {name: seconds for name, seconds in record.stage_s.items() if name in self.stages}
            self.n_built += 1
            self.built_s += sum(self._took[key].values())
        if reason == BuiltOnly.reason or reason in LASTING:
            self._proposer.note_built(done.candidate, self.stages)
        _log.info("build_ahead=%s ended=%s cached=%s", done.candidate, reason, ",".join(record.cached) or "-")

    def next_proposal(self, ask: Callable[[], Proposal]) -> Proposal:
        """What to measure next: what was held back, once its build is done; else what `ask` gives, or gives in its place.

        A candidate whose build is under way is held back, so that another is measured while it is built.
        """
        self.take_in()
        if self._held is not None and not self._is_at(self._held.candidate):
            held, self._held = self._held, None
            return held
        proposal = ask()
        if self._held is None and self._is_at(proposal.candidate):
            self._held, proposal = proposal, ask()
        return proposal

    def let_go(self) -> None:
        """What was held back waits to be asked for again."""
        if self._held is not None:
            self._proposer.put_back(self._held.number)
            self._held = None

    def _is_at(self, candidate: Candidate) -> bool:
        return self._now is not None and self._key(candidate) == self._key(self._now.candidate)

    @contextmanager
    def measuring(self, request: TrialRequest) -> Iterator[TrialRequest]:
        """Inside the block this worker measures the request, which is given as it is to be made; a build goes on meanwhile."""
        self._counted_beside = False
        if self._now is not None and self._others_measure():
            self.abort()
        group = self._group()
        if group is not None:
            group.go_on()
        takes_turns = group is not None and self._may_compare(request) and self._evidence.verdict == "unknown"
        try:
            yield replace(request, build_group=self._process.child if takes_turns else None)
        finally:
            if (group := self._group()) is not None:
                group.stop()  # the device is about to be another's

    def at_stage(self, request: TrialRequest, stage: str) -> None:
        """The measured trial has come to that stage."""
        group = self._group()
        if stage != "load" or group is None or request.build_group is not None:
            return
        if self._may_compare(request) and self._evidence.verdict == "harmless":
            self._counted_beside = True
        else:
            group.stop()

    def seen(self, record: TrialRecord) -> TrialRecord:
        """The measured trial's record with what its readers should know of builds; what it tells of them is taken in."""
        before = self._evidence.verdict
        self._evidence.add(record.telemetry)
        if self._evidence.verdict != before:
            self._say(f"builds ahead: {self._told_effect()}")
        flags = [BESIDE_A_BUILD] if self._counted_beside else []
        flags += [BUILT_AHEAD] if self._key(record.candidate) in self._took else []
        return replace(record, flags=(*record.flags, *flags)) if flags else record

    def as_if_built(self, record: TrialRecord) -> TrialRecord:
        """The record with the seconds that its build took ahead of it, from which a search learns what others would take."""
        took = self._took.pop(self._key(record.candidate), {})
        return replace(record, stage_s={**record.stage_s, **took}) if took else record

    @property
    def summary(self) -> str | None:
        """What was built ahead, and what it did to what was measured beside it; None where nothing was."""
        if not self.n_built:
            return None
        return f"{self.n_built} builds ahead in {self.built_s:.0f} s beside the measurements: {self._told_effect()}"

    def _told_effect(self) -> str:
        effect = self._evidence.effect
        if not self._compares:
            return "they were stopped during every load, of which one without builds alone can be counted here"
        if effect is None:
            return "too few windows to tell what throughput is beside one; they count in none"
        what = {
            "harmless": "harmless, so they go on during loads",
            "disturbs": "not shown to be harmless, so they are stopped during loads",
            "unknown": "not known to be harmless, so no window beside one counts",
        }[self._evidence.verdict]
        return f"throughput beside one changes by {effect.value:+.2%} [{effect.low:+.2%}, {effect.high:+.2%}], {what}"

    def _may_compare(self, request: TrialRequest) -> bool:
        return self._compares and request.role == "search"

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
