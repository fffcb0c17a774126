"""CostAwareSampler by itself, on problems whose front is known."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from problems import BEST, PRECISIONS, STAGES, Deployment, found, run, study

from autotune.search import gaussian, surrogate
from autotune.search.encoding import key_of
from autotune.search.history import OUTCOME, History, Seen, Stage, outcome
from autotune.search.sampler import MOST_CANDIDATES, CostAwareSampler

SPACE = {
    "precision": CategoricalDistribution(PRECISIONS),
    "log2_batch": IntDistribution(0, 7),
    "streams": IntDistribution(1, 6),
}


def at_the_front(of: optuna.Study) -> bool:
    """True when both precisions run at their best."""
    return found(of) == BEST


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_front_of_a_known_problem(seed: int) -> None:
    """144 candidates, two on the front: both are found within 45 trials, by `study.optimize`, with no help but the stages."""
    of = study(CostAwareSampler(seed=seed, stages=STAGES))
    of.optimize(Deployment(), n_trials=45, callbacks=[lambda s, t: s.stop() if at_the_front(s) else None])
    assert at_the_front(of)


def test_it_takes_less_time_than_samplers_that_know_no_costs() -> None:
    """Seconds that the trials would have taken until the front is found, medians of five seeds: below two thirds of TPE's."""

    def median(make: object) -> float:
        return sorted(run(make(seed=s), 150, at_the_front).spent_s for s in range(5))[2]  # type: ignore[operator]

    ours = median(lambda seed: CostAwareSampler(seed=seed, stages=STAGES, search_space=SPACE))
    theirs = median(lambda seed: optuna.samplers.TPESampler(seed=seed))
    assert ours < 0.67 * theirs, (ours, theirs)


def test_threads_may_share_it() -> None:
    """Two threads of `optimize`, on a space that is not enumerated: every trial ends, and a copy goes on from there."""
    sampler = CostAwareSampler(seed=0)
    of = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        time.sleep(0.002)  # so that the threads ask while the other's trial runs
        return trial.suggest_float("x", 0, 1) - trial.suggest_int("y", 0, 5)

    of.optimize(objective, n_trials=30, n_jobs=2)
    assert [t.state for t in of.trials] == [TrialState.COMPLETE] * 30
    of.sampler = copy.deepcopy(sampler)
    of.optimize(objective, n_trials=1)
    assert of.trials[-1].state == TrialState.COMPLETE


def pickled(sampler: CostAwareSampler) -> CostAwareSampler:
    found: CostAwareSampler = pickle.loads(pickle.dumps(sampler))  # noqa: S301  # our own bytes
    return found


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_proposes_what_the_sampler_would(copied: Callable[[CostAwareSampler], CostAwareSampler]) -> None:
    """Optuna's way to go on another day: the sampler is pickled beside the study's storage."""
    sampler = CostAwareSampler(seed=2, stages=STAGES, search_space=SPACE)
    of = study(sampler)
    of.optimize(Deployment(), n_trials=8)
    twin = copied(sampler)
    proposals = [s.sample_relative(of, of.trials[-1], SPACE) for s in (sampler, twin)]
    assert proposals[0] == proposals[1] != {}


def test_what_was_forgotten_is_known_in_another_process() -> None:
    """There Python hashes strings otherwise; a candidate that was measured long ago is not proposed again."""
    history = History(seen=[Seen(params={"precision": "half", "batch": 1}, values={}, seconds={})])
    history.forget_all_but([], {})
    keys = [key_of({"precision": p, "batch": b}) for p, b in (("half", 1.0), ("half", 2), ("full", 1))]
    program = "import pickle, sys; history, keys = pickle.load(sys.stdin.buffer); print(history.known(keys))"
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", program], input=pickle.dumps((history, keys)), env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, check=True,
        )  # fmt: skip
        assert told.stdout.decode().strip() == "[True, False, False]"


