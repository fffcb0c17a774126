"""Finalists on a machine whose truth is known: who is measured again, how often, and what becomes of kill -9."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_samples import candidate, estimate, record, study
from virtual_study import Killed, VirtualMachine, known, searched, session

from autotune.candidate import Candidate
from autotune.records import FAILED_AGAIN, GIVEN_UP, Estimate, LatencySummary, Regime, TrialRecord
from autotune.spec.model import FinalistsSpec, LoadSpec
from autotune.study.finalists import (
    closest,
    contenders,
    finalist_load,
    is_precise,
    limit_s,
    mean_half_width,
    reserve_s,
    rounds_so_far,
    run_finalists,
    run_one_round,
)
from autotune.study.reporting import learn
from autotune.study.scoring import best, best_ties, front, ties_of
from autotune.study.session import StudySession


@pytest.fixture(autouse=True)
def own_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other study on this machine is waited for."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def by_batch(c: Candidate) -> float:
    """100 items/s at batch 1, a per cent more for each more, fp16 twice as fast."""
    return 100.0 * 1.01 ** (c.batch_size - 1) * (2 if c.precision == "fp16" else 1)


BATCHES = [candidate(batch_size=b, precision="fp16", streams=1, worker_threads=1) for b in (1, 2, 3, 30, 40)]
ACCURATE = candidate(batch_size=9, streams=1, worker_threads=1)


def test_the_front_and_the_rivals_of_the_best_are_measured_again(tmp_path: Path) -> None:
    """Batch 40 is the fastest by 10 %, batch 9 the fastest of the accurate: those two and the reference, three rounds."""
    machine = VirtualMachine(truth=by_batch)
    run = session(tmp_path, machine)
    reference = searched(run, machine, [*BATCHES, ACCURATE])
    machine.noise = 0.001
    assert run_finalists(run, reference, math.inf)
    rounds = {(r.role, r.number): [p.round for p in r.repetitions] for r in known(run).values()}
    assert rounds.pop(("reference", 0)) == [1, 2, 3]
    assert {key: found for key, found in rounds.items() if found} == {("search", 5): [1, 2, 3], ("search", 6): [1, 2, 3]}
    assert {r.role for r in machine.seen} == {"final"}


def test_a_finalists_load_is_longer_and_finer(tmp_path: Path) -> None:
    """Four times 15 s and half of 1 % by default; no longer than its share of the time, no shorter than its least windows."""
    load = LoadSpec()
    spec = study(load=load)
    assert (finalist_load(spec, 1000).max_s, finalist_load(spec, 1000).precision) == (60, 0.005)
    assert finalist_load(spec, 21).max_s == 20 and finalist_load(spec, 0).max_s == 5
    machine = VirtualMachine(truth=by_batch)
    run = session(tmp_path, machine, load=load, finalists=FinalistsSpec(max_s=9999))
    run_finalists(run, searched(run, machine, BATCHES), math.inf)
    assert {r.spec.load.max_s for r in machine.seen} == {60}


def test_rounds_are_shuffled_alike_for_one_seed(tmp_path: Path) -> None:
    """The order differs from round to round, and is the same when the same study is run again."""

    def order(folder: str) -> list[list[int]]:
        machine = VirtualMachine(truth=lambda c: 100.0, noise=0.01, own=0.05, seed=3)
        (tmp_path / folder).mkdir()
        run = session(tmp_path / folder, machine)
        run_finalists(run, searched(run, machine, BATCHES), math.inf)
        found = [r.candidate.batch_size * (0 if r.candidate.precision == "fp32" else 1) for r in machine.seen]
        assert len(found) == 30  # five rounds: nobody is the best, so nothing is settled before
        return [found[i : i + 6] for i in range(0, 30, 6)]

    first = order("a")
    assert first == order("b") and len({tuple(o) for o in first}) > 1
    assert all(sorted(o) == [0, 1, 2, 3, 30, 40] for o in first)


def test_the_winners_curse_is_taken_off(tmp_path: Path) -> None:
    """Eight equal candidates, 3 % noise, 12 studies: the search's best looks 4 % too fast, what is reported does not.

    The largest of 8 normal draws is 1.42 standard deviations up: 1.42 · 3 % = 4.3 %.
    """
    eight = [candidate(batch_size=b, precision="fp16", streams=1, worker_threads=1) for b in range(1, 9)]
    looked, reported = [], []
    for seed in range(12):
        (tmp_path / str(seed)).mkdir()
        machine = VirtualMachine(truth=lambda c: 100.0, noise=0.03, seed=seed)
        run = session(tmp_path / str(seed), machine, finalists=FinalistsSpec(rounds=4))
        reference = searched(run, machine, eight)
        looked.append(max(r.throughput_items_per_s.value for r in known(run).values() if r.throughput_items_per_s))
        run_finalists(run, reference, math.inf)
        records = [r for r in known(run).values() if r.role == "search"]
        chosen = best(records, run.plan.spec)
        assert chosen is not None and chosen.throughput_items_per_s is not None and chosen.throughput_one_run is not None
        reported.append(chosen.throughput_items_per_s.value)
        run.store.close()
    assert np.mean(looked) == pytest.approx(104.3, abs=1.5)
    assert np.mean(reported) == pytest.approx(100, abs=1.2)


def test_what_is_reported_holds_one_more_process(tmp_path: Path) -> None:
    """15 studies of five candidates with 2 % noise: 88 to 100 % of the finalists' intervals hold the truth of a new process."""
    covered = []
    for seed in range(15):
        (tmp_path / str(seed)).mkdir()
        machine = VirtualMachine(truth=by_batch, noise=0.02, seed=seed)
        run = session(tmp_path / str(seed), machine)
        run_finalists(run, searched(run, machine, BATCHES), math.inf)
        for r in known(run).values():
            found = r.throughput_items_per_s
            assert found is not None
            covered.append(found.low <= by_batch(r.candidate) * math.exp(machine._rng.normal(0, 0.02)) <= found.high)
        run.store.close()
    assert np.mean(covered) >= 0.88


