"""What a data path holds, as far as can be told without being told: the splits, and what the samples look like."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_VALIDATION = ("val", "validation", "valid", "test", "dev")
_CALIBRATION = ("calib", "calibration", "cal")
_TRAIN = ("train", "training")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")

_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundData:
    """`splits`: name of the section (validation, calibration, train) → its keys. `doubts`: what the user must look at.

    `shape` and `dtype` of one sample as stored; None if unknown. `arrays`: name → dtype of an archive's arrays, labels apart.
    """

    splits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    arrays: Mapping[str, str] = field(default_factory=dict)
    is_images: bool = False
    doubts: tuple[str, ...] = ()


def discovered_data(data: Path, shown_as: Callable[[Path], str]) -> FoundData:
    """The data at `data`: an .npz file, a folder of them, or a folder with a CSV and images. `shown_as` writes a path.

    Raises FileNotFoundError naming what would do.
    """
    if data.is_file() and data.suffix == ".npz":
        return _archives({"validation": data}, shown_as)
    if data.is_dir():
        archives = {path.stem.lower(): path for path in sorted(data.glob("*.npz"))}
        roles = {"validation": _VALIDATION, "calibration": _CALIBRATION, "train": _TRAIN}
        found = {role: archives[n] for role, names in roles.items() if (n := _first(names, tuple(archives))) is not None}
        if "validation" in found:
            return _archives(found, shown_as)
        if (data / "labels.csv").is_file():
            return _image_folder(data, data / "labels.csv", shown_as)
    raise FileNotFoundError(
        f"{data} holds no data in a known form; wanted: an .npz file with x and y, a folder with val.npz (and calib.npz), "
        "or a folder with labels.csv (file,label[,split]) and images"
    )


def _first(wanted: tuple[str, ...], present: tuple[str, ...]) -> str | None:
    return next((name for name in wanted if name in present), None)


def _archives(paths: Mapping[str, Path], shown_as: Callable[[Path], str]) -> FoundData:
    splits: dict[str, dict[str, str]] = {}
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    arrays: dict[str, str] = {}
    for role, path in paths.items():
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            label = _first(("y", "labels", "label", "targets"), tuple(names))
            others = [name for name in names if name != label]
            source = "x" if "x" in others else others[0] if others else "x"
            splits[role] = {"npz": shown_as(path), "inputs": source, **({"labels": label} if label else {})}
            if role == "validation":
                shape, dtype = archive[source].shape[1:], archive[source].dtype.name
                arrays = {name: archive[name].dtype.name for name in others}
    return FoundData(splits=splits, shape=shape, dtype=dtype, arrays=arrays)


def _image_folder(folder: Path, labels: Path, shown_as: Callable[[Path], str]) -> FoundData:
    with labels.open(encoding="utf-8-sig", newline="") as handle:
        rows = list(csv.DictReader(handle, restval=""))
    name = rows[0].get("file", "") if rows else ""
    images = next((sub for sub in (folder / "images", folder) if name and (sub / name).is_file()), folder / "images")
    keys = {"images": shown_as(images), "labels": shown_as(labels)}
    present = tuple(dict.fromkeys(row["split"].strip() for row in rows)) if rows and "split" in rows[0] else ()
    splits: dict[str, dict[str, str]] = {}
    for role, names in (("validation", _VALIDATION), ("calibration", _CALIBRATION), ("train", _TRAIN)):
        if (split := _first(names, present)) is not None:
            splits[role] = {**keys, "split": split}
    doubts = []
    if "validation" not in splits:
        splits = {"validation": keys}
        doubts.append(f"labels.csv names no split called val ({', '.join(present) or 'no column split'}); all rows are taken")
    return FoundData(splits=splits, shape=_image_shape(images / name), dtype="uint8", is_images=True, doubts=tuple(doubts))


def _image_shape(path: Path) -> tuple[int, ...] | None:
    """(height, width, 3) from the header of an image, or None."""
    if path.suffix.lower() not in _IMAGE_SUFFIXES or not path.is_file():
        return None
    from PIL import Image

    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            return (image.height, image.width, 3)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
