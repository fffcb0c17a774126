"""load_split: what a study says of one split becomes a Dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.cache import Cache
from autotune.data.archive import ArchiveFault, array_names, arrays_from_archive
from autotune.data.dataset import Dataset
from autotune.data.images import image_samples
from autotune.data.listing import read_listing
from autotune.errors import SpecError, SpecProblem
from autotune.fingerprint import digest_of
from autotune.spec.model import PreprocessSpec, SplitSpec

IMAGE_ARRAY = "image"
"""The name of an image folder's array until it is bound to the model's only input."""


def load_split(spec: SplitSpec, preprocess: PreprocessSpec | None, cache: Cache) -> Dataset:
    """The samples that `spec` names, memory-mapped from the cache, with their labels if they have any.

    Raises SpecError with every fault, at the line of the key that names the file.
    """
    if spec.images is not None:
        listing = read_listing(spec)
        samples, content = image_samples(spec, listing, preprocess, cache)
        arrays: Mapping[str, NDArray[Any]] = {IMAGE_ARRAY: samples}
        labels: NDArray[Any] | None = listing.labels
    else:
        arrays, labels, content = _arrays(spec, Path(spec.npz or ""), cache)
    _check_preprocess(spec, preprocess, arrays)
    return Dataset(
        arrays=arrays,
        labels=labels,
        preprocess=preprocess,
        digest=_digest(content, arrays, labels, preprocess),
        source=spec,
    )


def _digest(content: str, arrays: Mapping[str, NDArray[Any]], labels: NDArray[Any] | None, spec: PreprocessSpec | None) -> str:
    return digest_of(
        {
            "content": content,
            "arrays": {name: list(array.shape) for name, array in arrays.items()},
            "labels": None if labels is None else hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest(),
            "preprocess": None if spec is None else spec.model_dump(mode="json"),
        }
    )


def _arrays(spec: SplitSpec, path: Path, cache: Cache) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None, str]:
    """The input arrays by the name of the model's input where the study gives one, the labels, and the content's key."""
    try:
        present = array_names(path)
    except ArchiveFault as exc:
        raise SpecError([spec.problem("npz", f"{path.name}, {exc}", "an .npz file, from numpy.savez")]) from exc
    label = str(spec.labels) if spec.labels is not None else "y" if "y" in present else None
    inputs = _input_arrays(spec, present, label)
    wanted = [*dict.fromkeys(inputs.values()), *([label] if label else [])]
    faults = [
        spec.problem(
            "labels" if name == label else "inputs", f"the array {name!r}", f"an array of {path.name}: {', '.join(present)}"
        )
        for name in wanted
        if name not in present
    ]
    if faults:
        raise SpecError(faults)
    stored, content = arrays_from_archive(spec, path, wanted, cache)
    _require_equal_length(spec, stored)
    used = {name: array[: spec.limit] for name, array in stored.items()}
    arrays = {name: used[source] for name, source in inputs.items()}
    return arrays, used[label] if label else None, content


def _input_arrays(spec: SplitSpec, present: tuple[str, ...], label: str | None) -> dict[str, str]:
    """{model input: array}; the array's own name stands for an input that the study does not name."""
    if isinstance(spec.inputs, Mapping):
        return dict(spec.inputs)
    if isinstance(spec.inputs, str):
        return {spec.inputs: spec.inputs}
    if spec.inputs is not None:
        return {name: name for name in spec.inputs}
    others = [name for name in present if name != label]
    if "x" in present or len(others) != 1:
        return {"x": "x"}
    return {others[0]: others[0]}


def _require_equal_length(spec: SplitSpec, arrays: Mapping[str, NDArray[Any]]) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    lengths = {shape[0] if shape else 0 for shape in shapes.values()}
    if len(lengths) != 1 or 0 in lengths:
        found = ", ".join(f"{name} of shape {list(shape)}" for name, shape in shapes.items())
        raise SpecError([spec.problem("npz", found, "arrays with one first dimension, the samples, and at least one sample")])


def _check_preprocess(spec: SplitSpec, preprocess: PreprocessSpec | None, arrays: Mapping[str, NDArray[Any]]) -> None:
    """mean and std have one number, or one per channel; resize and crop are for image folders."""
    if preprocess is None:
        return
    faults: list[SpecProblem] = []
    for key in ("resize", "crop"):
        if spec.npz is not None and getattr(preprocess, key) is not None:
            faults.append(preprocess.problem(key, "it with an .npz file", f"{key} with an image folder only"))
    for name, array in arrays.items():
        channels = array.shape[-1] if array.ndim > 1 else 1
        for key in ("mean", "std"):
            n = len(getattr(preprocess, key))
            if n not in (1, channels):
                allowed = f"one number, or one for each of the {channels} channels of {name} (its last axis)"
                faults.append(preprocess.problem(key, f"{n} numbers", allowed))
    if faults:
        raise SpecError(faults)
