"""The Gaussian process: its gradient, what it learns, and that its work is bounded."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.search import gaussian
from autotune.search.gaussian import GaussianProcess, Inputs


def inputs(n: int, seed: int = 0, d: int = 2) -> Inputs:
    rng = np.random.default_rng(seed)
    return Inputs(rng.random((n, d)), rng.integers(0, 2, (n, 2)))


def response(x: Inputs) -> np.ndarray:  # type: ignore[type-arg]
    """A wave over the first number, lifted by the first factor; the second number and factor do nothing."""
    return np.asarray(np.sin(4 * x.numbers[:, 0]) + 0.5 * x.codes[:, 0])


def test_the_gradient_is_that_of_the_objective() -> None:
    """Against central differences at a random point, all hyperparameters."""
    x = inputs(15)
    y = response(x)
    mean, sd = gaussian._prior(2, 2, 0.05)
    at = mean + np.random.default_rng(1).normal(0, 0.3, len(mean))
    process, parts = GaussianProcess(), gaussian._Parts(x, x)

    def value(theta: np.ndarray) -> float:  # type: ignore[type-arg]
        return process._objective(parts, y, theta, mean, sd)[0]

    _, gradient = process._objective(parts, y, at, mean, sd)
    steps = 1e-5 * np.eye(len(at))
    numeric = [(value(at + s) - value(at - s)) / 2e-5 for s in steps]
    assert gradient == pytest.approx(np.array(numeric), abs=1e-5)


def test_it_learns_a_wave_and_a_factor() -> None:
    """40 noisy points: the mean is right to 0.1 in the middle of the data, and the truth lies within 3 standard deviations."""
    x, wanted = inputs(40), inputs(60, seed=2)
    process = GaussianProcess()
    process.fit(x, response(x) + np.random.default_rng(3).normal(0, 0.03, 40))
    mean, sd = process.predict(wanted)
    assert float(np.sqrt(np.mean((mean - response(wanted)) ** 2))) < 0.1
    assert float(np.mean(np.abs(mean - response(wanted)) < 3 * sd + 0.03)) > 0.95


def test_a_factor_that_was_seen_once_takes_after_the_other() -> None:
    """The wave is known for factor 0; one point of factor 1 lifts the whole wave: so variants learn from each other."""
    x = inputs(30, seed=5)
    x.codes[:, 0] = 0
    x.codes[-1, 0] = 1
    process = GaussianProcess()
    process.fit(x, response(x))
    wanted = inputs(30, seed=6)
    wanted.codes[:, 0] = 1
    mean, _ = process.predict(wanted)
    assert float(np.corrcoef(mean, response(wanted))[0, 1]) > 0.9


def test_few_and_equal_targets_do_no_harm() -> None:
    """One point, or points that agree: the prediction is that value, with the scale that the caller expects as uncertainty."""
    for n in (1, 2, 5):
        process = GaussianProcess()
        process.fit(inputs(n), np.full(n, 7.0), least_scale=0.5)
        mean, sd = process.predict(inputs(10, seed=9))
        assert mean == pytest.approx(np.full(10, 7.0), abs=1e-3) and np.all(sd > 0) and np.all(np.isfinite(sd))


def test_predicting_before_fitting_is_an_error() -> None:
    """Nothing is known then, and nothing is made up."""
    with pytest.raises(RuntimeError, match="predict before fit"):
        GaussianProcess().predict(inputs(1))


def test_hyperparameters_are_learnt_again_when_a_tenth_more_is_known() -> None:
    """From 20 rows to 21 they stay, at 22 they are learnt anew: each time at most the stated number of likelihoods."""
    process = GaussianProcess()
    counts = []
    for n in (20, 21, 22):
        process.fit(inputs(n), response(inputs(n)))
        counts.append(process.work.likelihoods)
    assert counts == [gaussian._FIRST_STEPS, gaussian._FIRST_STEPS, gaussian._FIRST_STEPS + gaussian._STEPS]