def measured_despite(
    folder: Path, kills: Sequence[int], machine: VirtualMachine, candidates: list[Candidate], finalists: FinalistsSpec
) -> list[tuple[str, int]]:
    """Precision and batch of every measurement of the finalists, in order, over starts of which each but the last is killed."""
    folder.mkdir()
    run = session(folder, machine, finalists=finalists)
    reference = searched(run, machine, candidates)
    done: list[tuple[str, int]] = []
    for kill in (*kills, -1):
        machine.seen.clear()
        machine.kill_at = kill
        try:
            run_finalists(run, reference, math.inf)
        except Killed:
            machine.seen.pop()
        done += [(r.candidate.precision, r.candidate.batch_size) for r in machine.seen]
        run = session(folder, machine, finalists=finalists)
    assert run.store.running(run.study.id) == []
    return done


@pytest.mark.parametrize("kill_at", [1, 4, 7, 10])
def test_killed_at_any_point_no_repetition_is_lost_or_doubled(tmp_path: Path, kill_at: int) -> None:
    """The next start measures what is missing of the round, in the same order, then the rest: the same 15 as undisturbed."""

    def orders(folder: Path, *kills: int) -> list[tuple[str, int]]:
        machine = VirtualMachine(truth=lambda c: 100.0, noise=0.01, own=0.05)
        return measured_despite(folder, kills, machine, BATCHES[:4], FinalistsSpec(rounds=3))

    undisturbed = orders(tmp_path / "a")
    assert len(undisturbed) == 15
    assert orders(tmp_path / "b", kill_at, 2) == undisturbed


def test_a_second_worker_and_a_second_start_find_nothing_left(tmp_path: Path) -> None:
    """Complete is complete; `again` asks for as many rounds more."""
    machine = VirtualMachine(truth=by_batch, noise=0.05)
    run = session(tmp_path, machine, finalists=FinalistsSpec(rounds=2))
    reference = searched(run, machine, BATCHES)
    assert run_finalists(run, reference, math.inf)
    n = len(machine.seen)
    assert run_finalists(run, reference, math.inf) and len(machine.seen) == n
    run.rounds_before = rounds_so_far(run)
    assert run_finalists(run, reference, math.inf) and len(machine.seen) > n


def test_off_measures_none(tmp_path: Path) -> None:
    """`finalists: off`, and nothing is reserved of the hours."""
    machine = VirtualMachine(truth=by_batch)
    run = session(tmp_path, machine, finalists=FinalistsSpec(rounds=0))
    assert run_finalists(run, searched(run, machine, BATCHES), math.inf) and machine.seen == []
    assert reserve_s(run.plan.spec, 1.0) == 0


def test_time_and_the_user_end_the_rounds(tmp_path: Path) -> None:
    """No time left: nothing is begun. A press of the switch: neither."""
    machine = VirtualMachine(truth=by_batch)
    run = session(tmp_path, machine)
    reference = searched(run, machine, BATCHES)
    assert not run_finalists(run, reference, 0.0) and machine.seen == []
    run.switch.press()
    assert not run_finalists(run, reference, math.inf) and machine.seen == []