def test_nothing_is_proposed_twice_until_all_was_tried() -> None:
    """Given the space, no candidate comes twice, apart from the two that begin at random."""
    problem = run(CostAwareSampler(seed=1, stages=STAGES, search_space=SPACE), 60)
    later = problem.asked[2:]
    assert len(set(later)) == len(later)


def test_a_variant_that_broke_the_constraint_is_not_tried_again() -> None:
    """One look at "broken" is enough: accuracy belongs to the precision, whatever the batch."""
    problem = run(CostAwareSampler(seed=3, stages=STAGES, search_space=SPACE), 60)
    assert sum(precision == "broken" for precision, _, _ in problem.asked[2:]) <= 1


def test_a_stage_that_failed_rejects_all_that_share_it() -> None:
    """Told that the build of "half" cannot be, it never proposes "half" again, although it was promising."""
    sampler = CostAwareSampler(seed=0, stages=STAGES, search_space=SPACE)
    of = study(sampler)
    problem = Deployment()
    of.enqueue_trial({"precision": "full", "log2_batch": 4, "streams": 3})
    of.optimize(problem, n_trials=1)
    of.enqueue_trial({"precision": "half", "log2_batch": 4, "streams": 3})
    trial = of.ask(SPACE)
    trial.set_constraint("accuracy", 0.0)
    trial.set_user_attr(OUTCOME, outcome({"build": 5.0}, failed_in="build", unmeasured=(0, 1, "accuracy")))
    of.tell(trial, (0.9, 100.0))
    asked = [of.ask(SPACE).params["precision"] for _ in range(10)]
    assert "half" not in asked


def test_cheap_candidates_come_before_expensive_ones() -> None:
    """With "full" built and both precisions promising alike, its settings (1 s) are tried before "half" is built (5 s)."""
    sampler = CostAwareSampler(seed=0, stages=STAGES, search_space=SPACE)
    of = study(sampler)
    for batch, streams in ((0, 1), (7, 6), (3, 2)):
        of.enqueue_trial({"precision": "full", "log2_batch": batch, "streams": streams})
    of.optimize(Deployment(), n_trials=3)
    assert of.ask(SPACE).params["precision"] == "full"


def test_pending_trials_are_taken_into_account() -> None:
    """Eight workers that ask before any has told get eight candidates, and an engine under way counts as built."""
    sampler = CostAwareSampler(seed=0, stages=STAGES, search_space=SPACE)
    of = study(sampler)
    of.optimize(Deployment(), n_trials=4)
    asked = [tuple(of.ask(SPACE).params.values()) for _ in range(8)]
    assert len(set(asked)) == 8
    told = {tuple(t.params.values()) for t in of.trials if t.state == TrialState.COMPLETE}
    assert not told & set(asked)


def test_failed_and_pruned_trials_do_no_harm() -> None:
    """A FAIL tells nothing, a PRUNED trial was seen, and the search goes on without either's values."""
    of = study(CostAwareSampler(seed=0, stages=STAGES, search_space=SPACE))
    of.optimize(Deployment(), n_trials=3)
    of.tell(of.ask(SPACE), state=TrialState.FAIL)
    pruned = of.ask(SPACE)
    of.tell(pruned, state=TrialState.PRUNED)
    assert of.ask(SPACE).params != pruned.params


def test_when_all_fail_it_still_proposes() -> None:
    """With no feasible trial there is no front yet: the most likely candidates come first, and nothing raises."""
    of = study(CostAwareSampler(seed=0, search_space=SPACE))
    for _ in range(6):
        trial = of.ask(SPACE)
        trial.set_constraint("runs", 1.0)
        of.tell(trial, (0.0, 0.0))
    assert set(of.ask(SPACE).params) == set(SPACE)


