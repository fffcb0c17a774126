"""What the models make of a handful of trials: how sure they may be of what was never measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution

from autotune.search.encoding import Encoding
from autotune.search.history import History, Seen, Stage
from autotune.search.surrogate import DOUBT, Surrogate

SPACE = {
    "pair": CategoricalDistribution([f"{e}/{p}" for e in ("a", "b") for p in ("fp32", "int8")]),
    "pruned": CategoricalDistribution([0.0, 0.5]),
    "pool": CategoricalDistribution([1, 8]),
}
VARIANT = ("pair", "pruned")


def encoding() -> Encoding:
    return Encoding(SPACE, {"pair": lambda pair: tuple(str(pair).split("/"))})


def params(pair: str, pruned: float = 0.0, pool: int = 8) -> dict[str, Any]:
    return {"pair": pair, "pruned": pruned, "pool": pool}


def seen(of: dict[str, Any], drop: float = -1.0, runs: float = -1.0, rate: float = 100.0) -> Seen:
    """A trial with both constraints; one that did not run has no rate."""
    values: dict[int | str, float] = {"drop": drop, "runs": runs} | ({0: rate} if runs < 0 else {})
    return Seen(params=of, values=values, seconds={}, failed=runs > 0)


def surrogate(*trials: Seen, stage: Stage) -> Surrogate:
    """After these trials of a study with one objective."""
    found = Surrogate(stages=[stage])
    found.fit(encoding(), History(seen=list(trials)), 1)
    return found


ACCURACY = Stage(name="accuracy", parameters=VARIANT, decides=("drop",))


def test_a_failure_of_one_setting_leaves_doubt_about_all_that_it_shares() -> None:
    """Of nine trials the only pruned one failed, since its pool was too small; other pruned ones are not given up for that."""
    unpruned = [seen(params(pair, pool=pool)) for pair in ("a/fp32", "a/int8", "b/fp32", "b/int8") for pool in (1, 8)]
    model = surrogate(*unpruned, seen(params("a/int8", 0.5, 1), runs=1.0), stage=ACCURACY)
    keeps, _ = model.feasible([params(pair, 0.5) for pair in ("a/fp32", "a/int8", "b/fp32", "b/int8")])
    assert np.all(keeps >= DOUBT**2), "one doubt each: of the constraint on running, and of the accuracy"


def test_a_variant_that_broke_its_constraint_is_no_matter_of_doubt() -> None:
    """What was measured is exact: every setting of the variant breaks it."""
    model = surrogate(seen(params("a/fp32")), seen(params("a/int8"), drop=3.0), stage=ACCURACY)
    keeps, passes = model.feasible([params("a/int8", pool=1), params("a/int8", pool=8)])
    assert keeps == pytest.approx(0.0) and passes == pytest.approx(0.0)


def test_a_factor_in_which_results_are_alike_carries_them_over() -> None:
    """int8 broke its constraint on engine a: on b it is less likely to be kept where engines are said to be alike."""
    trials = [seen(params("a/fp32")), seen(params("b/fp32")), seen(params("a/int8"), drop=3.0)]
    alike = Stage(name="accuracy", parameters=VARIANT, decides=("drop",), alike=frozenset({("pair", 0)}))
    chances = [surrogate(*trials, stage=s).feasible([params("b/int8")])[0][0] for s in (ACCURACY, alike)]
    assert DOUBT <= chances[1] < 0.5 * chances[0]


def test_a_variant_that_is_far_off_makes_no_other_doubtful() -> None:
    """int8 loses 78 times what is allowed on b; fp32, which is accurate on a, is still believed to be so there."""
    alike = Stage(name="accuracy", parameters=VARIANT, decides=("drop",), alike=frozenset({("pair", 0)}))
    far = seen(params("b/int8"), drop=77.0)
    assert surrogate(seen(params("a/fp32")), far, stage=alike).feasible([params("b/fp32")])[0] > 0.9
    near = seen(params("a/int8"), drop=-0.2)
    assert surrogate(seen(params("a/fp32")), near, far, stage=alike).feasible([params("b/fp32")])[0] > 0.5


def test_a_constraint_kept_by_far_does_not_hide_that_others_break_it() -> None:
    """A rate of at least 100 with 40 per image of a batch: of the batches that were measured 1 breaks it and 4 keeps it."""
    space = {"batch": CategoricalDistribution([1, 2, 4, 16, 64, 256])}
    trials = [
        Seen(params={"batch": b}, values={0: 40.0 * b, "rate": (100 - 40.0 * b) / 100}, seconds={}) for b in (1, 4, 16, 64, 256)
    ]
    model = Surrogate([])
    model.fit(Encoding(space), History(seen=trials), 1)
    keeps, _ = model.feasible([{"batch": 1}, {"batch": 4}])
    assert keeps[0] < 0.1 and keeps[1] > 0.9


def test_a_constraint_missed_without_end_is_missed() -> None:
    """A latency that was never reached may be told as infinite: the models stay numbers."""
    model = surrogate(seen(params("a/fp32")), seen(params("a/int8"), drop=float("inf")), stage=ACCURACY)
    keeps, _ = model.feasible([params("a/int8"), params("b/fp32")])
    assert keeps[0] == 0.0 < keeps[1]


def test_what_is_expected_holds_until_it_is_measured() -> None:
    """After one trial the others lie as far from it as is expected, as a factor; after trials of the pair they do not."""
    expected = {0: lambda of: 3.0 if str(of["pair"]).endswith("int8") else 1.0}
    slow = [seen(params("a/int8", pruned, pool), rate=50.0) for pruned in (0.0, 0.5) for pool in (1, 8)]
    means = []
    for trials in ([seen(params("a/fp32"))], [seen(params("a/fp32")), *slow]):
        model = Surrogate([ACCURACY], expected)
        model.fit(encoding(), History(seen=trials), 1)
        means.append(model.objectives([params("a/fp32"), params("a/int8")], [False])[0])
    assert all(p.log for p in means)
    assert np.exp(means[0].mean) == pytest.approx([100.0, 300.0], rel=0.02)
    assert np.exp(means[1].mean[1]) == pytest.approx(50.0, rel=0.15)


def test_pending_trials_do_not_make_what_is_expected_certain() -> None:
    """Three candidates under way, of which nothing is known, leave much of the doubt about a fourth."""
    expected = {0: lambda of: 3.0 if str(of["pair"]).endswith("int8") else 1.0}
    pending = [params("b/fp32"), params("b/int8"), params("b/int8", 0.5)]
    model = Surrogate([ACCURACY], expected)
    model.fit(encoding(), History(seen=[seen(params("a/fp32"))], pending=pending), 1)
    assert model.objectives([params("a/int8", 0.5, 1)], [False])[0].sd[0] > 0.05


def test_a_constraint_that_is_expected_to_be_broken_counts_before_any_was() -> None:
    """Of two candidates alike the one whose memory is expected to be far beyond the limit is left for later."""
    model = Surrogate([], {"memory": lambda of: 50.0 if of["pool"] == 8 else -0.5})
    model.fit(encoding(), History(seen=[Seen(params=params("a/fp32", pool=1), values={0: 1.0, "memory": -0.5}, seconds={})]), 1)
    keeps, _ = model.feasible([params("a/int8", pool=1), params("a/int8", pool=8)])
    assert keeps[0] > 0.9 and keeps[1] == pytest.approx(DOUBT)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_expectation_that_is_no_factor_is_refused(value: float) -> None:
    """Named with the candidate that it was asked for."""
    model = Surrogate([], {0: lambda of: value})
    with pytest.raises(ValueError, match=r"expected\[0\] gives .* for \{'pair': 'a/fp32'.*wanted: a number above 0"):
        model.fit(encoding(), History(seen=[Seen(params=params("a/fp32"), values={0: 1.0}, seconds={})]), 1)


def test_an_expectation_of_an_objective_that_is_not_there_is_refused() -> None:
    """Objectives are counted from 0."""
    with pytest.raises(ValueError, match="expected names objective 2; the study has 1, counted from 0"):
        Surrogate([], {2: lambda of: 1.0}).fit(encoding(), History(seen=[seen(params("a/fp32"))]), 1)


def test_a_factor_says_nothing_of_values_that_are_not_positive() -> None:
    """They have no logarithms, so the model is that without an expectation."""
    trials = [seen(params("a/fp32"), rate=-1.0), seen(params("b/fp32"), rate=1.0)]
    found = []
    for expected in ({}, {0: lambda of: 3.0 if str(of["pair"]).endswith("int8") else 1.0}):
        model = Surrogate([ACCURACY], expected)
        model.fit(encoding(), History(seen=trials), 1)
        found.append(model.objectives([params("a/int8")], [False])[0])
    assert not found[1].log and found[0].mean == pytest.approx(found[1].mean)


def test_variants_that_agree_say_little_about_one_of_another_kind() -> None:
    """Four unpruned variants of accuracy 0.9; a pruned one, of which 0.01 less is expected, may still be as good."""
    decided = Stage(name="accuracy", parameters=VARIANT, decides=(0, "drop"))
    model = Surrogate([decided], {0: lambda of: -0.01 if of["pruned"] else 0.0})
    unpruned = [seen(params(pair), rate=0.9) for pair in ("a/fp32", "a/int8", "b/fp32", "b/int8")]
    model.fit(encoding(), History(seen=unpruned), 1)
    pruned = model.objectives([params("a/fp32", 0.5)], [False])[0]
    assert pruned.mean == pytest.approx([0.89], abs=0.002) and pruned.sd[0] > 0.001
    measured = model.objectives([params("a/fp32", pool=1)], [False])[0]
    assert measured.mean == pytest.approx([0.9]) and measured.sd[0] < 1e-6


def test_few_accuracies_leave_less_doubt_where_something_is_expected_of_them() -> None:
    """Two variants that agree: another precision strays by under a hundredth; by two where nobody said what to expect."""
    decided = Stage(name="accuracy", parameters=VARIANT, decides=(0, "drop"))
    deviations = []
    for expected in ({0: lambda of: 0.0}, {}):
        model = Surrogate([decided], expected)
        model.fit(encoding(), History(seen=[seen(params(f"a/{p}"), rate=0.9) for p in ("fp32", "int8")]), 1)
        deviations.append(float(model.objectives([params("b/int8", 0.5)], [False])[0].sd[0]))
    assert 0.001 < deviations[0] < 0.01 < deviations[1] < 0.04


def test_the_factors_are_named_in_the_order_of_their_columns() -> None:
    """The pair is two factors, engine and precision; numbers are none. Each column of the codes has a name."""
    made = encoding()
    assert made.factors_of() == [("pair", 0), ("pair", 1)]
    assert made.factors_of(("pruned", "pool")) == []
    assert made.inputs([params("a/int8"), params("b/int8")]).codes.shape == (2, 2)
