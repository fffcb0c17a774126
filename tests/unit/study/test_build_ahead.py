"""BuildAhead: what is built beside which trial, when it is stopped or ended, and what it does to what is measured and told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_samples import candidate, record, study

from autotune.bench.beside import COUNTED_BESIDE, LOG_RATIO
from autotune.candidate import Candidate, Choices
from autotune.records import Rejection, Series, TrialRecord
from autotune.study import build_ahead
from autotune.study.build_ahead import BUILT_AHEAD, BuildAhead
from autotune.study.device_lock import Holder
from autotune.study.plan import make_plan
from autotune.study.proposer import Proposal
from autotune.trial.isolation import Interrupted
from autotune.trial.request import TrialRequest

HERE, FIRST, SECOND = (candidate(batch_size=n) for n in (1, 2, 3))
HARMLESS = (0.001, -0.001) * 5


class Builds:
    """In place of the process that builds: a build lasts until the test ends it."""

    def __init__(self) -> None:
        self.child: int | None = None
        self.asked: list[TrialRequest] = []
        self.ended = threading.Event()
        self.reason, self.fault, self.starts, self.stopped_s = "built_only", False, True, 0.0

    def run(
        self, request: TrialRequest, on_stage: Callable[[str], None], should_abort: Callable[[], bool], *, stops_count: bool
    ) -> TrialRecord:
        self.asked.append(request)
        assert not stops_count
        self.enter = on_stage
        if not self.starts:
            while not should_abort():
                time.sleep(0.005)
            raise Interrupted
        self.child = 4711
        try:
            while not self.ended.wait(0.005):
                if should_abort():
                    raise Interrupted
            self.ended.clear()
            if self.fault:
                raise RuntimeError("no process can be started")
            reject = Rejection(reason=self.reason, stage="open", message="")
            found = record(request.number, stage_s={"variant": 3.0, "engine": 4.0, "data": 1.0})
            return replace(found, state="rejected", candidate=request.candidate, reject=reject)
        finally:
            self.child = None

    def close(self) -> None:
        pass


class Names:
    """In place of the proposer: names these in turn, and hears what was built or put back."""

    def __init__(self, *candidates: Candidate) -> None:
        self.left, self.built, self.back = list(candidates), list[Candidate](), list[int]()
        self.building: Candidate | None = None

    def next_build(self, is_built: Callable[[Candidate], bool], stages: object) -> Candidate | None:
        return next((c for c in self.left if not is_built(c)), None)

    def note_building(self, building: Candidate | None, stages: object) -> None:
        self.building = building

    def note_built(self, built: Candidate, stages: object) -> None:
        self.built.append(built)

    def put_back(self, number: int) -> None:
        self.back.append(number)


class Bench:
    """A builder with everything around it in the test's hand. `group`: what was done to the build's processes, in order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *names: Candidate, **sections: Any) -> None:
        space = {"precision": Choices(values=("fp32", "fp16")), "batch_size": Choices(values=(1, 2, 3, 4))}
        self.plan = replace(make_plan(study(space=space, cache=folder, **sections)), build_cores=(0,))
        self.builds, self.names, self.said, self.group = Builds(), Names(*names), list[str](), list[str]()
        self.holders: list[Holder] = []
        bench = self

        class Group:
            def __init__(self, group: int) -> None:
                assert group == 4711

            def stop(self) -> bool:
                bench.group.append("stop")
                return True

            def go_on(self) -> bool:
                bench.group.append("go on")
                return True

        monkeypatch.setattr(build_ahead, "TrialProcess", lambda preload: self.builds)
        monkeypatch.setattr(build_ahead, "ProcessGroup", Group)
        monkeypatch.setattr(build_ahead, "holders", lambda: self.holders)
        monkeypatch.setattr(build_ahead, "host_probes", tuple)
        monkeypatch.setattr(build_ahead, "_run_on", lambda cores: None)
        self.stops = False
        self.ahead = BuildAhead(self.plan, self.names, self.said.append, lambda: self.stops)  # type: ignore[arg-type]

    def request(self, c: Candidate = HERE, role: Any = "search") -> TrialRequest:
        return TrialRequest(
            spec=self.plan.spec, number=7, role=role, candidate=c, cache_root=self.plan.cache_root, log_path=Path("log")
        )

    def finish(self) -> None:
        """The build under way comes to its end."""
        self.builds.ended.set()
        for _ in range(400):
            self.ahead.take_in()
            if self.builds.child is None and not self.builds.ended.is_set() and self.ahead._now is None:
                return
            time.sleep(0.005)
        raise AssertionError("the build did not end")

    def measure(self, role: Any = "search", log_ratios: tuple[float, ...] = ()) -> tuple[TrialRequest, TrialRecord]:
        """One trial beside the build: the request as it was made, and the record as it is stored."""
        telemetry = (Series(metric=LOG_RATIO, unit="ln(ratio)", values=log_ratios),) if log_ratios else ()
        with self.ahead.measuring(self.request(role=role)) as asked:
            for stage in ("engine", "accuracy", "load"):
                self.ahead.at_stage(asked, stage)
            found = replace(record(7, role=role), candidate=HERE, telemetry=telemetry)
            self.ahead.learn(found)
            return asked, self.ahead.flagged(found)

    def measured(self, *loads: float) -> None:
        """So many loads whose pairs all show this."""
        for log_ratio in loads:
            self.measure(log_ratios=(log_ratio, log_ratio))


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Bench] = []

    def bench(*names: Candidate, **sections: Any) -> Bench:
        made.append(Bench(tmp_path, monkeypatch, *names, **sections))
        return made[-1]

    yield bench
    for each in made:
        each.ahead.close()


