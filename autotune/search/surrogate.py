"""The models of a study's responses: every objective and constraint by the parameters that it depends on.

What a stage alone decides (accuracy: the variant and the engine) is known exactly for all candidates that share the stage's
result once one was measured, and predicted from the stage's parameters before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotune.search.encoding import Encoding, Params
from autotune.search.gaussian import CORRELATION, GaussianProcess, Work
from autotune.search.history import History, Response, Seen, Stage
from autotune.search.improvement import Prediction, normal_cdf

Array = NDArray[np.float64]
Expectation = Callable[[Params], float]
"""What somebody expects of a response before it is measured; see `CostAwareSampler`."""
MOST_ROWS = 200
"""A model sees no more trials than this: the best half, and as many spread over all. A proposal's cost is bounded by it."""
_STRETCH = 3.0
_EXACT_SD = 1e-9
_LEAST_SCALE = 1e-6
DOUBT = 0.05
"""However sure a model is that a constraint will be broken, so often it is taken to be wrong before it was measured.

A digits network pruned by a quarter missed its accuracy by two points, and pruned by a half kept it: recovery is no monotone
function. And where the first pruned trial of a perceptron failed for too small a memory pool, pruning itself was taken for the
cause. Without doubt such variants would never be tried, however much faster they may be.
"""
STRAYS = 0.3
"""How far the logarithm of an objective is taken to lie from what is expected of it, before four trials have shown it."""
_LEAST_SPREAD = 0.02
_LEAST_DECIDED = 0.005
"""The least spread that is believed of an objective: of few trials, and of what a stage decides where many are known or it is
known what to expect.

As shares of the largest value, or of 1 where that is less. A few variants that agree say little about one of another kind, and
nothing would be built any more where they seemed to.
"""
ALIKE = 2.5
"""The logit expected of the correlation in a factor that decides little: 0.92. Chosen as docs/search-settings.md says."""


@dataclass(slots=True)
class Surrogate:
    """What is expected of candidates. The processes are kept between fits, so that each begins where the last ended."""

    stages: Sequence[Stage]
    expected: Mapping[Response, Expectation] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    _processes: dict[Response, GaussianProcess] = field(default_factory=dict)
    _models: dict[Response, _Model] = field(default_factory=dict)
    _dead: dict[str, set[Hashable]] = field(default_factory=dict)
    _encoding: Encoding = field(default_factory=lambda: Encoding({}))

    def fit(self, encoding: Encoding, history: History, n_objectives: int) -> None:
        """The models explain the history; pending candidates count as measured where they are expected to be."""
        names = sorted({k for s in history.seen for k in s.values if isinstance(k, str)})
        ranked = _most_telling(history.seen, n_objectives)
        self._dead = {stage.name: set() for stage in self.stages}
        for seen in history.seen:
            for stage in self.stages:
                if seen.failed_in == stage.name:
                    self._dead[stage.name].add(stage.key_of(seen.params))
        strange = [k for k in self.expected if isinstance(k, int) and not 0 <= k < n_objectives]
        if strange:
            raise ValueError(f"expected names objective {strange[0]}; the study has {n_objectives}, counted from 0")
        self._models, self._encoding = {}, encoding
        for response in (*range(n_objectives), *names):
            decided = next((s for s in self.stages if response in s.decides), None)
            process = self._processes.setdefault(response, GaussianProcess(work=self.work))
            process.correlations = _expected(decided, encoding)
            model = _Model(response, decided, encoding, process, self.expected.get(response))
            if model.fit(history.seen if decided else ranked, history.pending):
                self._models[response] = model

    def objectives(self, rows: Sequence[Params], minimize: Sequence[bool]) -> list[Prediction]:
        """Of each objective, mean and standard deviation by candidate."""
        return [self._models[i].predict(rows, minimize=down) for i, down in enumerate(minimize)]

    def is_ready(self, n_objectives: int) -> bool:
        """True when every objective was measured at least once."""
        return all(i in self._models for i in range(n_objectives))

    def feasible(self, rows: Sequence[Params]) -> tuple[Array, Array]:
        """The probabilities that a candidate keeps all constraints, and that it keeps those that its stages decide; shape (n,).

        Exactly 0 where a stage's result is known to be impossible or to break a constraint.
        """
        keeps, passes = np.ones(len(rows)), np.ones(len(rows))
        for stage in self.stages:
            dead = self._dead[stage.name]
            if dead:
                groups = self._encoding.groups(rows, stage.name, stage.key_of)
                alive = np.array([key not in dead for key in groups.keys], dtype=np.float64)[groups.of_row]
                keeps, passes = keeps * alive, passes * alive
        for response, model in self._models.items():
            if isinstance(response, str) and (model.stage is not None or model.is_uncertain):
                found = model.predict(rows)
                probability = np.maximum(normal_cdf(-found.mean / np.maximum(found.sd, _EXACT_SD)), DOUBT)
                if model.stage is not None:
                    known = np.where(found.mean <= 0, 1.0, 0.0)
                    probability = np.where(found.sd > _EXACT_SD, probability, known)
                    passes = passes * probability
                keeps = keeps * probability
        return keeps, passes