@pytest.mark.parametrize("seed", range(3))
def test_constraints_on_settings_are_learnt(seed: int) -> None:
    """Memory runs out above batch 4, and larger batches would be better: of 80 candidates the best allowed is among 15."""
    of = study(CostAwareSampler(seed=seed), n=1)

    def objective(trial: optuna.Trial) -> float:
        batch, streams = trial.suggest_int("batch", 0, 9), trial.suggest_int("streams", 1, 8)
        trial.set_constraint("memory", (batch - 4.5) / 4.5)
        return float(batch + 0.1 * streams)

    of.optimize(objective, n_trials=15)
    assert max(t.value for t in of.trials if t.params["batch"] <= 4 and t.value) == pytest.approx(4.8)


def test_parameters_that_a_choice_lacks_are_learnt() -> None:
    """Engine b has no pool. Without being told, the sampler learns so, and proposes b's candidates once each."""
    asked = []

    def objective(trial: optuna.Trial) -> float:
        engine = trial.suggest_categorical("engine", ["a", "b"])
        size = trial.suggest_int("size", 1, 5)
        pool = trial.suggest_int("pool", 1, 5) if engine == "a" else 0
        asked.append((engine, size, pool))
        return size + (0.3 * pool if engine == "a" else 1.0)

    of = study(CostAwareSampler(seed=2, n_startup_trials=6), n=1)
    of.optimize(objective, n_trials=26)
    assert max(t.value for t in of.trials if t.value) == pytest.approx(6.5)
    b = [a for a in asked[6:] if a[0] == "b"]
    assert len(set(b)) == len(b) <= 5


def test_objectives_to_be_minimized_and_more_than_two() -> None:
    """Speed up, latency and memory down, over a continuous and a logarithmic range: the known corner of each is found."""
    of = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=CostAwareSampler(seed=0))

    def objective(trial: optuna.Trial) -> tuple[float, float, float]:
        x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 1e-3, 1.0, log=True)
        return 100 * x + 10 * y, 1 + 10 * x, 5 + 200 * y

    of.optimize(objective, n_trials=40)
    values = [t.values for t in of.trials if t.values]
    assert max(v[0] for v in values) > 100 and min(v[1] for v in values) < 2 and min(v[2] for v in values) < 6