def test_one_build_at_a_time_beside_trials(make: Make) -> None:
    """The first that is named begins; the next one when that has ended, which the search is told."""
    bench = make(FIRST, SECOND)
    bench.ahead.begin(7, HERE)
    bench.ahead.begin(8, HERE)
    assert [r.candidate for r in bench.builds.asked] == [FIRST] and bench.builds.asked[0].build_only
    assert bench.names.building == FIRST
    assert bench.builds.asked[0].log_path.name == "ahead-00007.log" and not bench.builds.asked[0].variant_only
    bench.finish()
    assert bench.names.built == [FIRST] and bench.names.building is None and bench.ahead.n_built == 1
    bench.ahead.begin(9, HERE)
    assert [r.candidate for r in bench.builds.asked] == [FIRST, SECOND]


def test_what_a_trial_builds_itself_is_not_built_ahead(make: Make) -> None:
    """The trial's own engine, and one that shares all that its engine is built from."""
    bench = make(HERE, replace(HERE, streams=4))
    bench.ahead.begin(7, HERE)
    assert bench.builds.asked == []


def test_without_cores_of_its_own_nothing_is_built(make: Make) -> None:
    """As everywhere by default."""
    bench = make(FIRST)
    bench.ahead = BuildAhead(replace(bench.plan, build_cores=()), bench.names, bench.said.append)  # type: ignore[arg-type]
    bench.ahead.begin(7, HERE)
    asked, found = bench.measure()
    assert bench.builds.asked == [] and asked.build_group is None and found.flags == () and bench.ahead.summary is None


def test_until_it_is_known_whether_builds_disturb_they_take_turns(make: Make) -> None:
    """The trial is told the group and stops it by itself; between the trials nothing runs."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    asked, found = bench.measure()
    assert asked.build_group == 4711 and not asked.build_is_harmless and bench.group == ["go on", "stop"] and found.flags == ()


def test_harmless_builds_take_turns_in_windows_that_count(make: Make) -> None:
    """Once the loads have shown it, which a person is told once, with the effect; and no more when a load shows otherwise."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    bench.measured(*HARMLESS)
    asked, _ = bench.measure()
    assert asked.build_group == 4711 and asked.build_is_harmless
    assert len(bench.said) == 1 and "harmless, so windows beside one count" in bench.said[0]
    bench.measured(-0.2)
    assert not bench.measure()[0].build_is_harmless and "not known" in bench.said[1]