class _Model:
    """One response: how its values are transformed, what is known of it exactly, and the process that predicts the rest.

    The process sees how far the transformed values lie from what is expected of them.
    """

    def __init__(
        self,
        response: Response,
        stage: Stage | None,
        encoding: Encoding,
        process: GaussianProcess,
        expected: Expectation | None,
    ) -> None:
        self.stage, self._response, self._encoding, self._process = stage, response, encoding, process
        self._expected = expected
        self._only = None if stage is None else stage.parameters
        self._exact: dict[Hashable, float] = {}
        self.log = False
        self.is_uncertain = False

    def fit(self, seen: Sequence[Seen], pending: Sequence[Params]) -> bool:
        """False when nothing is known of the response."""
        known = [(s, s.values[self._response]) for s in seen if self._response in s.values]
        if isinstance(self._response, int):
            kept = [(s, v) for s, v in known if not s.failed] or known
            known = kept if self.stage is None else ([(s, v) for s, v in known if _keeps(s)] or kept)
        else:
            known = [(s, v) for s, v in known if self.stage is not None or s.failed_in is None]
            differs = any(v > 0 for _, v in known) or len({v for _, v in known}) > 1
            self.is_uncertain = differs or self._expected is not None
        if not known:
            return False
        values = np.array([v for _, v in known], dtype=np.float64)
        if self._measured_objective:
            self.log = _is_stretched(values) or (self._expected is not None and float(np.min(values)) > 0)
            # A factor says nothing about values that are no logarithms.
            self._expected = self._expected if self.log else None
        targets, rows = self._transformed(values), [s.params for s, _ in known]
        if self.stage is not None:
            self._exact = {self.stage.key_of(r): float(t) for r, t in zip(rows, targets, strict=True)}
            first = {self.stage.key_of(r): i for i, r in reversed(list(enumerate(rows)))}
            rows, targets = [rows[i] for i in first.values()], targets[list(first.values())]
        least = self._least_scale(targets)
        self._fit(rows, targets - self._offsets(rows), least)
        if pending and self.stage is None:
            believed, _ = self._process.predict(self._encoding.inputs(pending))
            self._fit([*rows, *pending], np.append(targets - self._offsets(rows), believed), least)
        return True

    @property
    def _measured_objective(self) -> bool:
        return isinstance(self._response, int) and self.stage is None

    def _least_scale(self, measured: Array) -> float:
        """The least spread that is believed after these measurements; what is pending tells nothing of it."""
        few, size = len(measured) < 4, max(1.0, float(np.max(np.abs(measured))))
        if isinstance(self._response, str) or (self._measured_objective and self._expected is not None):
            return STRAYS if few else _LEAST_SCALE
        if self.stage is not None:
            return (_LEAST_SPREAD if few and self._expected is None else _LEAST_DECIDED) * size
        return _LEAST_SPREAD * size if few else _LEAST_SCALE

    def _fit(self, rows: Sequence[Params], targets: Array, least: float) -> None:
        self._process.fit(self._encoding.inputs(rows, self._only), targets, least_scale=least)

    def _offsets(self, rows: Sequence[Params]) -> Array:
        """What is expected of the rows' transformed values, shape (n,). Raises ValueError where that is no number."""
        if self._expected is None:
            return np.zeros(len(rows))
        values = np.array([self._expected(row) for row in rows], dtype=np.float64)
        wrong = ~np.isfinite(values) | (values <= 0 if self.log else False)
        if np.any(wrong):
            at = int(np.argmax(wrong))
            wanted = "a number above 0" if self.log else "a finite number"
            raise ValueError(f"expected[{self._response!r}] gives {values[at]} for {dict(rows[at])}; wanted: {wanted}")
        return self._transformed(values)

    def predict(self, rows: Sequence[Params], *, minimize: bool = False) -> Prediction:
        """Mean and standard deviation on the model's scale."""
        if self.stage is None:
            mean, sd = self._process.predict(self._encoding.inputs(rows))
            if self._expected is not None:
                mean = mean + self._encoding.once(rows, (_Model, self._response), lambda: self._offsets(rows))
            return Prediction(mean, sd, self.log, minimize)
        # Many candidates share few results of the stage.
        groups = self._encoding.groups(rows, self.stage.name, self.stage.key_of)
        firsts = [rows[i] for i in groups.first]
        mean, sd = self._process.predict(self._encoding.inputs(firsts, self._only))
        mean = mean + self._offsets(firsts)
        for i, key in enumerate(groups.keys):
            if key in self._exact:
                mean[i], sd[i] = self._exact[key], _EXACT_SD
        return Prediction(mean[groups.of_row], sd[groups.of_row], self.log, minimize)

    def _transformed(self, values: Array) -> Array:
        if isinstance(self._response, str):
            # Missed is missed: by far (7 % top-1 instead of 78 %) would make everything that is not measured look uncertain.
            # What is kept by far is flattened, too, or what is missed would be nothing beside it. The slopes agree at 0.
            missed = 1 - 1 / (1 + np.maximum(values, 0.0))
            return np.where(values > 0, missed, np.arcsinh(values))
        return np.log(values) if self.log else values


