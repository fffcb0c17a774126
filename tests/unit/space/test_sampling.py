"""Between Optuna's parameters and candidates: distributions, the way there and back, and the nearest point of a space."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autotune.candidate import Candidate, Choices, Domain, Range
from autotune.space.capability import SHARED_KNOBS, SearchSpace
from autotune.space.sampling import (
    PAIR,
    candidate_from_params,
    distribution,
    distributions_of,
    knob_of,
    params_from_candidate,
    random_candidate,
    suggest,
)

KNOBS_OF = {
    "full": frozenset(k for k in SHARED_KNOBS if k != "pruning_ratio"),
    "bare": frozenset({"batch_size"}),
}


def space(**domains: Domain) -> SearchSpace:
    """Two engines: full has every knob, bare only the batch."""
    usual: dict[str, Domain] = {"pruning_ratio": Choices(values=(0.0,)), "batch_size": Choices(values=(1,))}
    return SearchSpace(
        pairs=(("full", "fp32"), ("full", "int8"), ("bare", "fp32")),
        domains=usual | domains,
        knobs_of=KNOBS_OF,
        defaults_of={"full": {}, "bare": {}},
        removed=(),
    )


WIDE = space(
    pruning_ratio=Range(low=0.0, high=0.9, step=0.1),
    batch_size=Range(low=1, high=64, log=True),
    streams=Choices(values=(1, 2, 3, 4)),
    worker_threads=Range(low=2, high=17, step=5),
    memory_pool_mib=Choices(values=(64, 100, 1000)),
    builder_level=Choices(values=(3, 4, 5)),
    cuda_graph=Choices(values=("off", "on")),
    layout=Choices(values=("nchw", "nhwc")),
    conv_search=Choices(values=("exhaustive", "heuristic")),
    arena_growth=Choices(values=("doubling", "as_requested")),
)


@pytest.mark.parametrize(
    ("knob", "domain", "expected"),
    [
        ("streams", Choices(values=(1, 2, 3, 4)), IntDistribution(1, 4)),
        ("streams", Choices(values=(6, 2, 4)), IntDistribution(2, 6, step=2)),
        ("pruning_ratio", Choices(values=(0.0, 0.25, 0.5)), FloatDistribution(0.0, 0.5, step=0.25)),
        ("pruning_ratio", Choices(values=(0.1, 0.2, 0.3)), FloatDistribution(0.1, 0.3, step=0.1)),
        ("streams", Choices(values=(1, 2, 4, 8)), IntDistribution(0, 3)),
        ("streams", Choices(values=(16, 1, 4)), IntDistribution(0, 4, step=2)),
        ("streams", Choices(values=(1, 4, 16, 32)), CategoricalDistribution((1, 4, 16, 32))),
        ("streams", Choices(values=(1, 3, 9)), CategoricalDistribution((1, 3, 9))),
        ("streams", Choices(values=(3,)), CategoricalDistribution((3,))),
        ("batch_size", Range(low=1, high=64, log=True), IntDistribution(1, 64, log=True)),
        ("batch_size", Range(low=1, high=61, step=10), IntDistribution(1, 61, step=10)),
        ("pruning_ratio", Range(low=0.0, high=0.5), FloatDistribution(0.0, 0.5)),
    ],
)
def test_distributions(knob: str, domain: Domain, expected: Any) -> None:
    """Evenly spaced choices become a stepped range, so that a sampler knows that 3 lies between 2 and 4.

    Powers of two whose exponents are evenly spaced become a range of these; all others stay a list.
    """
    assert distribution(knob, domain) == expected


candidates = st.builds(
    Candidate,
    engine=st.just("full"),
    precision=st.sampled_from(["fp32", "int8"]),
    pruning_ratio=st.integers(0, 9).map(lambda tenths: tenths / 10),
    batch_size=st.integers(1, 64),
    streams=st.integers(1, 4),
    worker_threads=st.sampled_from([2, 7, 12, 17]),
    memory_pool_mib=st.sampled_from([64, 100, 1000]),
    builder_level=st.sampled_from([3, 4, 5]),
    cuda_graph=st.sampled_from(["off", "on"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    conv_search=st.sampled_from(["exhaustive", "heuristic"]),
    arena_growth=st.sampled_from(["doubling", "as_requested"]),
)


@given(candidates)
def test_candidates_of_the_space_survive_the_way_there_and_back(candidate: Candidate) -> None:
    """params_from_candidate and candidate_from_params are inverse on every point of the space, dust of floats included."""
    params = params_from_candidate(candidate, WIDE)
    assert params is not None
    assert candidate_from_params(params) == candidate


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_what_optuna_draws_lies_in_the_space_and_comes_back_the_same(seed: int) -> None:
    """A random draw is a point that params_from_candidate does not move; its stored parameters give it again."""
    drawn = random_candidate(WIDE, random.Random(seed))
    params = params_from_candidate(drawn, WIDE)
    assert params is not None and candidate_from_params(params) == drawn
    for knob in SHARED_KNOBS:
        value = getattr(drawn, knob)
        assert value is None if not WIDE.has(drawn.engine, knob) else value in WIDE.domains[knob]


@given(
    st.builds(
        Candidate,
        engine=st.just("full"),
        precision=st.just("fp32"),
        pruning_ratio=st.floats(0, 0.95),
        batch_size=st.integers(1, 500),
        streams=st.integers(1, 50) | st.none(),
        worker_threads=st.integers(1, 50) | st.none(),
        memory_pool_mib=st.integers(1, 5000) | st.none(),
        builder_level=st.integers(0, 5) | st.none(),
        cuda_graph=st.sampled_from(["off", "on"]) | st.none(),
        layout=st.sampled_from(["nchw", "nhwc"]) | st.none(),
        conv_search=st.sampled_from(["exhaustive", "heuristic", "default"]) | st.none(),
    )
)
def test_any_candidate_is_moved_into_the_space_and_then_stays(candidate: Candidate) -> None:
    """The nearest point is a point of the space, and its own nearest point; Optuna accepts it as enqueued parameters."""
    params = params_from_candidate(candidate, WIDE)
    assert params is not None
    moved = candidate_from_params(params)
    assert params_from_candidate(moved, WIDE) == params
    for knob in SHARED_KNOBS:
        assert distribution(knob, WIDE.domains[knob])._contains(
            distribution(knob, WIDE.domains[knob]).to_internal_repr(params[knob])
        ), f"{knob}={params[knob]}"


@pytest.mark.parametrize(
    ("knob", "domain", "value", "expected"),
    [
        ("streams", Choices(values=(1, 4, 16)), 5, 4),
        ("streams", Choices(values=(1, 4, 16)), 11, 16),
        ("streams", Choices(values=(1, 4, 16)), None, 16),  # None: as much as there is
        ("worker_threads", Range(low=2, high=18, step=5), 18, 17),  # 2, 7, 12, 17: the step ends before high
        ("worker_threads", Range(low=2, high=18, step=5), None, 17),
        ("worker_threads", Range(low=2, high=18, step=5), 9, 7),
        ("worker_threads", Range(low=2, high=18, step=5), 1, 2),
        ("batch_size", Range(low=4, high=64, log=True), 100, 64),
        ("pruning_ratio", Range(low=0.0, high=0.5, step=0.1), 0.26, 0.3),
    ],
)
def test_nearest_point_by_hand(knob: str, domain: Domain, value: Any, expected: Any) -> None:
    """A prior outside the space is tried at the closest value that the study allows."""
    knobs: dict[str, Any] = {"pruning_ratio": 0.0, "batch_size": 1, "streams": 1, "worker_threads": 1, "memory_pool_mib": None}
    candidate = Candidate(engine="full", precision="fp32", **(knobs | {knob: value}))
    params = params_from_candidate(candidate, space(**{knob: domain}))
    assert params is not None and getattr(candidate_from_params(params), knob) == expected


def test_powers_of_two_are_drawn_by_their_exponent_under_a_name_that_says_so() -> None:
    """What Optuna stores of batch 16 is "log2 batch_size": 4, and it comes back as 16; other choices keep their names."""
    powers = space(batch_size=Choices(values=(1, 4, 16)), streams=Choices(values=(1, 2)))
    candidate = Candidate(
        engine="full", precision="fp32", pruning_ratio=0.0, batch_size=16, streams=2, worker_threads=None, memory_pool_mib=None
    )
    params = params_from_candidate(candidate, powers)
    assert params is not None and params["log2 batch_size"] == 4 and params["streams"] == 2
    assert candidate_from_params(params) == candidate
    study = optuna.create_study()
    study.enqueue_trial(params)
    assert suggest(study.ask(), powers) == candidate
    assert knob_of("log2 batch_size") == "batch_size" and knob_of("streams") == "streams"
    assert set(distributions_of(powers)) == {PAIR, "pruning_ratio", "log2 batch_size", "streams"}


def test_a_pair_that_cannot_run_has_no_parameters() -> None:
    """bare has no int8: there is no nearest point across precisions."""
    candidate = Candidate(
        engine="bare",
        precision="int8",
        pruning_ratio=0.0,
        batch_size=1,
        streams=None,
        worker_threads=None,
        memory_pool_mib=None,
    )
    assert params_from_candidate(candidate, WIDE) is None


def test_knobs_that_the_engine_lacks_are_neither_asked_for_nor_set() -> None:
    """A candidate of bare asks Optuna for the pair, pruning and the batch only, and reads None elsewhere."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({PAIR: "bare/fp32"})
    trial = study.ask()
    found = suggest(trial, WIDE)
    assert set(trial.params) == {PAIR, "pruning_ratio", "batch_size"}
    assert (found.engine, found.streams, found.worker_threads, found.memory_pool_mib) == ("bare", None, None, None)


def test_enqueued_candidates_are_proposed_as_they_are() -> None:
    """What params_from_candidate gives is what suggest reads back from an enqueued trial."""
    candidate = Candidate(
        engine="full", precision="int8", pruning_ratio=0.3, batch_size=48, streams=3, worker_threads=12, memory_pool_mib=100,
        builder_level=4, cuda_graph="on", layout="nhwc", conv_search="heuristic", arena_growth="doubling",
    )  # fmt: skip
    study = optuna.create_study()
    study.enqueue_trial(params_from_candidate(candidate, WIDE) or {})
    assert suggest(study.ask(), WIDE) == candidate


def test_random_draws_are_repeatable_and_cover_the_pairs() -> None:
    """One seed gives one sequence; 40 draws meet all three pairs (missing one has a chance of 3·(2/3)^40 < 10⁻⁶)."""
    first, second = ([random_candidate(WIDE, rng) for _ in range(40)] for rng in (random.Random(5), random.Random(5)))
    assert first == second
    assert {(c.engine, c.precision) for c in first} == set(WIDE.pairs)
