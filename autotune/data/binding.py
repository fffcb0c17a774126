"""bind_inputs: the arrays of a dataset become the inputs of a model, or the mismatch is told before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.data.dataset import Dataset
from autotune.errors import SpecError, SpecProblem
from autotune.spec.inputs import InputSpec

_ROWS_AT_ONCE = 4096


def bind_inputs(dataset: Dataset, model_inputs: Sequence[InputSpec]) -> Dataset:
    """The dataset whose arrays carry the model's input names, and whose batches have the model's dtypes and shapes.

    A single array goes to a model's only input whatever its name. Integers are widened, or narrowed when every value fits;
    floating point is converted. An integer is never taken for a float: without preprocessing nobody knows its scale.
    Raises SpecError with every mismatch, at the key that names the samples.
    """
    arrays = _named(dataset, model_inputs)
    bound = replace(dataset, arrays=arrays)
    samples = bound.batch(0, 1)
    problems: list[SpecProblem] = []
    casts: dict[str, str] = {}
    for wanted in model_inputs:
        sample = samples[wanted.name]
        if sample.dtype.name != wanted.dtype:
            if _casts_safely(sample.dtype, arrays[wanted.name], wanted.dtype):
                casts[wanted.name] = wanted.dtype
            else:
                problems.append(
                    _problem(dataset, f"values of type {sample.dtype.name}", wanted, _dtype_hint(dataset, sample.dtype))
                )
        if not _fits(sample.shape[1:], wanted.sample_shape):
            found = f"samples of shape {list(sample.shape[1:])} after preprocessing"
            problems.append(_problem(dataset, found, wanted, _shape_hint(sample.shape[1:], wanted.sample_shape)))
    if problems:
        raise SpecError(problems)
    return replace(bound, casts=casts)


def _named(dataset: Dataset, model_inputs: Sequence[InputSpec]) -> Mapping[str, NDArray[Any]]:
    names = [wanted.name for wanted in model_inputs]
    if len(names) == 1 and len(dataset.arrays) == 1:
        return {names[0]: next(iter(dataset.arrays.values()))}
    if set(names) == set(dataset.arrays):
        return {name: dataset.arrays[name] for name in names}
    found = f"arrays for {', '.join(dataset.arrays)}"
    allowed = f"one array for each input of the model: inputs: {{{', '.join(f'{name}: ARRAY' for name in names)}}}"
    raise SpecError([_at(dataset, "inputs", found, allowed)])


def _casts_safely(found: np.dtype[Any], array: NDArray[Any], wanted: str) -> bool:
    target = np.dtype(wanted)
    if found.kind == "f":
        return target.kind == "f"
    if found.kind in "iu" and target.kind in "iu":
        if np.can_cast(found, target, "safe"):
            return True
        bounds = np.iinfo(target)
        return all(
            bounds.min <= int(part.min()) and int(part.max()) <= bounds.max
            for part in (array[i : i + _ROWS_AT_ONCE] for i in range(0, len(array), _ROWS_AT_ONCE))
            if part.size
        )
    return found.kind == "b" and target.kind == "b"


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(want in (None, size) for size, want in zip(found, wanted, strict=True))


def _dtype_hint(dataset: Dataset, found: np.dtype[Any]) -> str:
    if dataset.preprocess is None and found.kind in "iu":
        return "give data.preprocess with scale, mean and std ({scale: 1} when the model takes these numbers as they are)"
    if dataset.preprocess is not None:
        return "leave data.preprocess out: it makes float32 of every array"
    return "store the array in the model's type"


def _shape_hint(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> str:
    if len(found) == 3 == len(wanted):
        if _fits((found[1], found[2], found[0]), wanted):
            return "data.preprocess.layout: NHWC"
        if _fits((found[2], found[0], found[1]), wanted):
            return "data.preprocess.layout: NCHW"
        return "data.preprocess.resize and crop for images, and the right layout"
    return "arrays of the model's shape"


def _problem(dataset: Dataset, found: str, wanted: InputSpec, hint: str) -> SpecProblem:
    source = dataset.source
    key = "" if source is None else "images" if source.images is not None else "npz"
    return _at(dataset, key, found, f"{wanted}; try: {hint}")


def _at(dataset: Dataset, key: str, found: str, allowed: str) -> SpecProblem:
    if dataset.source is None:
        return SpecProblem(key=f"data{'.' if key else ''}{key}", found=found, allowed=allowed)
    return dataset.source.problem(key, found, allowed)