def test_time_for_the_finalists() -> None:
    """30 % of the search, at least two minutes; a fifth of the hours; or what the file says, of hours at most a fifth."""
    assert limit_s(study(), 3600) == 1080 and limit_s(study(), 0) == 120
    assert limit_s(study(finalists=FinalistsSpec(max_s=50)), 3600) == 50
    assert reserve_s(study(), 1.0) == 720
    assert reserve_s(study(finalists=FinalistsSpec(max_s=50)), 1.0) == 50
    assert reserve_s(study(finalists=FinalistsSpec(max_s=5000)), 1.0) == 720


def test_time_for_the_precision() -> None:
    """As long as the search, five minutes to an hour, both kinds of rounds together; no more where the file says how long."""
    times = {0: 300, 1000: 1000, 9000: 3600, 36_000: 10_800}  # of ten hours the rounds themselves may take three
    assert {s: limit_s(study(), s, with_precision=True) for s in times} == times
    assert limit_s(study(finalists=FinalistsSpec(max_s=50)), 3600, with_precision=True) == 50
    assert limit_s(study(finalists=FinalistsSpec(precision=1)), 3600, with_precision=True) == 1080


def test_a_finalist_that_fails_is_no_candidate_any_more(tmp_path: Path) -> None:
    """It ran in the search and crashes later: flagged, not the best, not in the front, and not measured further."""
    machine = VirtualMachine(truth=by_batch, noise=0.001)
    run = session(tmp_path, machine)
    reference = searched(run, machine, BATCHES)
    machine.fails = lambda c: c.batch_size == 40
    assert run_finalists(run, reference, math.inf)
    records = [r for r in known(run).values() if r.role == "search"]
    (failed,) = (r for r in records if r.candidate.batch_size == 40)
    assert FAILED_AGAIN in failed.flags and len(failed.repetitions) == 1
    chosen = best(records, run.plan.spec)
    assert chosen is not None and chosen.candidate.batch_size == 30
    assert failed.number not in [r.number for r in front(records, run.plan.spec)]


def test_after_a_change_of_the_machine_the_rounds_begin_anew(tmp_path: Path) -> None:
    """In the third round the machine slows by 30 %: a regime is noted, and what is reported is of the new one alone."""
    machine = VirtualMachine(truth=lambda c: 100.0, noise=0.005, own=0.05)
    run = session(tmp_path, machine, finalists=FinalistsSpec(rounds=4, at_most=2))
    reference = searched(run, machine, BATCHES[:2])
    machine.kill_at = 9
    with pytest.raises(Killed):
        run_finalists(run, reference, math.inf)
    machine.kill_at, machine.speed = -1, 0.7
    run = session(tmp_path, machine, finalists=FinalistsSpec(rounds=4, at_most=2))
    assert run_finalists(run, reference, math.inf)
    (regime,) = run.store.regimes(run.study.id)
    assert regime.number == 2 and regime.ratio == pytest.approx(0.7, abs=0.02)
    for r in known(run).values():
        assert r.regime == 2 and r.throughput_items_per_s is not None
        assert r.throughput_items_per_s.value == pytest.approx(70, abs=1)
        assert sum(p.regime == 2 for p in r.repetitions) >= 4


# The precision of the best


def final_rounds(run: StudySession) -> dict[int, list[int]]:
    """Of every search trial that was measured again, by number: its rounds."""
    found = {number: [p.round for p in r.repetitions] for (role, number), r in known(run).items() if role == "search"}
    return {number: rounds for number, rounds in found.items() if rounds}


def chosen_of(run: StudySession) -> TrialRecord:
    found = best([r for r in known(run).values() if r.role == "search"], run.plan.spec)
    assert found is not None
    return found


def test_the_best_goes_on_until_it_is_known_precisely(tmp_path: Path) -> None:
    """5 % of noise: after two rounds of all, the best goes on with at most two others until its mean is known to 2.5 %."""
    machine = VirtualMachine(truth=by_batch, noise=0.05)
    run = session(tmp_path, machine, finalists=FinalistsSpec(rounds=2))
    assert run_finalists(run, searched(run, machine, BATCHES), math.inf)
    chosen, rounds = chosen_of(run), final_rounds(run)
    mean = np.exp(np.mean([math.log(p.throughput_items_per_s.value) for p in chosen.repetitions if p.throughput_items_per_s]))
    assert chosen.throughput_items_per_s is not None and chosen.throughput_items_per_s.value == pytest.approx(mean)
    assert is_precise(chosen, run.plan.spec) and mean_half_width(chosen, run.plan.spec) == pytest.approx(
        _half_width_of_the_mean(chosen)
    )
    assert 0.02 < _half_width_of_the_mean(chosen) <= 0.025
    assert len(rounds[chosen.number]) == max(map(len, rounds.values())) >= 10  # t · 5 % / √k ≤ 2.5 % from k = 16 on, or by luck
    last = max(rounds[chosen.number])
    together = [sum(n in found for found in rounds.values()) for n in range(last - 4, last + 1)]
    assert max(together) <= 3 and min(map(len, rounds.values())) < 5
    load = machine.seen[-1].spec.load
    assert load.max_s == load.min_windows * load.window_s, "several short processes tell more than one long one"
    n = len(machine.seen)
    assert run_finalists(run, known(run)["reference", 0], math.inf) and len(machine.seen) == n


