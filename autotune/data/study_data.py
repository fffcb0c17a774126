"""StudyData: every split that a study names, bound to its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.cache import Cache
from autotune.data.binding import bind_inputs
from autotune.data.dataset import Dataset
from autotune.data.listing import listed_columns
from autotune.data.overlap import n_shared
from autotune.data.split import load_split
from autotune.errors import SpecError, SpecProblem
from autotune.spec.inputs import InputSpec
from autotune.spec.model import CLASS_METRICS, SplitSpec, StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyData:
    """`validation` has labels; `calibration` and `train` are there where the study names them.

    `notes`: what is allowed, and yet should be known.
    """

    validation: Dataset
    calibration: Dataset | None = None
    train: Dataset | None = None
    notes: tuple[str, ...] = ()


def load_study_data(spec: StudySpec, model_inputs: Sequence[InputSpec], cache: Cache) -> StudyData:
    """The study's data, ready for the model (`spec.check.check_model` gives its inputs).

    Raises SpecError with the faults of all splits, at the lines of the keys that name the files.
    """
    problems: list[SpecProblem] = []
    validation = _bound(spec, spec.data.validation, model_inputs, cache, problems)
    calibration = _bound(spec, spec.data.calibration, model_inputs, cache, problems)
    train = _bound(spec, spec.data.train, model_inputs, cache, problems)
    if validation is not None:
        problems.extend(_label_problems(spec, validation))
    if problems or validation is None:
        raise SpecError(problems)
    notes = (_overlap(name, other, validation, cache) for name, other in (("calibration", calibration), ("train", train)))
    return StudyData(validation=validation, calibration=calibration, train=train, notes=tuple(filter(None, notes)))


def _overlap(name: str, other: Dataset | None, validation: Dataset, cache: Cache) -> str:
    """What to know where samples that a candidate learns from are among those that judge it; nothing where there are none."""
    n = 0 if other is None else n_shared(validation, other, cache)
    if other is None or n == 0:
        return ""
    return (
        f"{n} of the {len(validation)} validation samples are in data.{name} as well: the accuracies of candidates that learnt "
        f"from them are too good. Disjoint splits measure what a deployment would see."
    )


def _without_labels(split: SplitSpec) -> SpecProblem:
    if split.images is None:
        found = f"no labels: {split.npz.name if split.npz else 'the archive'} has no array y, and none is named"
        return split.problem("labels", found, "the name of an array with a label for each sample: accuracy is measured on them")
    columns = listed_columns(split)
    why = "its column label is empty" if "label" in columns else f"its columns are {', '.join(columns)}"
    name = split.labels.name if isinstance(split.labels, Path) else "the CSV"
    allowed = "a CSV with the columns file,label[,split], and a class number in each row: accuracy is measured on them"
    return split.problem("labels", f"no labels in {name}: {why}", allowed)


def _bound(
    spec: StudySpec, split: SplitSpec | None, model_inputs: Sequence[InputSpec], cache: Cache, problems: list[SpecProblem]
) -> Dataset | None:
    if split is None:
        return None
    try:
        return bind_inputs(load_split(split, spec.data.preprocess, cache), model_inputs)
    except SpecError as exc:
        problems.extend(exc.problems)
        return None


def _label_problems(spec: StudySpec, dataset: Dataset) -> list[SpecProblem]:
    """Accuracy needs labels, and top-k needs one class number for each sample."""
    split, labels = spec.data.validation, dataset.labels
    if labels is None:
        return [_without_labels(split)]
    if spec.data.metric in CLASS_METRICS and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        found = f"labels of type {labels.dtype.name} and shape {list(labels.shape)}"
        return [split.problem("labels", found, f"one integer class number for each sample, for the metric {spec.data.metric}")]
    if spec.data.metric in CLASS_METRICS and len(labels) and labels.min() < 0:
        return [
            split.problem("labels", f"the label {labels.min()}", "class numbers from 0, in the order of the model's outputs")
        ]
    return []
