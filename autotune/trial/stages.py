"""The stages of a trial that need more than one call: datasets, cached accuracy, and the constraint it must keep to."""

from __future__ import annotations

import numpy as np

from autotune.bench.accuracy import Scores
from autotune.bench.measure import pool_size
from autotune.bench.metrics import load_metric, score_range
from autotune.bench.sequential import DropTest
from autotune.bench.visit import visiting_order
from autotune.cache import Cache
from autotune.candidate import Candidate
from autotune.data.binding import bind_inputs
from autotune.data.dataset import Arrays, Dataset
from autotune.data.split import load_split
from autotune.devices.precision import channel_block
from autotune.engines.protocol import Backend, Inputs
from autotune.errors import AccuracyTooLow, Unsupported
from autotune.fingerprint import digest_of
from autotune.records import Estimate
from autotune.spec.model import ConstraintsSpec, SplitSpec, StudySpec
from autotune.trial.request import CalibrationSubset
from autotune.variants.graph import MODEL_FILE
from autotune.variants.make import VariantRequest, base_model, make_variant, model_inputs, pruned_model
from autotune.variants.variant import ModelVariant


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


_loaded: dict[str, Dataset] = {}
_pools: dict[tuple[str, int], Arrays] = {}
"""What this process has loaded already. A trial's process inherits both from the warm process that it is forked from."""


def bound_split(spec: StudySpec, split: SplitSpec, cache: Cache) -> Dataset:
    """A split as the model's inputs, read once in the life of a process. Raises SpecError where it does not fit the model."""
    key = _split_key(spec, split, cache)
    if key not in _loaded:
        inputs = model_inputs(base_model(spec.model, cache).folder / MODEL_FILE)
        _loaded[key] = bind_inputs(load_split(split, spec.data.preprocess, cache), inputs)
    return _loaded[key]


def _split_key(spec: StudySpec, split: SplitSpec, cache: Cache) -> str:
    parts = [p.model_dump_json() for p in (spec.model, split, spec.data.preprocess) if p is not None]
    return digest_of([*parts, str(cache.root)])


def load_batches(dataset: Dataset, batch_size: int) -> list[Inputs]:
    """Preprocessed batches for the load loop to cycle through, as `bench.measure.pool_size` wants them."""
    n = pool_size(dataset, batch_size)
    if (dataset.digest, n) not in _pools:
        _pools[dataset.digest, n] = dataset.take(np.arange(n) % len(dataset))
    pool = _pools[dataset.digest, n]
    starts = range(0, n - batch_size + 1, batch_size)
    return [{name: array[i : i + batch_size] for name, array in pool.items()} for i in starts]


def is_warm(spec: StudySpec, cache: Cache) -> bool:
    """True once `warm` has run in this process, or in one that it was forked from."""
    return _split_key(spec, spec.data.validation, cache) in _loaded


def warm(spec: StudySpec, cache: Cache) -> None:
    """The validation samples and the pool of small batches are in memory, for the processes forked from this one."""
    load_batches(bound_split(spec, spec.data.validation, cache), 1)


def variant_of(
    spec: StudySpec, candidate: Candidate, backend: Backend, cache: Cache, subset: CalibrationSubset | None = None
) -> tuple[ModelVariant, tuple[str, ...]]:
    """The candidate's variant as the backend wants it, and which of its stages were known already.

    `subset`: what a calibrated precision sees of the calibration split. Recovery after pruning learns from all of it.
    """
    calibration, train = _learning_data(spec, cache)
    if subset is not None and calibration is not None:
        train = calibration if train is None else train
        calibration = calibration.sampled(subset.size, subset.seed)
    return make_variant(_request(spec, candidate, backend), calibration, train, cache)


def prune(spec: StudySpec, candidate: Candidate, backend: Backend, cache: Cache) -> bool:
    """The pruned model that the candidate's variant is made from is in the cache; True when it was there already.

    A stage of its own, because it takes minutes where the conversion takes seconds, and all precisions of a ratio share it.
    """
    calibration, train = _learning_data(spec, cache)
    return pruned_model(_request(spec, candidate, backend), calibration, train, cache).hit


def _request(spec: StudySpec, candidate: Candidate, backend: Backend) -> VariantRequest:
    return VariantRequest(
        model=spec.model,
        precision=candidate.precision,
        pruning_ratio=candidate.pruning_ratio,
        scheme=backend.scheme(candidate.precision),
        recovery=spec.recovery,
        seed=spec.seed,
        channel_block=channel_block(backend.capabilities().device),
    )


def _learning_data(spec: StudySpec, cache: Cache) -> tuple[Dataset | None, Dataset | None]:
    """What the study gives to calibrate and to recover with."""
    found = (None if split is None else bound_split(spec, split, cache) for split in (spec.data.calibration, spec.data.train))
    calibration, train = found
    return calibration, train


def drop_test(spec: StudySpec, reference: Scores, validation: Dataset) -> DropTest | None:
    """The test that may reject a candidate before its last sample; None where only all samples tell, or nobody asked.

    That is: `early_stop` is off, no constraint on accuracy, or a metric that does not state the range of its scores per sample.
    """
    limits, error_rate = spec.constraints, spec.accuracy.early_stop.error_rate
    bounds = score_range(load_metric(spec.data.metric))
    if error_rate == 0 or bounds is None or reference.per_sample is None:
        return None
    allowed = [limits.accuracy_drop] if limits.accuracy_drop is not None else []
    if limits.accuracy is not None:
        allowed.append(float(np.mean(reference.per_sample)) - limits.accuracy)
    if not allowed:
        return None
    visited = reference.per_sample[visiting_order(validation.digest, len(validation))]
    return DropTest(reference=visited, score_range=bounds, limit=min(allowed), error_rate=error_rate)


def stopped_early(accuracy: Estimate, drop: Estimate, test: DropTest, limits: ConstraintsSpec) -> AccuracyTooLow:
    """The rejection of a candidate after its first samples."""
    asked = {"accuracy_drop": limits.accuracy_drop, "accuracy at least": limits.accuracy}
    allowed = ", ".join(f"{name} {value:g}" for name, value in asked.items() if value is not None)
    return AccuracyTooLow(
        f"stopped after {drop.n} of {len(test.reference)} samples: accuracy {accuracy.value:.4f} [{accuracy.low:.4f}, "
        f"{accuracy.high:.4f}] is {drop.value:.4f} [{drop.low:.4f}, {drop.high:.4f}] under the unmodified model's; "
        f"allowed: {allowed}; "
        f"wrong with a probability of at most {test.error_rate:g}",
        stage="accuracy",
    )


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
