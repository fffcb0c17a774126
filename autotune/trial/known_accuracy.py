"""Accuracy that is known already: kept per variant and engine, and trusted only while a session answers alike.

Two kinds of artifacts under one key: `accuracy` holds the answers to all samples, `accuracy-part` those to the first ones in
the order of the visit, of a candidate that was rejected before the last. A part is never read as a whole: it is where a later
measurement under another limit goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.bench.accuracy import Scores, predict, score
from autotune.bench.answers import Answers, are_stored, n_outputs_kept, named_classes, stored_answers
from autotune.bench.metrics import load_metric, metric_identity, score_range
from autotune.bench.sequential import DropTest
from autotune.bench.visit import PROBE_SAMPLES, next_look, visiting_order
from autotune.cache import Cache
from autotune.candidate import Candidate
from autotune.data.dataset import Dataset
from autotune.devices.gpu import device_fingerprint
from autotune.engines.protocol import Backend, Engine, Session
from autotune.errors import EnvironmentProblem, SpecError
from autotune.fingerprint import digest_of

_WHOLE, _PART = "accuracy", "accuracy-part"
_FORMAT = 3
"""Part of the key: raised when the files of an accuracy artifact change, so that an older cache is not misread."""
_ALIKE = 0.1
"""Relative difference, in the Euclidean norm over the probe's outputs, up to which two sessions answer alike.

Rounding of int8 and bf16 kernels that differ by batch and threads stays far below it. What it must catch is of another size:
OpenVINO 2026.4.1 gave outputs of a small int8 sentence encoder at a static batch of 4 that correlated with the labels by 0.31,
where the same graph at a batch of 80, and ONNX Runtime at any batch, gave 0.76.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswers:
    """Answers with their cache key. `hit`: they were known; `settings_matter`: they hold for this candidate's settings only.

    `stopped`: they are those to the first samples in the order of the visit, which were enough to reject the candidate; else
    those to all samples, in the dataset's order.
    """

    answers: Answers
    key: str
    hit: bool
    settings_matter: bool
    stopped: bool = False


class _Enough(Exception):
    """The test rejects the candidate on these first samples."""

    def __init__(self, answers: Answers, *, hit: bool) -> None:
        self.answers, self.hit = answers, hit


def scores_key(engine: Engine, backend: Backend, dataset: Dataset, metric: str) -> str:
    """What accuracy depends on: the variant, the backend with its version and device, the samples and the metric."""
    able = backend.capabilities()
    device = device_fingerprint(able.device, able.distributions)
    return digest_of(
        {
            "variant": engine.variant.key,
            "backend": backend.name,
            "data": dataset.digest,
            "format": _FORMAT,
            **device.identity,
            **metric_identity(metric),
        }
    )


def measured_answers(
    session: Session,
    engine: Engine,
    backend: Backend,
    dataset: Dataset,
    candidate: Candidate,
    metric: str,
    cache: Cache,
    test: DropTest | None = None,
) -> KnownAnswers:
    """The answers to every validation sample, or with `test` to the first ones that reject the candidate.

    Answers of another candidate with the same variant and engine are taken over, or gone on with, when this session gives the
    same outputs on the first samples; otherwise the settings matter, and the candidate gets answers of its own. Raises what the
    session raises, SpecError on a wrong metric.
    """
    work = _Measuring(session, dataset, candidate, metric, cache, test)
    shared = scores_key(engine, backend, dataset, metric)
    before = work.known_folder(shared)
    if before is None or work.answers_alike(before):
        return work.answered(shared, settings_matter=False)
    own = digest_of({"shared": shared, "settings": candidate.as_json()})
    return work.answered(own, settings_matter=True)