def _half_width_of_the_mean(record: TrialRecord) -> float:
    """t · s / √k, from what is reported: an interval that holds one more process, t · s · √(1 + 1/k)."""
    found = record.throughput_items_per_s
    assert found is not None and found.n == len(record.repetitions)
    one_more = math.log(found.high) - math.log(found.value)
    return math.exp(one_more / math.sqrt(1 + 1 / found.n) / math.sqrt(found.n)) - 1


def test_a_precision_of_1_leaves_it_at_the_rounds(tmp_path: Path) -> None:
    """The same machine: every finalist has its two rounds, in up to four, since some came in later."""
    machine = VirtualMachine(truth=by_batch, noise=0.05)
    run = session(tmp_path, machine, finalists=FinalistsSpec(rounds=2, precision=1))
    assert run_finalists(run, searched(run, machine, BATCHES), math.inf)
    assert max(map(len, final_rounds(run).values())) <= 4


def test_a_precision_of_1_is_enough_where_none_is_known() -> None:
    """After one round a finalist's interval may be that of its own windows, which tells no precision: it does not go on."""
    found = replace(
        record(0, rate=100, **repetitions(0, 99.0, 100.0, 101.0)),
        throughput_items_per_s=Estimate(value=100, low=99, high=101, n=7, method=""),
    )
    assert mean_half_width(found, study()) is None and closest([found], study()) == [found]
    assert closest([found], study(finalists=FinalistsSpec(rounds=1, precision=1))) == []


def test_two_studies_on_a_noisy_machine_agree_within_5_per_cent(tmp_path: Path) -> None:
    """7 % of noise, three pairs of studies that differ in their draws alone: each pair agrees, unlike after two rounds."""

    def apart(precision: float) -> list[float]:
        values = []
        for seed in range(6):
            folder = tmp_path / f"{precision}-{seed}"
            folder.mkdir()
            machine = VirtualMachine(truth=by_batch, noise=0.07, seed=seed)
            run = session(folder, machine, finalists=FinalistsSpec(rounds=2, precision=precision))
            run_finalists(run, searched(run, machine, [*BATCHES[:2], ACCURATE]), math.inf)
            rate = chosen_of(run).throughput_items_per_s
            assert rate is not None
            values.append(rate.value)
            run.store.close()
        return [abs(math.log(a / b)) for a, b in zip(values[::2], values[1::2], strict=True)]

    assert max(apart(0.025)) <= math.log(1.05) < max(apart(1))


def test_rounds_for_the_precision_end_with_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measurement takes 10 s: the rounds of all end after 2 minutes, those of the best after 5, and no round is lost."""
    machine = VirtualMachine(truth=by_batch, noise=0.2)
    run = session(tmp_path, machine)
    reference = searched(run, machine, BATCHES)
    monkeypatch.setattr("autotune.study.finalists._clock_s", lambda _: 10.0 * len(machine.seen))
    assert not run_finalists(run, reference, math.inf)
    assert len(machine.seen) == 30
    rounds = final_rounds(run)
    assert sum(map(len, rounds.values())) + len(known(run)["reference", 0].repetitions) == 30
    assert sorted(map(len, rounds.values()))[-4] < max(map(len, rounds.values())), "three at most went on"
    machine.seen.clear()
    assert not run_finalists(run, reference, 40.0) and len(machine.seen) == 4, "of a budget in hours no more than is left"


def test_later_starts_share_the_time_of_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measurement takes a second, 12 s are for all: a start that finds them spent measures nothing.

    Unless the user asks for the finalists again, there is a new trial, or the machine has changed.
    """
    machine = VirtualMachine(truth=by_batch, noise=0.2)
    monkeypatch.setattr("autotune.study.finalists._clock_s", lambda _: 1.0 * len(machine.seen))

    def start(left_s: float, reserved_s: float = 0.0, rounds_before: int = 0) -> int:
        machine.seen.clear()
        run = session(tmp_path, machine, finalists=FinalistsSpec(rounds=2, precision=0.001, max_s=12))
        run.rounds_before = rounds_before
        assert not run_finalists(run, reference, left_s, reserved_s)
        return len(machine.seen)

    run = session(tmp_path, machine)
    reference = searched(run, machine, BATCHES)
    assert start(7.0) == 7 and start(math.inf) == 5
    assert start(math.inf) == start(0.0, reserved_s=12.0) == 0
    assert start(0.0, reserved_s=6.0, rounds_before=rounds_so_far(run)) == 6, "the user asked for them again"
    searched(run, machine, [ACCURATE], first=9)
    assert start(math.inf) == 12 and start(math.inf) == 0, "there is a new trial"
    at = machine.now.isoformat()
    run.store.add_regime(run.study.id, Regime(number=2, ratio=0.7, reason="", since=at, steady_until=at))
    assert start(5.0) == 5 and start(math.inf) == 7, "the machine is another"


