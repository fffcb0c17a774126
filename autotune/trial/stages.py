"""The stages of a trial that need more than one call: datasets, cached accuracy, and the constraint it must keep to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autotune.bench.accuracy import Scores, predict, score, scores_from_arrays
from autotune.bench.metrics import load_metric
from autotune.cache import Cache
from autotune.candidate import Candidate
from autotune.data.dataset import Dataset
from autotune.engines.protocol import Backend, Engine, Session
from autotune.errors import AccuracyTooLow, SpecError, Unsupported
from autotune.fingerprint import cpu_fingerprint, digest_of
from autotune.records import Estimate
from autotune.spec.model import ConstraintsSpec

_SCORES = "scores.npz"


def require_support(backend: Backend, candidate: Candidate) -> None:
    """Returns when the backend can run the candidate's precision here. Raises Unsupported with the reason otherwise."""
    able = backend.capabilities()
    if not able.available:
        raise Unsupported(f"{backend.name}: {able.missing}. Try: {able.remedy}", stage="engine")
    if candidate.precision not in able.precisions:
        known = f"it runs {', '.join(able.precisions)}"
        raise Unsupported(
            f"{backend.name} cannot run {candidate.precision}: {able.refused.get(candidate.precision, known)}", stage="engine"
        )


def scores_key(engine: Engine, backend: Backend, dataset: Dataset, metric: str) -> str:
    """What accuracy depends on: the variant, the backend with its version and device, the samples and the metric."""
    device = cpu_fingerprint(backend.capabilities().distributions)
    return digest_of(
        {
            "variant": engine.variant.key,
            "backend": backend.name,
            "versions": dict(device.versions),
            "device": device.device,
            "data": dataset.digest,
            "metric": metric,
        }
    )


def measured_scores(
    session: Session, dataset: Dataset, candidate: Candidate, metric: str, key: str, cache: Cache
) -> tuple[Scores, bool]:
    """The metric's scores on every sample of the validation data, and whether they were known already."""
    labels = dataset.labels
    if labels is None:
        raise SpecError("data.validation: found no labels; accuracy needs them")

    def make(folder: Path) -> dict[str, Any]:
        outputs = predict(session, dataset, candidate.batch_size)
        found = score(load_metric(metric), outputs, labels)
        np.savez(folder / _SCORES, **found.as_arrays())  # type: ignore[arg-type]  # numpy's stub takes only its own keyword
        return {"metric": metric, "n": found.n}

    made = cache.get_or_make("accuracy", key, make)
    return stored_scores(made.folder), made.hit


def stored_scores(folder: Path) -> Scores:
    """The scores of a finished accuracy artifact."""
    with np.load(folder / _SCORES, allow_pickle=False) as arrays:
        return scores_from_arrays(dict(arrays))


def require_accuracy(accuracy: Estimate, drop: Estimate | None, limits: ConstraintsSpec) -> None:
    """Returns when the accuracy keeps to the study's constraints. Raises AccuracyTooLow, saying by how much it does not."""
    if limits.accuracy_drop is not None and drop is not None and drop.value > limits.accuracy_drop:
        raise AccuracyTooLow(
            f"accuracy {accuracy.value:.4f} is {drop.value:.4f} [{drop.low:.4f}, {drop.high:.4f}] under the unmodified "
            f"model's; allowed: accuracy_drop {limits.accuracy_drop:g}",
            stage="accuracy",
        )
    if limits.accuracy is not None and accuracy.value < limits.accuracy:
        raise AccuracyTooLow(
            f"accuracy {accuracy.value:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}]; allowed: at least {limits.accuracy:g}",
            stage="accuracy",
        )
