"""Accuracy that is known already: kept per variant and engine, and trusted only while a session answers alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.bench.accuracy import Scores, predict, score, scores_from_arrays
from autotune.bench.metrics import load_metric
from autotune.cache import Artifact, Cache
from autotune.candidate import Candidate
from autotune.data.dataset import Dataset
from autotune.devices.gpu import device_fingerprint
from autotune.engines.protocol import Backend, Engine, Session
from autotune.errors import SpecError
from autotune.fingerprint import digest_of

_SCORES, _PROBE = "scores.npz", "probe.npz"
_PROBE_SAMPLES = 16
_FORMAT = 2
"""Part of the key: raised when the files of an accuracy artifact change, so that an older cache is not misread."""
_ALIKE = 0.1
"""Relative difference, in the Euclidean norm over the probe's outputs, up to which two sessions answer alike.

Rounding of int8 and bf16 kernels that differ by batch and threads stays far below it. What it must catch is of another size:
OpenVINO 2026.4.1 gave outputs of a small int8 sentence encoder at a static batch of 4 that correlated with the labels by 0.31,
where the same graph at a batch of 80, and ONNX Runtime at any batch, gave 0.76.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownScores:
    """Scores with their cache key. `hit`: they were known; `settings_matter`: they hold for this candidate's settings only."""

    scores: Scores
    key: str
    hit: bool
    settings_matter: bool


def scores_key(engine: Engine, backend: Backend, dataset: Dataset, metric: str) -> str:
    """What accuracy depends on: the variant, the backend with its version and device, the samples and the metric."""
    able = backend.capabilities()
    device = device_fingerprint(able.device, able.distributions)
    return digest_of(
        {
            "variant": engine.variant.key,
            "backend": backend.name,
            "versions": dict(device.versions),
            "device": device.device,
            "data": dataset.digest,
            "metric": metric,
            "format": _FORMAT,
        }
    )


def measured_scores(
    session: Session, engine: Engine, backend: Backend, dataset: Dataset, candidate: Candidate, metric: str, cache: Cache
) -> KnownScores:
    """The metric's scores on every validation sample.

    Scores of another candidate with the same variant and engine are taken over when this session gives the same outputs on the
    first samples; otherwise the settings matter, and the candidate gets scores of its own. Raises what the session raises.
    """
    key = scores_key(engine, backend, dataset, metric)
    known = _scored(session, dataset, candidate, metric, key, cache)
    if not known.hit or _answers_alike(session, dataset, candidate, known.folder):
        return KnownScores(scores=stored_scores(known.folder), key=key, hit=known.hit, settings_matter=False)
    own = digest_of({"shared": key, "settings": candidate.as_json()})
    found = _scored(session, dataset, candidate, metric, own, cache)
    return KnownScores(scores=stored_scores(found.folder), key=own, hit=found.hit, settings_matter=True)


def _scored(session: Session, dataset: Dataset, candidate: Candidate, metric: str, key: str, cache: Cache) -> Artifact:
    labels = dataset.labels
    if labels is None:
        raise SpecError("data.validation: found no labels; accuracy needs them")

    def make(folder: Path) -> dict[str, Any]:
        outputs = predict(session, dataset, candidate.batch_size)
        found = score(load_metric(metric), outputs, labels)
        _save(folder / _SCORES, found.as_arrays())
        _save(folder / _PROBE, {name: value[:_PROBE_SAMPLES] for name, value in outputs.items()})
        return {"metric": metric, "n": found.n}

    return cache.get_or_make("accuracy", key, make)


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes only its own keyword


def _answers_alike(session: Session, dataset: Dataset, candidate: Candidate, folder: Path) -> bool:
    """True when the session's outputs on the first samples are those with which the scores were made."""
    found = predict(session, dataset.first(_PROBE_SAMPLES), candidate.batch_size)
    with np.load(folder / _PROBE, allow_pickle=False) as before:
        return all(_relative_difference(found[name], before[name]) <= _ALIKE for name in before.files)


def _relative_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """‖a − b‖ / ‖b‖ over all elements."""
    scale = float(np.linalg.norm(b.astype(np.float64))) or 1.0
    return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64))) / scale


def scores_exist(cache: Cache, key: str | None) -> bool:
    """True when the accuracy artifact `key` is in the cache."""
    return key is not None and (cache.root / "accuracy" / key / _SCORES).exists()


def stored_scores(folder: Path) -> Scores:
    """The scores of a finished accuracy artifact."""
    with np.load(folder / _SCORES, allow_pickle=False) as arrays:
        return scores_from_arrays(dict(arrays))
