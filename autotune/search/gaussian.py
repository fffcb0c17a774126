"""A Gaussian process over numbers and categories, fitted with numpy alone in milliseconds.

The covariance is a sum of three parts: of the categories alone, of the numbers alone, and of both together. So what was learnt
of a setting on one variant is expected of the others, until they are seen to differ. Numbers: Matérn 5/2 with a length scale
each. Categories: 1 where they agree, else a correlation per factor. Inputs in [0, 1]; targets are standardized inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_ROOT5 = math.sqrt(5.0)
_JITTER = 1e-8
_LEAST_NOISE = 1e-3
_MOST_LEARNT = 80
"""Hyperparameters are learnt from no more rows than this, spread over all: an inverse costs the cube of their number."""
_STEPS = 25
_FIRST_STEPS = 40
CORRELATION = 0.5
"""What is expected of a factor's correlation before anything was seen, as a logit: 0.62."""
"""Steps of RPROP (Riedmiller and Braun 1993) per fit; the first begins far away, later ones where the last ended."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """`numbers`: shape (n, d), each in [0, 1]. `codes`: shape (n, q), whole numbers that name a factor's value."""

    numbers: Array
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Inputs:
        """Those rows."""
        return Inputs(self.numbers[index], self.codes[index])


@dataclass(slots=True)
class Work:
    """What the models have cost so far, counted, so that it can be bounded in a test."""

    likelihoods: int = 0
    largest: int = 0
    predicted: int = 0


@dataclass(slots=True)
class Hyperparameters:
    """Logarithms of length scales, amplitudes (categories, numbers, both) and noise; logits of the factors' correlations."""

    lengths: Array
    amplitudes: Array
    correlations: Array
    noise: float

    def flat(self) -> Array:
        """All in one vector."""
        return np.concatenate([self.lengths, self.amplitudes, self.correlations, [self.noise]])

    @staticmethod
    def of(flat: Array, d: int, q: int) -> Hyperparameters:
        """From one vector."""
        return Hyperparameters(flat[:d], flat[d : d + 3], flat[d + 3 : d + 3 + q], float(flat[-1]))


def _prior(d: int, q: int, noise: float, expected: Sequence[float] = ()) -> tuple[Array, Array]:
    """Means and standard deviations of the hyperparameters' normal prior, in standardized units; `expected` correlations."""
    correlations = [*expected, *[CORRELATION] * q][:q]
    mean = np.concatenate([np.full(d, math.log(0.8)), np.full(3, math.log(0.7)), correlations, [math.log(noise)]])
    sd = np.concatenate([np.full(d, 0.8), np.full(3, 0.6), np.full(q, 1.0), [0.7]])
    return mean, sd