def test_builds_that_disturb_are_stopped_during_loads(make: Make) -> None:
    """Five per cent slower beside one: from then on none runs while throughput is counted."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    bench.measured(*[-0.05, -0.051] * 5)
    bench.group.clear()
    asked, _ = bench.measure()
    assert asked.build_group is None and bench.group == ["go on", "stop", "stop"] and "which disturbs" in bench.said[-1]


def test_a_load_that_was_disturbed_by_a_harmless_build_tells_nothing(make: Make) -> None:
    """Its own pairs say so; only where it counted them."""
    bench = make(FIRST)
    telemetry = (Series(metric=LOG_RATIO, unit="ln(ratio)", values=(-0.2, -0.21) * 4),)
    found = replace(record(7), telemetry=telemetry)
    assert not bench.ahead.disturbed(found)
    assert bench.ahead.disturbed(replace(found, flags=(COUNTED_BESIDE,)))


@pytest.mark.parametrize("role", ["canary", "final", "reference"])
def test_no_build_runs_during_the_load_of_what_is_reported(make: Make, role: str) -> None:
    """However harmless: the reference, which tells of the machine, and the finalists."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    bench.measured(*HARMLESS)
    bench.group.clear()
    asked, _ = bench.measure(role)
    assert asked.build_group is None and not asked.build_is_harmless and bench.group == ["go on", "stop", "stop"]


@pytest.mark.parametrize(
    "sections",
    [
        {"load": {"scenario": "server", "server": {"qps": 10}}},
        {"load": {"driver": "loadgen"}},
        {"objectives": ("accuracy", "latency_p99")},
        {"constraints": {"latency_p99_ms": 50}},
    ],
)
def test_what_windows_do_not_tell_stops_every_build(make: Make, sections: dict[str, Any]) -> None:
    """Latencies, and loads whose windows are not alike or do not exist."""
    bench = make(FIRST, **sections)
    bench.ahead.begin(7, HERE)
    asked, _ = bench.measure()
    assert asked.build_group is None and bench.group == ["go on", "stop", "stop"]
    bench.finish()
    assert bench.ahead.summary and "stopped during every load" in bench.ahead.summary