class _Measuring:
    """One candidate's session, and what is to be known of its answers."""

    def __init__(
        self, session: Session, dataset: Dataset, candidate: Candidate, metric: str, cache: Cache, test: DropTest | None
    ) -> None:
        if dataset.labels is None:
            raise SpecError("data.validation: found no labels; accuracy needs them")
        self._session, self._dataset, self._labels = session, dataset, dataset.labels
        self._batch_size, self._cache, self._test = candidate.batch_size, cache, test
        self._metric_name, self._metric = metric, load_metric(metric)
        self._range = score_range(self._metric)
        self._order = visiting_order(dataset.digest, len(dataset))

    def known_folder(self, key: str) -> Path | None:
        """Where whole or partial answers are kept under the key."""
        found = self._cache.find(_WHOLE, key) or self._cache.find(_PART, key)
        return None if found is None else found.folder

    def answers_alike(self, folder: Path) -> bool:
        """True when the session's outputs on the first samples are those with which the answers began."""
        found = self._predicted(self._order[:PROBE_SAMPLES])
        before = stored_answers(folder).outputs
        return all(_relative_difference(found[name], before[name][:PROBE_SAMPLES]) <= _ALIKE for name in before)

    def answered(self, key: str, *, settings_matter: bool) -> KnownAnswers:
        def make(folder: Path) -> dict[str, Any]:
            answers = self._to_all() if self._range is None else self._in_dataset_order(self._one_by_one(key, self._range))
            answers.save(folder)
            return {"metric": self._metric_name, "n": answers.scores.n}

        try:
            made = self._cache.get_or_make(_WHOLE, key, make)
        except _Enough as exc:
            return KnownAnswers(answers=exc.answers, key=key, hit=exc.hit, settings_matter=settings_matter, stopped=True)
        return KnownAnswers(answers=stored_answers(made.folder), key=key, hit=made.hit, settings_matter=settings_matter)

    def _to_all(self) -> Answers:
        """For a metric of the whole set, which tells nothing before its end."""
        outputs = self._predicted(np.arange(len(self._dataset)))
        first = self._order[: n_outputs_kept(outputs)]
        return Answers(
            scores=score(self._metric, outputs, self._labels),
            named=named_classes(outputs),
            outputs={name: value[first] for name, value in outputs.items()},
        )

    def _one_by_one(self, key: str, bounds: tuple[float, float]) -> Answers:
        """The answers in the order of the visit, going on from the part that is known. Raises _Enough."""
        part = self._cache.find(_PART, key)
        known = None if part is None else stored_answers(part.folder)
        n, n_known = len(self._dataset), 0 if known is None else known.scores.n
        while known is None or known.scores.n < n:
            if known is not None and self._test is not None and self._test.rejects(per_sample(known.scores)):
                if known.scores.n > n_known:
                    self._cache.renew(_PART, key, _saved(known))
                raise _Enough(known, hit=known.scores.n == n_known)
            done = 0 if known is None else known.scores.n
            stop = n if self._test is None else next_look(done, n, self._batch_size * self._session.slots)
            more = self._to(self._order[done:stop], bounds)
            known = more if known is None else _joined(known, more)
        return known

    def _to(self, rows: NDArray[np.intp], bounds: tuple[float, float]) -> Answers:
        """The answers to these samples, in this order; they are run in the dataset's, which its files are read fastest in."""
        sequence = np.argsort(rows)
        outputs = self._predicted(rows[sequence])
        found = score(self._metric, outputs, self._labels[rows[sequence]]).per_sample
        if found is None or np.min(found) < bounds[0] or np.max(found) > bounds[1]:
            what = "one number for the set" if found is None else f"scores from {np.min(found):g} to {np.max(found):g}"
            raise SpecError(f"data.metric: found {what}; allowed by its score_range: {bounds[0]:g} to {bounds[1]:g} per sample")
        back = np.argsort(sequence)
        named, kept = named_classes(outputs), back[: n_outputs_kept(outputs)]
        return Answers(
            scores=Scores(per_sample=found[back], n=len(rows)),
            named=None if named is None else named[back],
            outputs={name: value[kept] for name, value in outputs.items()},
        )

    def _in_dataset_order(self, visited: Answers) -> Answers:
        back = np.argsort(self._order)
        named = None if visited.named is None else visited.named[back]
        scores = Scores(per_sample=per_sample(visited.scores)[back], n=visited.scores.n)
        return Answers(scores=scores, named=named, outputs=visited.outputs)

    def _predicted(self, rows: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        return predict(self._session, self._dataset, self._batch_size, rows)


def per_sample(scores: Scores) -> NDArray[np.float64]:
    """The scores of a metric that has one per sample. Raises ValueError on another's."""
    if scores.per_sample is None:
        raise ValueError("the metric gives one number for the whole set")
    return scores.per_sample


def _joined(first: Answers, more: Answers) -> Answers:
    """The answers to both, in this order; outputs as far as they are kept."""
    scores = np.concatenate([per_sample(first.scores), per_sample(more.scores)])
    named = None if first.named is None or more.named is None else np.concatenate([first.named, more.named])
    kept = n_outputs_kept(first.outputs)
    outputs = {name: np.concatenate([value, more.outputs[name]])[:kept] for name, value in first.outputs.items()}
    return Answers(scores=Scores(per_sample=scores, n=len(scores)), named=named, outputs=outputs)


def _saved(answers: Answers) -> Any:
    def make(folder: Path) -> Mapping[str, Any]:
        answers.save(folder)
        return {"n": answers.scores.n}

    return make


def _relative_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """‖a − b‖ / ‖b‖ over all elements."""
    scale = float(np.linalg.norm(b.astype(np.float64))) or 1.0
    return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64))) / scale


def scores_exist(cache: Cache, key: str | None) -> bool:
    """True when the answers to all samples are in the cache under `key`, whole, and stay while this process lives."""
    found = None if key is None else cache.find(_WHOLE, key)
    return found is not None and are_stored(found.folder)


def known_answers(cache: Cache, key: str) -> Answers:
    """The answers to all samples under the key. Raises EnvironmentProblem where they are gone or damaged."""
    found = cache.find(_WHOLE, key)
    if found is None:
        raise EnvironmentProblem(
            f"the reference's answers ({cache.root / _WHOLE / key}) are gone or damaged, so no accuracy can be compared.",
            remedy="autotune start STUDY.yaml, which measures the reference again and goes on",
        )
    return stored_answers(found.folder)