def test_waiting_for_others_rounds_uses_up_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 s of the hours are left and another worker's rounds take 20 of them: ten measurements of a second are left."""
    machine = VirtualMachine(truth=by_batch, noise=0.2)
    run = session(tmp_path, machine)
    reference = searched(run, machine, BATCHES)
    monkeypatch.setattr("autotune.study.finalists._clock_s", lambda _: 1.0 * len(machine.seen))
    monkeypatch.setattr("autotune.study.finalists.finalists_lock", lambda *_: nullcontext(20.0))
    assert not run_finalists(run, reference, 30.0) and len(machine.seen) == 10


def test_waiting_uses_up_none_of_the_rounds_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measurement takes 10 s after 100 s in which another study has the device: 12 of them begin within 115 s."""
    machine = VirtualMachine(truth=by_batch, noise=0.2)
    run = session(tmp_path, machine, finalists=FinalistsSpec(max_s=115, precision=1))
    reference = searched(run, machine, BATCHES)
    monkeypatch.setattr("autotune.study.finalists.study_time_s", lambda _: 110.0 * len(machine.seen))
    monkeypatch.setattr("autotune.study.under_way.device_lock", lambda *_: nullcontext(100.0))
    assert not run_finalists(run, reference, math.inf)
    assert len(machine.seen) == 12


@pytest.mark.parametrize("kill_at", [10, 14, 21])
def test_killed_in_a_round_for_the_precision_it_goes_on_alike(tmp_path: Path, kill_at: int) -> None:
    """The same measurements in the same order as undisturbed: who goes on follows from what was known before the round."""

    def orders(folder: Path, *kills: int) -> list[tuple[str, int]]:
        machine = VirtualMachine(truth=by_batch, noise=0.05, seed=5)
        return measured_despite(folder, kills, machine, BATCHES, FinalistsSpec(rounds=1, at_most=2))

    undisturbed = orders(tmp_path / "a")
    assert len(undisturbed) > 25
    assert orders(tmp_path / "b", kill_at, 2) == undisturbed


def test_what_the_best_has_for_its_precision_makes_no_others_rounds_too_few() -> None:
    """Twelve rounds of the best, five of another: with five as the study's rounds both are in the running, with twelve not."""
    rates = [103.0, 97.0, 104.0, 96.0, 100.0, *(100.0 + 3 * (-1) ** i for i in range(7))]
    often = record(0, rate=100, half=5, **repetitions(0, *rates), knobs={"pruning_ratio": 0.5})
    five = record(1, rate=100.5, half=9, **repetitions(1, 98.0, 103.0, 97.5, 103.5, 101.0))
    assert [r.number for r in best_ties([often, five], study())] == [0, 1]
    assert [r.number for r in best_ties([often, five], study(finalists=FinalistsSpec(rounds=12)))] == [0]


def test_precise_by_hand() -> None:
    """Three processes, an interval to 104 % that holds one more: the mean's own reaches 104 %^(1/√4) = 1.98 % far."""

    def reported(high: float, n: int = 3) -> TrialRecord:
        found = record(0, rate=100, **repetitions(0, 99.0, 100.0, 101.0))
        return replace(found, throughput_items_per_s=Estimate(value=100, low=1e4 / high, high=high, n=n, method=""))

    assert is_precise(reported(104), study()) and not is_precise(reported(106), study())
    assert not is_precise(reported(101, n=7), study()), "an interval of one process' windows says nothing of the next process"
    assert closest([record(0)], study()) == [], "what was never measured again is no best to go on with"
    one = FinalistsSpec(precision=0.019)
    assert not is_precise(reported(104), study(finalists=one)) and is_precise(reported(103), study(finalists=one))