def test_the_same_seed_proposes_the_same() -> None:
    """And another seed something else."""
    runs = [run(CostAwareSampler(seed=s, stages=STAGES), 12).asked for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_favoured_candidates_come_early() -> None:
    """Among 144 alike candidates the favoured one is the first that the model proposes."""
    favoured = {"precision": "full", "log2_batch": 6, "streams": 5}
    of = study(CostAwareSampler(seed=0, search_space=SPACE, favoured=[favoured]))
    for batch in (0, 7):
        of.enqueue_trial({"precision": "full", "log2_batch": batch, "streams": 1})
    of.optimize(Deployment(), n_trials=2)
    assert of.ask(SPACE).params == favoured


def test_what_is_expected_to_be_best_comes_first_and_gives_way_to_what_is_measured() -> None:
    """Half precision, expected to be four times as fast, comes first; expected to be slow, it is found all the same."""
    first = {"precision": "full", "log2_batch": 4, "streams": 3}
    for factor, at_once in ((4.0, True), (0.25, False)):
        expected = {1: lambda p, factor=factor: factor if p["precision"] == "half" else 1.0}
        sampler = CostAwareSampler(seed=0, stages=STAGES, search_space=SPACE, n_startup_trials=1, expected=expected)
        of = study(sampler)
        of.enqueue_trial(first)
        problem = Deployment()
        of.optimize(problem, n_trials=2)
        assert (problem.asked[1][0] == "half") == at_once
        of.optimize(problem, n_trials=45, callbacks=[lambda s, t: s.stop() if at_the_front(s) else None])
        assert at_the_front(of)


def test_costs_without_attributes_are_the_trials_own_durations() -> None:
    """A plain study tells no stages: the sampler works all the same."""
    of = study(CostAwareSampler(seed=0), n=1)
    of.optimize(lambda t: -((t.suggest_float("x", -5, 5) - 1) ** 2), n_trials=25)
    assert abs(of.best_params["x"] - 1) < 0.3


def test_a_thousand_trials_are_bounded_work() -> None:
    """With 1,000 trials told, a proposal fits on at most MOST_ROWS rows and looks at a bounded number of candidates.

    Counted, not timed: likelihoods per proposal, the rows of the largest model, and predictions. Hyperparameters are not learnt
    again by the second proposal, because not a tenth more is known.
    """
    space = {**SPACE, "log2_batch": IntDistribution(0, 40), "pool": FloatDistribution(1, 4096, log=True)}
    sampler = CostAwareSampler(seed=0, stages=STAGES, search_space=space)
    of = study(sampler)
    rng = __import__("numpy").random.default_rng(0)
    for _ in range(1000):
        params = {
            "precision": PRECISIONS[int(rng.integers(2))], "log2_batch": int(rng.integers(41)),
            "streams": int(rng.integers(1, 7)), "pool": float(rng.uniform(1, 4096)),
        }  # fmt: skip
        of.add_trial(
            optuna.create_trial(
                params=params, distributions=space, values=[0.9, float(rng.uniform(1, 100))], constraints={"accuracy": -0.8}
            )
        )
    of.ask(space)
    first = sampler.work.likelihoods
    assert sampler.work.largest <= surrogate.MOST_ROWS + 1
    assert first <= 3 * gaussian._FIRST_STEPS
    before = sampler.work.predicted
    of.ask(space)
    assert sampler.work.likelihoods == first
    assert sampler.work.predicted - before <= 3 * (MOST_CANDIDATES + 1000 + 10)


def test_stages_by_key() -> None:
    """A key may say that a candidate needs no such stage; by default it is the values of the parameters."""
    prune = Stage(name="prune", parameters=("ratio",), key=lambda p: p.get("ratio") or None)
    assert prune.key_of({"ratio": 0.0}) is None and prune.key_of({"ratio": 0.5}) == 0.5
    assert Stage(name="build", parameters=("a", "b")).key_of({"a": 1, "c": 2}) == (1, None)


def test_a_favoured_candidate_is_looked_at_in_a_space_too_large_to_enumerate() -> None:
    """Of a continuous space only some candidates are drawn, and the favoured one is always among them."""
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    of = study(CostAwareSampler(seed=0, search_space=space, favoured=[{"x": 0.123, "y": 0.456}]), n=1)
    for x in (0.1, 0.9):
        of.add_trial(optuna.create_trial(params={"x": x, "y": 0.5}, distributions=space, value=1.0))
    asked = [of.ask(space).params for _ in range(3)]
    assert {"x": 0.123, "y": 0.456} in asked


def test_it_names_what_to_prepare_as_if_preparing_took_no_time() -> None:
    """A build takes 1,000 s, and what "half" can do is known: it is tried further all the same, until "int8" is made."""
    build = Stage(name="build", parameters=("precision",))
    space = {"precision": CategoricalDistribution(("half", "int8")), "streams": IntDistribution(1, 12)}
    sampler = CostAwareSampler(seed=0, stages=[build], search_space=space, n_startup_trials=1)
    of = optuna.create_study(direction="maximize", sampler=sampler)
    assert sampler.to_prepare(of, ["build"]) == {}  # nothing was measured yet
    for streams in range(1, 7):
        trial = optuna.trial.create_trial(
            params={"precision": "half", "streams": streams},
            distributions=space,
            value=10.0 + 0.1 * (streams % 2),
            user_attrs={OUTCOME: outcome({"build": 1000.0 if streams == 1 else 0.0, "load": 1.0})},
        )
        of.add_trial(trial)
    wanted = sampler.to_prepare(of, ["build"])
    assert wanted["precision"] == "int8" and len(of.trials) == 6
    asked = of.ask(space)
    assert asked.params["precision"] == "half"
    of.tell(asked, 10.0)
    sampler.note_prepared(wanted, ["build"])
    assert sampler.to_prepare(of, ["build"]) == {} and sampler.to_prepare(of, ["other"]) == {}
    assert of.ask(space).params["precision"] == "int8"
