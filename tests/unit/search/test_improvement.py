"""Expected hypervolume improvement against volumes by hand and against draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotune.pareto import hypervolume
from autotune.search.improvement import Prediction, expected_improvement, normal_cdf

FRONT = np.array([[1.0, 5.0], [2.0, 3.0], [4.0, 1.0]])


def certain(*values: float, **flags: bool) -> list[Prediction]:
    """Predictions without doubt, of one candidate."""
    return [Prediction(np.array([v]), np.array([0.0]), **flags) for v in values]


def test_the_normal_distribution_function() -> None:
    """Against the error function of the standard library, to the 1.5e-7 that its source states."""
    z = np.linspace(-8, 8, 200)
    assert normal_cdf(z) == pytest.approx([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z], abs=2e-7)


@pytest.mark.parametrize(
    ("point", "gain"),
    [((3.0, 4.0), 1.0 + 3.0), ((1.5, 2.5), 0.0), ((5.0, 6.0), 30.0 - 10.0), ((0.5, 6.0), 0.5), ((-1.0, 9.0), 0.0)],
)
def test_without_doubt_it_is_the_volume_gained(point: tuple[float, float], gain: float) -> None:
    """The front covers 5 + 3 + 2 = 10 beyond (0, 0): rectangles worked out by hand; what is dominated gains nothing."""
    assert expected_improvement(FRONT, np.zeros(2), certain(*point))[0] == pytest.approx(gain, abs=1e-6)


def test_an_empty_front_leaves_everything_to_gain() -> None:
    """(3, 4) over the corner (1, 1): 2 · 3."""
    assert expected_improvement(np.zeros((0, 2)), np.ones(2), certain(3.0, 4.0))[0] == pytest.approx(6.0)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("minimize", [False, True])
def test_with_doubt_it_is_the_mean_over_draws(m: int, minimize: bool) -> None:
    """20,000 draws of each objective, the second one log-normal; 1, 2 and 3 objectives, the last one perhaps minimized."""
    rng = np.random.default_rng(4)
    front = rng.random((5, m)) * 2
    means, sds = [0.8, 0.1, 0.9][:m], [0.5, 0.4, 0.3][:m]
    logs = [False, True, False][:m]
    flip = np.ones(m)
    if minimize:
        flip[-1], front[:, -1] = -1.0, -front[:, -1]
    corner = np.min(front, axis=0) - 0.5
    predictions = [
        Prediction(np.array([mu]), np.array([sd]), log, minimize and i == m - 1)
        for i, (mu, sd, log) in enumerate(zip(means, sds, logs, strict=True))
    ]
    drawn = [rng.normal(mu, sd, 20_000) for mu, sd in zip(means, sds, strict=True)]
    points = np.stack([np.exp(v) if log else v for v, log in zip(drawn, logs, strict=True)], axis=1) * flip
    before = hypervolume(front, corner)
    gains = [hypervolume(np.vstack([front, p]), corner) - before for p in points[:4000]]
    error = 4 * float(np.std(gains)) / math.sqrt(len(gains))
    assert expected_improvement(front, corner, predictions)[0] == pytest.approx(float(np.mean(gains)), abs=error)


def test_many_objectives_stay_affordable() -> None:
    """Five objectives and a front of 200: the front is thinned, so that there are at most 40,000 cells."""
    rng = np.random.default_rng(0)
    found = expected_improvement(
        rng.random((200, 5)), np.zeros(5), [Prediction(rng.random(50), np.full(50, 0.1)) for _ in range(5)]
    )
    assert found.shape == (50,) and np.all(found >= 0) and np.any(found > 0)
