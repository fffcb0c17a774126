"""The CSV that names images and their labels: file,label[,split]."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from autotune.errors import SpecError, SpecProblem
from autotune.spec.model import SplitSpec
from autotune.spec.paths import located
from autotune.spec.positions import shown

MAX_TOLD = 20
"""Faults of single rows or images that a message lists; a wrong folder would give one per image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Image files in the order of the CSV. `names` as written there; `labels`: int64 (n,), None where the CSV has none."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64] | None


def read_listing(split: SplitSpec) -> Listing:
    """The rows of the split, every file found inside the folder. Raises SpecError naming the rows that are wrong."""
    if split.images is None or not isinstance(split.labels, Path):
        raise ValueError("the split has no image folder with a CSV")
    rows, columns = _rows(split, split.labels)
    has_labels = "label" in columns and any(row["label"].strip() for _, row in rows)
    root = split.images.resolve()
    faults: list[SpecProblem] = []
    paths: list[Path] = []
    labels: list[int] = []
    for line, row in rows:
        where = f"{split.labels.name} line {line}: "
        path = _path_inside(root, row["file"])
        if isinstance(path, str):
            faults.append(split.problem("images", f"{where}{shown(row['file'])}, {path}", f"a file inside {split.images}"))
        else:
            paths.append(path)
        if has_labels:
            label = _integer(row["label"])
            if label is None:
                faults.append(split.problem("labels", f"{where}the label {shown(row['label'])}", "an integer class number"))
            else:
                labels.append(label)
    if faults:
        raise SpecError(told(faults))
    names = tuple(row["file"] for _, row in rows)
    return Listing(names=names, paths=tuple(paths), labels=np.asarray(labels, dtype=np.int64) if has_labels else None)


def listed_columns(split: SplitSpec) -> tuple[str, ...]:
    """The columns of the split's CSV, which was read before."""
    return _rows(split, split.labels)[1] if isinstance(split.labels, Path) else ()


def told(faults: list[SpecProblem]) -> list[SpecProblem]:
    """The first faults, the last of which says how many more there are."""
    if len(faults) <= MAX_TOLD:
        return faults
    last = faults[MAX_TOLD]
    more = f"{last.found}, and {len(faults) - MAX_TOLD - 1} more faults like these"
    rest = SpecProblem(key=last.key, found=more, allowed=last.allowed, file=last.file, line=last.line)
    return [*faults[:MAX_TOLD], rest]


def _rows(split: SplitSpec, path: Path) -> tuple[list[tuple[int, dict[str, str]]], tuple[str, ...]]:
    """(line, row) of the split's rows, at most `limit`, and the columns of the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, restval="", strict=True)
            columns = tuple(reader.fieldnames or ())
            every = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        found = f"{path.name}, which cannot be read ({exc})"
        raise SpecError([split.problem("labels", found, "a CSV file in UTF-8 with the columns file,label[,split]")]) from exc
    needed = ("file", "split") if split.split is not None else ("file",)
    if missing := [name for name in needed if name not in columns]:
        found = f"{path.name} with the columns {', '.join(columns) or 'none'}"
        raise SpecError([split.problem("labels", found, f"a CSV with the column {' and '.join(missing)}, in its first line")])
    rows = [(line, row) for line, row in every if split.split is None or row["split"].strip() == split.split]
    if not rows:
        values = sorted({row["split"].strip() for _, row in every})[:MAX_TOLD] if split.split is not None else []
        allowed = f"one of the file's splits: {', '.join(values)}" if values else "at least one row"
        key = "labels" if split.split is None or not every else "split"
        raise SpecError([split.problem(key, f"no row with split {shown(split.split)} in {path.name}", allowed)])
    return rows[: split.limit], columns


def _path_inside(root: Path, name: str) -> Path | str:
    """The file `name` in `root`, or what is wrong with it. Links may not lead out: a CSV from elsewhere could name any file."""
    relative = PurePosixPath(name)
    if not name.strip() or name.startswith("~") or relative.is_absolute() or ".." in relative.parts:
        return "which is not a path inside the folder"
    path = located(name, root)
    if path is None:
        return "which no file can be called"
    if not path.is_relative_to(root):
        return "a link that leads out of the folder"
    return path if path.is_file() else "which is not there"


def _integer(text: str) -> int | None:
    try:
        value = int(text)
    except ValueError:
        return None
    return value if -(2**63) <= value < 2**63 else None
