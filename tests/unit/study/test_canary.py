"""The canary on a machine whose changes are known: when it sings, what is recorded, and what is measured again then."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from study_samples import candidate, record
from virtual_study import REFERENCE, VirtualMachine, known, request, searched, session

from autotune.records import Regime
from autotune.spec.model import CanarySpec, FinalistsSpec
from autotune.study.canary import is_due, run_canary
from autotune.study.regimes import expected_sd, next_regime, note_changes
from autotune.study.reporting import Process, reference_processes
from autotune.study.session import StudySession


@pytest.fixture(autouse=True)
def own_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other study on this machine is waited for."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


START = datetime(2026, 1, 1, tzinfo=UTC)


def at(minute: float) -> str:
    return (START + timedelta(minutes=minute)).isoformat()


def process(minute: float, rate: float = 100.0) -> Process:
    return Process(key=minute, regime=1, value=rate, own_sd=0.0, started_at=at(minute - 0.5), finished_at=at(minute))


def test_the_reference_is_measured_more_often_at_first() -> None:
    """Due after 1 trial beside one process, then 2, 4, 8, and 10 from then on."""
    spec = CanarySpec(every_minutes=1000)
    for n_processes, wanted in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (9, 10)]:
        found = [process(i / 10) for i in range(n_processes)]
        trials = [record(n, finished_at=at(1 + n)) for n in range(wanted)]
        now = START + timedelta(minutes=20)
        assert is_due(spec, trials, found, [], now) and not is_due(spec, trials[1:], found, [], now)


def test_trials_before_the_last_canary_do_not_count() -> None:
    """Four trials finished, of which two after it."""
    found = [process(0), process(0.1), process(2.5)]
    trials = [record(n, finished_at=at(1 + n)) for n in range(4)]
    assert not is_due(CanarySpec(every_minutes=1000), trials, found, [], START + timedelta(minutes=5))
    assert is_due(CanarySpec(every_trials=2, every_minutes=1000), trials, found, [], START + timedelta(minutes=5))


def test_long_trials_call_for_it_by_the_clock_but_an_idle_study_does_not() -> None:
    """One trial of 15 minutes is enough; no trial at all is not."""
    found = [process(i / 10) for i in range(9)]
    assert is_due(CanarySpec(), [record(1, finished_at=at(16))], found, [], START + timedelta(minutes=17))
    assert not is_due(CanarySpec(), [record(1, finished_at=at(2))], found, [], START + timedelta(minutes=3))
    assert not is_due(CanarySpec(), [], found, [], START + timedelta(minutes=600))


def test_an_odd_value_calls_for_another_at_once() -> None:
    """Down by 16 % after six steady ones: outlier or change, the next measurement tells. Not where the canary is off."""
    found = [*(process(i / 10, 100 + i % 2) for i in range(6)), process(1, 84)]
    assert is_due(CanarySpec(), [], found, [], START + timedelta(minutes=2))
    assert not is_due(CanarySpec(every_trials=0), [], found, [], START + timedelta(minutes=2))


def test_a_regime_by_hand() -> None:
    """Six processes at 100, three at 80: the second regime begins with the seventh, ratio 0.8."""
    found = [*(process(i) for i in range(6)), *(process(i, 80.0) for i in range(6, 9))]
    regime = next_regime(found, [])
    assert regime is not None
    assert (regime.number, regime.since, regime.steady_until) == (2, at(5.5), at(5))
    assert regime.ratio == pytest.approx(0.8)
    assert "from 100.0 to 80.0 items/s (-20.0%)" in regime.reason
    assert next_regime(found[:6], []) is None and next_regime([], []) is None


def test_a_machine_that_hops_is_noisy_and_not_always_new() -> None:
    """After hops to 0.7 and back the expected noise is half of log 0.7, 0.18: the first hop was a change, a third is none."""
    hops = [
        Regime(number=n + 2, since=at(n), steady_until=at(n), ratio=ratio, reason="") for n, ratio in enumerate((0.7, 1 / 0.7))
    ]
    assert expected_sd(hops) == pytest.approx(math.hypot(0.02, math.log(0.7) / 2)) and expected_sd(hops[:1]) == 0.02
    found = [*(process(i) for i in range(4)), *(process(i, 70.0) for i in range(4, 7)), process(7), process(8)]
    assert next_regime(found, []) is not None and next_regime(found, hops) is None


FAST = [candidate(batch_size=b, precision="fp16", streams=1, worker_threads=1) for b in (40, 20, 10, 5)]


def by_batch(c: object) -> float:
    return 100.0 + getattr(c, "batch_size", 1)


def sung(run: StudySession, machine: VirtualMachine, n: int) -> None:
    """n search trials, each followed by the canary if it is due."""
    reference = run.store.trials(run.study.id, ["complete"], ["reference"])[-1]
    before = run.store.next_number(run.study.id, "search")
    for i in range(n):
        c = candidate(batch_size=1 + (before + i) % 60, streams=1, worker_threads=1)
        searched(run, machine, [c], first=before + i + 1)
        run_canary(run, reference)


def test_a_steady_machine_has_one_regime(tmp_path: Path) -> None:
    """Forty trials with 1 % noise: canaries after 1, 3, 7, 15, 25 and 35 of them, and nothing noted."""
    machine = VirtualMachine(truth=by_batch, noise=0.01, seed=1)
    run = session(tmp_path, machine, canary=CanarySpec(every_minutes=1000))
    searched(run, machine, FAST[:1])
    sung(run, machine, 39)
    reference = known(run)["reference", 0]
    assert [p.role for p in reference.repetitions] == ["canary"] * 6
    assert run.store.regimes(run.study.id) == []
    assert reference.throughput_items_per_s is not None and reference.throughput_items_per_s.n == 7
    spread = known(run)["search", 1].throughput_items_per_s
    assert spread is not None and 0.01 < spread.half_width / spread.value < 0.06


def test_a_change_is_recorded_and_the_front_measured_again(tmp_path: Path) -> None:
    """After 20 trials the machine slows by 20 %: within a few canaries there is a second regime with that ratio.

    The front has one round under it, and trials begun since belong to it.
    """
    machine = VirtualMachine(truth=by_batch, noise=0.01, seed=2)
    run = session(tmp_path, machine, canary=CanarySpec(every_trials=4, every_minutes=1000))
    searched(run, machine, FAST)
    sung(run, machine, 16)
    machine.speed = 0.8
    sung(run, machine, 12)
    (regime,) = run.store.regimes(run.study.id)
    assert regime.ratio == pytest.approx(0.8, abs=0.02)
    found = known(run)
    again = {
        key: [p.regime for p in r.repetitions] for key, r in found.items() if any(p.role == "final" for p in r.repetitions)
    }
    assert again[("search", 1)] == [2] and all(set(v) <= {1, 2} for v in again.values())
    assert found["search", 1].regime == 2 and found["search", 2].regime == 1
    rate = found["search", 1].throughput_items_per_s
    assert rate is not None and rate.value == pytest.approx(140 * 0.8, rel=0.05)
    assert max(r.regime for r in found.values() if r.number > 28) == 2


def test_without_finalists_a_change_is_still_recorded(tmp_path: Path) -> None:
    """`finalists: off`: nothing else is measured again; `canary: off`: nothing at all is."""
    machine = VirtualMachine(truth=by_batch, noise=0.01, seed=3)
    run = session(tmp_path, machine, canary=CanarySpec(every_trials=2), finalists=FinalistsSpec(rounds=0))
    searched(run, machine, FAST)
    sung(run, machine, 8)
    machine.speed = 0.7
    sung(run, machine, 8)
    assert len(run.store.regimes(run.study.id)) == 1
    assert {p.role for r in known(run).values() for p in r.repetitions} == {"canary"}
    (tmp_path / "off").mkdir()
    quiet = session(tmp_path / "off", machine, canary=CanarySpec(every_trials=0))
    searched(quiet, machine, FAST)
    sung(quiet, machine, 5)
    assert all(r.repetitions == () for r in known(quiet).values())


def test_a_change_that_was_measured_but_not_noted_is_noted_at_the_next_start(tmp_path: Path) -> None:
    """Killed between the canary's result and the regime's row: the chart is drawn anew from what is stored."""
    machine = VirtualMachine(truth=lambda c: 100.0, noise=0.001)
    run = session(tmp_path, machine)
    reference = searched(run, machine, FAST)
    for round_ in range(1, 9):
        machine.speed = 1.0 if round_ < 6 else 0.8
        begun = run.store.begin_repetition(run.study.id, reference, "canary", round_, run.worker)
        assert begun is not None
        run.store.finish_trial(begun.trial_id, machine.run(request(run, begun.number, "canary", REFERENCE)))
    assert run.store.regimes(run.study.id) == []
    assert note_changes(run) and not note_changes(run)
    assert [r.number for r in run.store.regimes(run.study.id)] == [2]
    references = run.store.trials(run.study.id, ["complete"], ["reference"])
    present = reference_processes(references, run.store.regimes(run.study.id))
    assert [round(p.value, -1) for p in present] == [80, 80, 80]