def test_the_simplest_goes_on_until_it_is_surely_hardly_slower() -> None:
    """Both values are known well. In rounds the simplest is 1 % behind, but perhaps 4 %: both go on; not so if 2 % at most."""

    def found(number: int, *rates: float) -> TrialRecord:
        simple = record(number, **repetitions(number, *rates), knobs={} if number else {"pruning_ratio": 0.5})
        return replace(simple, throughput_items_per_s=Estimate(value=100, low=98, high=102, n=len(rates), method=""))

    fast, may_be_slow = found(0, 100, 102, 98, 101, 99), found(1, 99, 98, 100, 97.5, 100.5)
    assert best([fast, may_be_slow], study()) == may_be_slow and is_precise(may_be_slow, study())
    assert closest([fast, may_be_slow], study()) == [may_be_slow, fast]
    assert closest([fast, may_be_slow], study(finalists=FinalistsSpec(precision=1))) == []
    as_fast = found(1, 100.5, 101.5, 98.5, 100.5, 98.0)
    assert best([fast, as_fast], study()) == as_fast and closest([fast, as_fast], study()) == []


def test_what_is_4_per_cent_slower_is_not_the_best_for_its_simplicity(tmp_path: Path) -> None:
    """3 % of noise: after rounds for the precision alone two of these twelve studies take the simpler for as good."""
    for seed in range(12):
        folder = tmp_path / str(seed)
        folder.mkdir()
        machine = VirtualMachine(truth=lambda c: 100.0 if c.batch_size == 2 else 96.0, noise=0.03, seed=seed)
        run = session(folder, machine)
        run_finalists(run, searched(run, machine, [*BATCHES[:2], ACCURATE]), math.inf)
        assert chosen_of(run).candidate.batch_size == 2
        run.store.close()


# Who is worth another measurement


def test_contenders_by_hand() -> None:
    """The best, its ties by speed up to half of the places, then the front, then more ties; never more than allowed."""
    ties = [record(n, rate=200 - n, half=10, accuracy=0.8) for n in range(6)]
    slow = record(8, rate=50, half=1, accuracy=0.95)
    worse = record(9, rate=40, half=1, accuracy=0.9)

    def chosen(at_most: int) -> list[int]:
        spec = study(finalists=FinalistsSpec(at_most=at_most))
        return [r.number for r in contenders([worse, slow, *ties], [], spec)]

    assert chosen(8) == [0, 1, 2, 3, 8, 4, 5]
    assert chosen(4) == [0, 1, 8, 2]
    assert chosen(1) == [0]


def test_neither_infeasible_nor_given_up_trials_are_finalists() -> None:
    """What misses a constraint cannot be deployed, and what was given up is known to be slower."""
    records = [record(0), record(1, accuracy=0.5, rate=900), record(2, accuracy=0.8, rate=99, half=9, flags=(GIVEN_UP,))]
    assert [r.number for r in contenders(records, [], study(constraints={"accuracy": 0.7}))] == [0]
    assert contenders([], [], study()) == []


def test_trials_of_an_earlier_regime_are_compared_at_the_present_speed() -> None:
    """130 items/s before the machine slowed to 70 % are 91 now, fewer than 100; reported they stay 130."""
    spec = study(finalists=FinalistsSpec(at_most=1))
    at = {"since": "2026-01-01T01:00:00+00:00", "steady_until": "2026-01-01T00:00:00+00:00"}
    regimes = [Regime(number=2, ratio=0.7, reason="", **at)]
    old, new = record(1, rate=130, half=1), record(2, rate=100, half=1, regime=2)
    (found,) = contenders([old, new], regimes, spec)
    assert found == new
    assert contenders([old, new], [], spec) == [old]
    in_between = record(1, rate=130, half=1, started_at="2026-01-01T00:30:00+00:00")
    assert contenders([in_between, new], regimes, spec) == [in_between]


# Ties


def repetitions(number: int, *rates: float) -> dict[str, object]:
    from autotune.records import Repetition

    found = tuple(
        Repetition(
            role="final",
            round=i,
            regime=1,
            state="complete",
            throughput_items_per_s=estimate(r),
            started_at=None,
            finished_at=None,
        )
        for i, r in enumerate(rates)
    )
    return {"repetitions": found}