def _expected(stage: Stage | None, encoding: Encoding) -> list[float]:
    """The logits that are expected of the factors' correlations in what the stage decides."""
    if stage is None:
        return []
    return [ALIKE if factor in stage.alike else CORRELATION for factor in encoding.factors_of(stage.parameters)]


def _keeps(seen: Seen) -> bool:
    return not seen.failed and all(v <= 0 for k, v in seen.values.items() if isinstance(k, str))


def _is_stretched(values: Array) -> bool:
    """True when the values are positive and span more than a factor of three: they are then modelled by their logarithm."""
    low, high = float(np.min(values)), float(np.max(values))
    return low > 0 and math.log(high / low) > math.log(_STRETCH)


def _most_telling(seen: Sequence[Seen], n_objectives: int) -> list[Seen]:
    """At most MOST_ROWS trials: half of them those that are best in some objective, the others spread over the study."""
    if len(seen) <= MOST_ROWS:
        return list(seen)
    best: dict[int, None] = {}
    for i in range(n_objectives):
        order = sorted((j for j, s in enumerate(seen) if i in s.values), key=lambda j: abs(seen[j].values[i]), reverse=True)
        best |= dict.fromkeys(order[: MOST_ROWS // (2 * n_objectives)])
    others = [j for j in range(len(seen)) if j not in best]
    spread = np.linspace(0, len(others) - 1, MOST_ROWS - len(best)).round().astype(int)
    return [seen[j] for j in sorted({*best, *(others[k] for k in spread)})]
