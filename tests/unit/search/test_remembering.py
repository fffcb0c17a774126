"""A search forgets most trials, but not its front, nor what its stages have made and decided."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from autotune.search import remembering, sampler
from autotune.search.costs import Costs
from autotune.search.encoding import Encoding
from autotune.search.history import History, Seen, Stage, outcome
from autotune.search.remembering import remembered
from autotune.search.sampler import CostAwareSampler

BUILD = Stage(name="build", parameters=("kind",), decides=(0,))
SET = Stage(name="set", parameters=("kind", "n"))
SPACE = {"kind": CategoricalDistribution([f"k{i}" for i in range(30)]), "n": IntDistribution(0, 1000)}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty trials are remembered."""
    monkeypatch.setattr(remembering, "MOST", 40)
    monkeypatch.setattr(sampler, "MOST_REMEMBERED", 40)


def seen(i: int, **changes: object) -> Seen:
    """Trial i of kind i // 20, all on a diagonal where the higher number is better in one objective and worse in the other."""
    values = {0: float(i // 20), 1: 1.0 / (1 + i % 20)}
    params = {"kind": f"k{i // 20}", "n": i}
    seconds = {"build": 9.0 if i % 20 == 0 else 0.1, "set": 1.0, "rest": 1.0}
    return Seen(**({"params": params, "values": values, "seconds": seconds} | changes))  # type: ignore[arg-type]


def test_front_latest_and_a_witness_of_each_decision_stay() -> None:
    """Of 200 trials in ten kinds: the best, the latest twelve, one of every kind and the one that cannot be; order kept."""
    trials = [seen(i) for i in range(200)]
    trials[7] = seen(7, failed_in="build", failed=True)
    kept, _ = remembered(trials, (BUILD, SET), (False, False))
    at = [s.params["n"] for s in kept]
    assert at == sorted(set(at)) and 40 <= len(at) <= 60
    assert {180, *range(188, 200)} <= set(at)
    assert {s.params["kind"] for s in kept} == {f"k{i}" for i in range(10)}
    assert 7 in at


def test_what_was_made_is_known_after_its_trial_is_forgotten() -> None:
    """No setting that was tried costs its making again, and what later trials found done does not pass for its price."""
    trials = [seen(i) for i in range(200)]
    history = History(seen=list(trials))
    encoding = Encoding(SPACE)
    history.forget_all_but(*remembered(trials, (BUILD, SET), (False, False)))
    costs = Costs((BUILD, SET), encoding, history, 0.0)
    assert all(SET.key_of(s.params) in costs.made["set"] and BUILD.key_of(s.params) in costs.made["build"] for s in trials)
    prices = [seconds for _, seconds in costs._first["build"]]
    assert all(price == 9.0 for price in prices)
    known = history.known([tuple(sorted(s.params.items())) for s in trials])
    assert all(known)


def test_a_long_search_proposes_from_a_bounded_history() -> None:
    """A hundred and fifty proposals: never more than forty-eight trials in memory, and none proposed twice."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    strategy = CostAwareSampler(seed=1, search_space=SPACE, stages=(BUILD,))
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=strategy)
    rng = np.random.default_rng(0)
    asked = set()
    for i in range(150):
        if i < 100:
            study.enqueue_trial({"kind": f"k{rng.integers(30)}", "n": int(rng.integers(1001))})
        trial = study.ask(SPACE)
        trial.set_user_attr("outcome", outcome({"build": 1.0, "rest": 1.0}))
        study.tell(trial, (float(trial.params["kind"][1:]), float(trial.params["n"])))
        if i >= 100:
            assert tuple(trial.params.items()) not in asked
        asked.add(tuple(trial.params.items()))
        assert i <= 100 or len(strategy._history.seen) <= 48