def test_rounds_decide_where_intervals_cannot() -> None:
    """Rounds differ by 20 %, but 1 is faster than 0 by 3 % in each: no tie, although the intervals overlap widely."""
    a = record(0, rate=100, half=15, **repetitions(0, 90.0, 110.1, 100.0))
    b = record(1, rate=103, half=15, **repetitions(1, 92.8, 113.3, 103.1), knobs={"pruning_ratio": 0.5})
    assert [r.number for r in best_ties([a, b], study())] == [1]
    assert ties_of([b], [a, b], study()) == {1: []}
    alone = [record(0, rate=100, half=15), record(1, rate=103, half=15)]
    assert [r.number for r in best_ties(alone, study())] == [0, 1]
    assert ties_of(alone, alone, study()) == {0: [1], 1: [0]}


def test_rounds_decide_a_percentile_too() -> None:
    """p99 differs by 20 % between the rounds, but 1 is lower than 0 by 3 % in each: the intervals alone would tie them."""
    spec = study(objectives=("accuracy", "latency_p99"))
    p99 = {0: (9.0, 11.01, 10.0), 1: (8.73, 10.68, 9.69)}
    a, b = (
        record(n, rate=100, latency_ms=LatencySummary(p99=estimate(10.0 - 0.3 * n, 1.5)), **_with_p99(n, p99[n]))
        for n in (0, 1)
    )
    assert [r.number for r in best_ties([a, b], spec)] == [1]
    alone = [replace(r, repetitions=()) for r in (a, b)]
    assert [r.number for r in best_ties(alone, spec)] == [0, 1]


def _with_p99(number: int, values: tuple[float, ...]) -> dict[str, object]:
    found = repetitions(number, *(100.0 for _ in values))["repetitions"]
    assert isinstance(found, tuple)
    pairs = zip(found, values, strict=True)
    return {"repetitions": tuple(replace(r, latency_ms=LatencySummary(p99=estimate(v))) for r, v in pairs)}


def test_what_ran_once_does_not_beat_a_finalist_by_luck() -> None:
    """102 ± 3 beside a finalist of 100 ± 2: it stays out of best and front until it was measured again; 120 ± 3 does not."""
    final = record(0, rate=100, half=2, **repetitions(0, 99.0, 100.0, 101.0))
    lucky, fast = record(1, rate=102, half=3), record(2, rate=120, half=3)
    assert [r.number for r in front([final, lucky], study())] == [0]
    assert [r.number for r in best_ties([final, lucky], study())] == [0]
    assert [r.number for r in front([final, lucky, fast], study())] == [2]
    assert [r.number for r in best_ties([final, lucky, fast], study())] == [2]
    spec = study(finalists=FinalistsSpec(at_most=3))
    assert {r.number for r in contenders([final, lucky], [], spec)} == {0, 1}


def test_learning_twice_changes_nothing(tmp_path: Path) -> None:
    """What is reported follows from what was measured, however often it is worked out."""
    machine = VirtualMachine(truth=by_batch, noise=0.02)
    run = session(tmp_path, machine)
    run_finalists(run, searched(run, machine, BATCHES), math.inf)
    before = known(run)
    learn(run.store, run.study.id)
    assert known(run) == before
    singles = [r for r in before.values() if not r.repetitions]
    assert singles and all(
        "spread between processes" in r.throughput_items_per_s.method for r in singles if r.throughput_items_per_s
    )


def test_once_finalists_ran_since_a_change_older_trials_are_left_out() -> None:
    """200 before the machine slowed is no comparison with 120 since, measured again; before any was, all are shown."""
    old, new = record(1, rate=200), record(2, rate=120, regime=2, **repetitions(2, 120.0, 121.0))
    again = replace(new, repetitions=tuple(replace(p, regime=2) for p in new.repetitions))
    assert [r.number for r in front([old, again], study())] == [2]
    assert [r.number for r in best_ties([old, again], study())] == [2]
    assert [r.number for r in front([old, record(2, rate=120, regime=2)], study())] == [1]


def test_a_round_is_not_filled_up_after_the_search_went_on(tmp_path: Path) -> None:
    """What runs in one round is disturbed alike; a trial that came later is first measured in the next round."""
    machine = VirtualMachine(truth=by_batch, noise=0.001)
    run = session(tmp_path, machine)
    reference = searched(run, machine, BATCHES[:2])
    run_one_round(run, reference)
    searched(run, machine, BATCHES[2:], first=3)
    assert run_finalists(run, reference, math.inf)
    rounds = {key: [p.round for p in r.repetitions] for key, r in known(run).items()}
    assert rounds["search", 2] == [1, 2] and rounds["search", 5] == [2, 3, 4] and rounds["reference", 0] == [1, 2, 3, 4]


