"""What a candidate is expected to cost: new stages, known stages, and the load."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from autotune.search.costs import Costs
from autotune.search.encoding import Encoding
from autotune.search.history import History, Seen, Stage

STAGES = (
    Stage(name="build", parameters=("kind",)),
    Stage(name="prune", parameters=("kind",), key=lambda p: None if p["kind"] == "a" else "all"),
)
ENCODING = Encoding({"kind": CategoricalDistribution(["a", "b", "c"]), "n": IntDistribution(0, 4)})


def costs(*seen: Seen, pending: tuple[dict[str, object], ...] = ()) -> Costs:
    return Costs(STAGES, ENCODING, History(seen=list(seen), pending=list(pending)), 0.5)


def seen(kind: str, n: int, failed: bool = False, **seconds: float) -> Seen:
    return Seen(params={"kind": kind, "n": n}, values={}, seconds=seconds, failed=failed)


def test_a_stage_that_is_done_costs_only_what_it_costs_again() -> None:
    """ "a" was built in 8 s and found in 0.2 s: another setting of it costs that, 2 s of load and 0.5 s of overhead."""
    known = costs(seen("a", 0, build=8.0, load=2.0), seen("a", 1, build=0.2, load=2.0))
    assert known.of([{"kind": "a", "n": 3}], np.ones(1)) == pytest.approx([0.5 + 0.2 + 2.0])


def test_a_new_stage_costs_what_others_of_its_kind_did() -> None:
    """One build of 8 s is known, so "c" is expected to take as much; "prune", which nobody came to, three average trials."""
    known = costs(seen("a", 0, build=8.0, load=2.0))
    assert known.of([{"kind": "c", "n": 0}], np.ones(1)) == pytest.approx([0.5 + 8.0 + 3 * 10.0 + 2.0])


def test_what_an_unseen_stage_is_taken_to_cost_can_be_said() -> None:
    """Twenty average trials of 10 s."""
    stages = (Stage(name="prune", parameters=("kind",), unseen=20.0),)
    known = Costs(stages, ENCODING, History(seen=[Seen(params={"n": 0}, values={}, seconds={"load": 10.0})]), 0.5)
    assert known.of([{"kind": "c", "n": 0}], np.zeros(1)) == pytest.approx([0.5 + 200.0])


def test_a_stage_that_is_not_needed_costs_nothing_and_a_shared_one_once() -> None:
    """ "a" is not pruned; "b" was, which "c" shares."""
    known = costs(seen("b", 0, build=4.0, prune=30.0, load=2.0), seen("a", 0, build=4.0, load=2.0))
    assert known.of([{"kind": "a", "n": 1}, {"kind": "c", "n": 1}], np.ones(2)) == pytest.approx([2.5, 6.5])


def test_the_load_counts_as_likely_as_it_is_reached() -> None:
    """With a chance of a quarter to pass, a quarter of the load."""
    known = costs(seen("a", 0, build=8.0, load=2.0))
    assert known.of([{"kind": "a", "n": 3}], np.full(1, 0.25)) == pytest.approx([0.5 + 0.25 * 2.0])


def test_what_another_worker_builds_counts_as_built() -> None:
    """A pending trial of "c" makes its build, which is waited for rather than paid for."""
    known = costs(seen("b", 0, build=4.0, prune=30.0, load=2.0), pending=({"kind": "c", "n": 0},))
    assert known.of([{"kind": "c", "n": 1}], np.ones(1)) == pytest.approx([2.5])


def test_failed_trials_tell_nothing_of_loads() -> None:
    """A rejection ends before the load: its short time would make loads look cheap."""
    known = costs(seen("a", 0, build=8.0, load=2.0), seen("b", 0, failed=True, build=1.0, prune=1.0, open=0.01))
    assert known.of([{"kind": "a", "n": 3}], np.ones(1)) == pytest.approx([0.5 + 2.0])


def test_what_was_prepared_costs_nothing_and_is_not_lacking() -> None:
    """The build of "c" was made apart from any trial; pruning, which all but "a" share, was done by none."""
    done = {"build": {("c",)}}
    known = Costs(STAGES, ENCODING, History(seen=[seen("a", 0, build=8.0, load=2.0)]), 0.5, done)
    rows = [{"kind": kind, "n": 0} for kind in "abc"]
    assert known.lacks(rows, ["build"]) == [False, True, False]
    assert known.lacks(rows, ["build", "prune"]) == [False, True, True]
    assert known.of(rows, np.ones(3), without=["prune"]) == pytest.approx([2.5, 10.5, 2.5])


def test_what_is_being_prepared_is_not_there_yet() -> None:
    """A pending trial of "c" waits for its build, which is made apart: another one of "c" would wait as well."""
    seen_b = seen("b", 0, build=4.0, prune=30.0, load=2.0)
    history = History(seen=[seen_b], pending=[{"kind": "c", "n": 0}])
    known = Costs(STAGES, ENCODING, history, 0.5, begun={"build": ("c",), "prune": "all"})
    assert known.of([{"kind": "c", "n": 1}, {"kind": "b", "n": 1}], np.ones(2)) == pytest.approx([6.5, 2.5])