@dataclass(slots=True)
class GaussianProcess:
    """One response's model. `noise`: the standard deviation expected before any was seen, in units of the response's spread.

    0.2 was chosen as docs/search-settings.md says. `correlations`: by factor, the logit expected of its correlation;
    CORRELATION where there is none. Not safe for threads.
    """

    noise: float = 0.2
    work: Work = field(default_factory=Work)
    correlations: Sequence[float] = ()
    _theta: Array | None = None
    _n_fitted: int = 0
    _inputs: Inputs | None = None
    _shift: float = 0.0
    _scale: float = 1.0
    _inverse: Array = field(default_factory=lambda: np.zeros((0, 0)))
    _alpha: Array = field(default_factory=lambda: np.zeros(0))

    def fit(self, inputs: Inputs, targets: Array, *, least_scale: float = 1e-6) -> None:
        """The model explains `targets`, shape (n,), n ≥ 1. Hyperparameters are learnt anew when a tenth more is known.

        `least_scale`: the spread that targets are taken to have where fewer are known or they agree.
        """
        n, d, q = len(inputs), inputs.numbers.shape[1], inputs.codes.shape[1]
        self._shift = float(np.mean(targets))
        self._scale = max(float(np.std(targets)), least_scale)
        y = (targets - self._shift) / self._scale
        parts = _Parts(inputs, inputs)
        mean, sd = _prior(d, q, max(self.noise, _LEAST_NOISE), self.correlations)
        fresh = self._theta is None or len(self._theta) != len(mean)
        if fresh:
            self._theta, self._n_fitted = mean.copy(), 0
        if n >= 3 and (n - self._n_fitted) * 10 >= self._n_fitted:
            some = np.unique(np.linspace(0, n - 1, min(n, _MOST_LEARNT)).round().astype(np.intp))
            learnt = parts if len(some) == n else _Parts(inputs.rows(some), inputs.rows(some))
            self._theta = self._learnt(learnt, y[some], mean, sd, _FIRST_STEPS if fresh else _STEPS)
            self._n_fitted = n
        assert self._theta is not None  # set above; said for the type checker
        theta = Hyperparameters.of(self._theta, d, q)
        covariance = parts.covariance(theta) + (math.exp(2 * theta.noise) + _JITTER) * np.eye(n)
        self._inverse = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        self._alpha = self._inverse @ y
        self._inputs = inputs
        self.work.largest = max(self.work.largest, n)

    def predict(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean and standard deviation of the noise-free response, each shape (n,). Before `fit`: RuntimeError."""
        if self._inputs is None or self._theta is None:
            raise RuntimeError("predict before fit")
        d, q = inputs.numbers.shape[1], inputs.codes.shape[1]
        theta = Hyperparameters.of(self._theta, d, q)
        cross = _Parts(inputs, self._inputs).covariance(theta)
        mean = cross @ self._alpha
        variance = float(np.sum(np.exp(2 * theta.amplitudes))) - np.einsum("ij,ij->i", cross @ self._inverse, cross)
        self.work.predicted += len(inputs)
        return self._shift + self._scale * mean, self._scale * np.sqrt(np.maximum(variance, 1e-10))

    def _learnt(self, parts: _Parts, y: Array, mean: Array, sd: Array, steps: int) -> Array:
        """The most probable hyperparameters found by RPROP from where they are."""
        theta = mean.copy() if self._theta is None else self._theta.copy()
        best, lowest = theta.copy(), math.inf
        step, before = np.full(len(theta), 0.15), np.zeros(len(theta))
        for _ in range(steps):
            value, gradient = self._objective(parts, y, theta, mean, sd)
            if value < lowest:
                best, lowest = theta.copy(), value
            turned = np.sign(gradient) * np.sign(before)
            step = np.clip(np.where(turned > 0, step * 1.3, np.where(turned < 0, step * 0.5, step)), 1e-3, 0.7)
            theta = np.clip(theta - np.sign(gradient) * step, mean - 4 * sd, mean + 4 * sd)
            before = gradient
        return best

    def _objective(self, parts: _Parts, y: Array, flat: Array, mean: Array, sd: Array) -> tuple[float, Array]:
        """Negative log posterior and its gradient."""
        self.work.likelihoods += 1
        n, d, q = len(y), parts.n_numbers, parts.n_factors
        theta = Hyperparameters.of(flat, d, q)
        noise = math.exp(2 * theta.noise)
        covariance = parts.covariance(theta) + (noise + _JITTER) * np.eye(n)
        sign, determinant = np.linalg.slogdet(covariance)
        if sign <= 0:
            return math.inf, np.zeros_like(flat)
        inverse = np.linalg.inv(covariance)
        alpha = inverse @ y
        weight = inverse - np.outer(alpha, alpha)
        slopes = [0.5 * float(np.sum(weight * part)) for part in parts.derivatives(theta)]
        slopes.append(noise * float(np.trace(weight)))
        away = (flat - mean) / sd
        value = 0.5 * float(y @ alpha) + 0.5 * float(determinant) + 0.5 * float(away @ away)
        return value, np.array(slopes) + away / sd


class _Parts:
    """What the covariance between two sets of inputs is made of, so that only the hyperparameters change between steps."""

    def __init__(self, a: Inputs, b: Inputs) -> None:
        self.n_numbers, self.n_factors = a.numbers.shape[1], a.codes.shape[1]
        self._squares = [np.subtract.outer(a.numbers[:, j], b.numbers[:, j]) ** 2 for j in range(self.n_numbers)]
        self._same = [np.equal.outer(a.codes[:, f], b.codes[:, f]) for f in range(self.n_factors)]
        self._shape = (len(a), len(b))

    def covariance(self, theta: Hyperparameters) -> Array:
        """The three parts' sum, without noise."""
        numbers, categories = self._numbers(theta)[0], self._categories(theta)
        of_categories, of_numbers, of_both = np.exp(2 * theta.amplitudes)
        total: Array = of_categories * categories + (of_numbers + of_both * categories) * numbers
        return total

    def derivatives(self, theta: Hyperparameters) -> list[Array]:
        """By every hyperparameter but the noise, in the order of `Hyperparameters.flat`."""
        numbers, slope = self._numbers(theta)
        categories = self._categories(theta)
        of_categories, of_numbers, of_both = np.exp(2 * theta.amplitudes)
        by_numbers = of_numbers + of_both * categories
        inverse_squares = np.exp(-2 * theta.lengths)
        found = [by_numbers * slope * (square * w) for square, w in zip(self._squares, inverse_squares, strict=True)]
        found += [2 * of_categories * categories, 2 * of_numbers * numbers, 2 * of_both * categories * numbers]
        by_categories = of_categories + of_both * numbers
        for f, rho in enumerate(_logistic(theta.correlations)):
            rest = self._categories(theta, without=f)
            found.append(by_categories * rest * np.where(self._same[f], 0.0, rho * (1 - rho)))
        return found

    def _numbers(self, theta: Hyperparameters) -> tuple[Array, Array]:
        """Matérn 5/2, and what a squared scaled distance is multiplied by in its derivative by the log of a length scale."""
        total = np.zeros(self._shape)
        for square, w in zip(self._squares, np.exp(-2 * theta.lengths), strict=True):
            total += square * w
        r = _ROOT5 * np.sqrt(total)
        falling = np.exp(-r)
        return (1 + r + r * r / 3) * falling, (5.0 / 3.0) * (1 + r) * falling

    def _categories(self, theta: Hyperparameters, without: int = -1) -> Array:
        product = np.ones(self._shape)
        for f, rho in enumerate(_logistic(theta.correlations)):
            if f != without:
                product *= np.where(self._same[f], 1.0, rho)
        return product


def _logistic(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))