def test_ignorance_is_no_reason_to_take_a_slow_one() -> None:
    """100 ± 40 and 75 ± 30 tie, but the simpler one is not worth a quarter of the speed; 98 is."""
    fast = record(0, rate=100, half=40, knobs={"pruning_ratio": 0.5})
    slow, near = record(1, rate=75, half=30), record(2, rate=98, half=30)
    chosen = best([fast, slow], study())
    assert chosen is not None and chosen.number == 0
    assert [r.number for r in best_ties([fast, slow], study())] == [0, 1]
    chosen = best([fast, slow, near], study())
    assert chosen is not None and chosen.number == 2


def in_rounds(rates: dict[int, float]) -> dict[str, object]:
    found = repetitions(0, *rates.values())["repetitions"]
    assert isinstance(found, tuple)
    return {"repetitions": tuple(replace(r, round=n) for r, n in zip(found, rates, strict=True))}


def test_a_fast_round_does_not_make_the_best() -> None:
    """1 was only in rounds in which everything was fast, and 6 % slower than 0 in each, though faster by its mean."""
    steady = record(0, rate=104.4, half=20, **in_rounds({1: 80, 2: 100, 3: 120, 4: 120}), knobs={"pruning_ratio": 0.5})
    third = record(2, rate=83.5, half=20, **in_rounds({1: 64, 2: 80, 3: 96.5, 4: 96}), knobs={"pruning_ratio": 0.5})
    late = record(1, rate=112.9, half=20, **in_rounds({3: 112.5, 4: 113.3}))
    chosen = best([steady, third, late], study())
    assert chosen is not None and chosen.number == 0


def test_ties_are_compared_in_rounds_that_they_alone_do_not_settle() -> None:
    """1 is simpler, faster by its mean and 6 % slower in both rounds it was in. The noise that makes it a tie is the third's,
    without which the two have one degree of freedom left."""
    steady = record(0, rate=104.4, half=20, **in_rounds({1: 80, 2: 100, 3: 120, 4: 120}), knobs={"pruning_ratio": 0.5})
    third = record(2, rate=63.5, half=20, **in_rounds({1: 48, 2: 66, 3: 69, 4: 75}), knobs={"pruning_ratio": 0.5})
    late = record(1, rate=112.9, half=20, **in_rounds({3: 112.5, 4: 113.3}))
    assert [r.number for r in best_ties([steady, third, late], study())] == [0, 1]
    chosen = best([steady, third, late], study())
    assert chosen is not None and chosen.number == 0


def test_one_round_is_too_few_to_be_the_best_after_others_had_three() -> None:
    """1 was measured again once, as fast as 0: it ties with nothing until it was in half as many rounds; far faster, it is."""
    often = record(0, rate=100, half=5, **repetitions(0, 99.0, 100.0, 101.0), knobs={"pruning_ratio": 0.5})
    once = record(1, rate=101, half=9, **in_rounds({3: 101}))
    assert [r.number for r in best_ties([often, once], study())] == [0]
    twice = record(1, rate=101, half=9, **in_rounds({2: 101, 3: 101}))
    assert [r.number for r in best_ties([often, twice], study())] == [0, 1]
    faster = record(1, rate=140, half=9, **in_rounds({3: 140}))
    assert [r.number for r in best_ties([often, faster], study())] == [1]


def test_few_rounds_leave_the_word_to_the_intervals() -> None:
    """Two rounds of two trials have one degree of freedom, so 100 ± 2 against 80 ± 2 is decided by the intervals: no tie."""
    a = record(0, rate=100, half=2, **repetitions(0, 100.0, 101.0))
    b = record(1, rate=80, half=2, **repetitions(1, 80.0, 79.0))
    assert [r.number for r in best_ties([a, b], study())] == [0]


def test_rounds_of_an_earlier_regime_tell_the_noise() -> None:
    """One round since the change; three before it show 0.5 % of noise, so 3 % in the new one is no tie."""
    reps = {n: repetitions(n, *rates) for n, rates in enumerate([(100.0, 100.5, 99.6, 70.0), (101.0, 101.2, 100.9, 72.2)])}

    def moved(number: int) -> tuple[object, ...]:
        found = reps[number]["repetitions"]
        assert isinstance(found, tuple)
        return (*found[:3], replace(found[3], regime=2))

    a = record(0, rate=70, half=9, regime=2, repetitions=moved(0))
    b = record(1, rate=72.2, half=9, regime=2, repetitions=moved(1))
    assert [r.number for r in best_ties([a, b], study())] == [1]
