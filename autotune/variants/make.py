"""From the model to a variant: base, then pruning with recovery, then precision; each stage made once per content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.cache import Artifact, Cache
from autotune.data.dataset import Dataset
from autotune.fingerprint import digest_of, file_digest, library_version
from autotune.records import VariantInfo
from autotune.spec.inputs import InputSpec
from autotune.spec.model import ModelSpec, RecoverySpec
from autotune.variants.base import base_model
from autotune.variants.graph import MODEL_FILE, model_inputs, n_macs, n_params
from autotune.variants.precision import recipe_for
from autotune.variants.variant import ModelVariant, QuantScheme

__all__ = ["InputSpec", "VariantRequest", "base_model", "make_variant", "model_inputs"]

_PRUNE_REVISION = 1
_SPARSE_REVISION = 1
_PRECISION_REVISION = 1
_ATTENTION_REVISION = 1
"""Parts of the keys: raised when the same request would give another file."""
_PRUNE_DISTRIBUTIONS = ("onnx", "onnx2torch", "torch", "torch-pruning")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRequest:
    """Everything a variant depends on, the data apart. `channel_block`: multiples of channels that the device likes."""

    model: ModelSpec
    precision: str
    pruning_ratio: float
    scheme: QuantScheme
    recovery: RecoverySpec
    seed: int
    channel_block: int = 8


def _silent(line: str) -> None:
    """Progress that nobody asked for."""


def make_variant(
    request: VariantRequest,
    calibration: Dataset | None,
    train: Dataset | None,
    cache: Cache,
    report: Report = _silent,
) -> tuple[ModelVariant, tuple[str, ...]]:
    """The variant, and which of its stages ("base", "prune", "sparse", "variant") were in the cache already.

    `train` is what recovery learns from, else `calibration`; labels are not used. `report` gets a line per step of the work.
    Raises Unsupported or BuildFailed where this model cannot be made so, SpecError where the model itself is wrong.
    """
    base = base_model(request.model, cache)
    stages = {"base": base}
    pruned = base
    lessons = train if train is not None else calibration
    if request.pruning_ratio > 0:
        pruned = stages["prune"] = pruned_model(request, calibration, train, cache, report)
    ready = pruned
    if recipe_for(request.precision).sparse:
        ready = stages["sparse"] = _sparsified(request, pruned, lessons, cache, report)
    final = stages["variant"] = _converted(request, ready, base.facts["attention"], calibration, cache, report)
    hits = tuple(name for name, artifact in stages.items() if artifact.hit)
    info = _info(request, list(stages.values()), pruned)
    return ModelVariant(key=final.key, path=final.folder / MODEL_FILE, info=info), hits


def pruned_model(
    request: VariantRequest, calibration: Dataset | None, train: Dataset | None, cache: Cache, report: Report = _silent
) -> Artifact:
    """The pruned, recovered model that all precisions of this ratio are made from. Arguments and errors as `make_variant`."""
    base, data = base_model(request.model, cache), train if train is not None else calibration
    key = digest_of(
        {
            "revision": _PRUNE_REVISION,
            "base": base.facts["digest"],
            "ratio": request.pruning_ratio,
            "recovery": request.recovery.model_dump(mode="json"),
            "data": None if data is None else data.digest,
            "seed": request.seed,
            "versions": {d: library_version(d) for d in _PRUNE_DISTRIBUTIONS},
            **({} if request.channel_block == 8 else {"block": request.channel_block}),  # 8 was the only one once
        }
    )

    def make(folder: Path) -> dict[str, Any]:
        from autotune.variants.prune import prune_model

        target = folder / MODEL_FILE
        notes = prune_model(
            base.folder / MODEL_FILE,
            target,
            ratio=request.pruning_ratio,
            recovery=request.recovery,
            data=data,
            seed=request.seed,
            report=report,
            block=request.channel_block,
        )
        return _facts(target, notes)

    return cache.get_or_make("prune", key, make, needs=[base.name])


def _sparsified(request: VariantRequest, dense: Artifact, data: Dataset | None, cache: Cache, report: Report) -> Artifact:
    key = digest_of(
        {
            "revision": _SPARSE_REVISION,
            "source": dense.facts["digest"],
            "recovery": request.recovery.model_dump(mode="json"),
            "data": None if data is None else data.digest,
            "seed": request.seed,
            "versions": {d: library_version(d) for d in _PRUNE_DISTRIBUTIONS},
        }
    )

    def make(folder: Path) -> dict[str, Any]:
        from autotune.variants.sparse import sparsify_model

        target = folder / MODEL_FILE
        notes = sparsify_model(
            dense.folder / MODEL_FILE,
            target,
            recovery=request.recovery,
            data=data,
            seed=request.seed,
            report=report,
        )
        return _facts(target, notes)

    return cache.get_or_make("sparse", key, make, needs=[dense.name])


def _converted(
    request: VariantRequest, pruned: Artifact, attention: bool, calibration: Dataset | None, cache: Cache, report: Report
) -> Artifact:
    recipe = recipe_for(request.precision)
    key = digest_of(
        {
            "revision": _PRECISION_REVISION,
            "source": pruned.facts["digest"],
            "precision": request.precision,
            "scheme": request.scheme.name if recipe.schemed else None,
            "calibration": calibration.digest if recipe.calibrated and calibration is not None else None,
            "versions": {d: library_version(d) for d in recipe.distributions},
            **({"attention": _ATTENTION_REVISION} if attention and recipe.calibrated else {}),
        }
    )

    def make(folder: Path) -> dict[str, Any]:
        report(f"converting to {request.precision}")
        target = folder / MODEL_FILE
        notes = recipe.convert(pruned.folder / MODEL_FILE, target, request.scheme, calibration)
        return _facts(target, notes)

    return cache.get_or_make("variant", key, make, needs=[pruned.name])


def _facts(path: Path, notes: tuple[str, ...]) -> dict[str, Any]:
    import onnx

    model = onnx.load(str(path))
    return {
        "digest": file_digest(path),
        "params": n_params(model),
        "macs": n_macs(model),
        "bytes": path.stat().st_size,
        "notes": list(notes),
    }


def _info(request: VariantRequest, stages: list[Artifact], pruned: Artifact) -> VariantInfo:
    """Counted on the graphs; `achieved_pruning` is the share of the base model's parameters that pruning removed."""
    base, final = stages[0], stages[-1]
    return VariantInfo(
        key=final.key,
        precision=request.precision,
        scheme=request.scheme.name if recipe_for(request.precision).schemed else "",
        pruning_ratio=request.pruning_ratio,
        achieved_pruning=1 - pruned.facts["params"] / base.facts["params"] if base.facts["params"] else 0.0,
        params=final.facts["params"],
        macs=final.facts["macs"],
        model_bytes=final.facts["bytes"],
        notes=tuple(note for stage in stages for note in stage.facts.get("notes", ())),
    )