def test_a_counter_of_energy_stops_every_build(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAPL counts the whole CPU, the build's cores included."""
    bench = make(FIRST)

    class Counter:
        metric, absent = "cpu_energy_j", None

    monkeypatch.setattr(build_ahead, "host_probes", lambda: (Counter(),))
    bench.ahead = BuildAhead(bench.plan, bench.names, bench.said.append)  # type: ignore[arg-type]
    bench.ahead.begin(7, HERE)
    assert bench.measure()[0].build_group is None
    bench.ahead.close()


def test_what_was_built_ahead_is_flagged_and_told_with_what_it_took(make: Make) -> None:
    """Its trial took no time for it; the search learns what others would take: once, of the stages that were built."""
    bench = make(HERE)
    bench.ahead.begin(7, SECOND)
    bench.finish()
    _, found = bench.measure()
    assert found.flags == (BUILT_AHEAD,)
    assert bench.ahead.summary and bench.ahead.summary.startswith("1 builds ahead in 7 s")
    told = bench.ahead.as_if_built(replace(found, stage_s={"variant": 0.0, "engine": 0.1, "load": 2.0}))
    assert told.stage_s == {"variant": 3.0, "engine": 4.0, "load": 2.0}
    again = replace(found, flags=())
    assert bench.ahead.as_if_built(again) == again and bench.ahead.flagged(again) == again


def test_the_time_in_which_a_build_was_stopped_is_not_what_it_took(make: Make) -> None:
    """Half of its 8 s: variant and engine took 1.5 and 2 s."""
    bench = make(HERE)
    bench.builds.stopped_s = 4.0
    bench.ahead.begin(7, SECOND)
    bench.finish()
    told = bench.ahead.as_if_built(replace(record(7), candidate=HERE, stage_s={"load": 2.0}))
    assert told.stage_s == {"variant": 1.5, "engine": 2.0, "load": 2.0}


def test_candidates_whose_build_is_under_way_are_held_back(make: Make) -> None:
    """Others are measured meanwhile; what shares the build waits too. Then they come, in their order, under their numbers."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    shares = replace(FIRST, streams=4)
    coming = iter([Proposal(number=8 + i, candidate=c) for i, c in enumerate((FIRST, shares, SECOND, HERE))])
    assert [bench.ahead.next_proposal(lambda: next(coming)).number for _ in range(2)] == [10, 11]
    bench.finish()
    assert [bench.ahead.next_proposal(lambda: next(coming)).number for _ in range(2)] == [8, 9]
    bench.ahead.let_go()
    assert bench.names.back == []


def test_all_of_a_pruning_ratio_wait_while_it_is_pruned(make: Make) -> None:
    """Another batch of it would wait for the pruned model; once that is there, only its own engine matters."""
    pruned, other = replace(FIRST, pruning_ratio=0.5), replace(SECOND, pruning_ratio=0.5)
    bench = make(pruned)
    bench.ahead.begin(7, HERE)
    for stage, first in (("prune", HERE), ("variant", other)):
        bench.builds.enter(stage)
        coming = iter([Proposal(number=8 + i, candidate=c) for i, c in enumerate((other, HERE))])
        assert bench.ahead.next_proposal(lambda asked=coming: next(asked)).candidate == first  # type: ignore[misc]
        bench.ahead._held.clear()


def test_where_all_wants_the_build_it_is_waited_for(make: Make) -> None:
    """Three wait for it; the fourth is measured."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    coming = iter([Proposal(number=8 + i, candidate=replace(FIRST, streams=i + 1)) for i in range(4)])
    assert bench.ahead.next_proposal(lambda: next(coming)).number == 11


def test_what_was_held_back_to_the_end_is_put_back(make: Make) -> None:
    """The study ends before its build does: the next start asks for it again."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    coming = iter([Proposal(number=8, candidate=FIRST), Proposal(number=9, candidate=SECOND)])
    bench.ahead.next_proposal(lambda: next(coming))
    bench.ahead.close()
    bench.ahead.let_go()
    bench.ahead.let_go()
    assert bench.names.back == [8] and bench.builds.child is None


def ends(bench: Bench, within_s: float = 10.0) -> bool:
    """True when the build under way ends by itself in that time."""
    deadline = time.monotonic() + within_s
    while bench.builds.child is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    return bench.builds.child is None


def test_a_build_ends_where_others_measure(make: Make) -> None:
    """Nobody has shown that it disturbs no load of theirs; what it was building is named again later."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    bench.holders = [Holder(device="cuda-1", pid=1, user="other")]
    assert ends(bench)
    bench.ahead.begin(8, HERE)
    assert bench.measure()[0].build_group is None
    assert bench.names.built == [] and len(bench.builds.asked) == 1
    bench.holders = [Holder(device="cpu", pid=1, user="other", waits=True)]
    bench.ahead.begin(9, HERE)
    assert [r.candidate for r in bench.builds.asked] == [FIRST, FIRST]
    bench.ahead.abort()
    assert bench.ahead.summary and "(2 more were ended" in bench.ahead.summary


def test_a_build_that_is_stopped_for_long_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is away after a trial, say: whoever wants what the build has locked gets it."""
    monkeypatch.setattr(build_ahead, "_LONGEST_STOP_S", 0.3)
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    with bench.ahead.measuring(bench.request()):
        assert not ends(bench, 0.6)
    assert ends(bench)


def test_a_stop_ends_the_waiting_for_the_builders_process(make: Make) -> None:
    """Its imports may take long; whoever asks to stop does not wait for them."""
    bench = make(FIRST)
    bench.builds.starts, bench.stops = False, True
    with within(2.0):
        bench.ahead.begin(7, HERE)
    assert bench.ahead._now is None and bench.builds.child is None


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


def test_whoever_waits_is_not_kept_waiting_by_a_stopped_build(make: Make) -> None:
    """Ended at once, with its locks; nothing is left of it, and a second time nothing happens."""
    bench = make(FIRST)
    bench.ahead.begin(7, HERE)
    with within(2.0):
        bench.ahead.abort()
        bench.ahead.abort()
    assert bench.builds.child is None and bench.names.built == []


def test_a_build_that_cannot_be_is_known_to_the_search_and_one_that_crashed_is_not(make: Make) -> None:
    """The cache remembers the former, so its trial fails at once; the latter may be the process's fault. Neither was built."""
    bench = make(FIRST, SECOND)
    for reason in ("build_failed", "worker_crashed"):
        bench.builds.reason = reason
        bench.ahead.begin(7, HERE)
        bench.finish()
    assert [r.candidate for r in bench.builds.asked] == [FIRST, SECOND] and bench.names.built == [FIRST]
    assert bench.ahead.n_built == 0 and bench.measure()[1].flags == ()


def test_a_machine_that_cannot_build_is_not_asked_again(make: Make) -> None:
    """The study goes on without; a trial that meets the same fault reports it."""
    bench = make(FIRST, SECOND)
    bench.builds.fault = True
    bench.ahead.begin(7, HERE)
    bench.finish()
    bench.ahead.begin(8, HERE)
    assert len(bench.builds.asked) == 1 and bench.names.built == []
