"""Trained models with real labelled data, where the shared data are present: ResNet-20, DS-CNN and MobileNetV2."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.data.dataset import Dataset

SHARED = Path(__file__).parents[4] / "shared" / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class RealModel:
    """An ONNX file with calibration samples and labelled validation samples."""

    path: Path
    calibration: Dataset
    validation: Dataset

    @property
    def labels(self) -> NDArray:
        assert self.validation.labels is not None
        return self.validation.labels


def real_model(name: str, n_validation: int) -> RealModel:
    """`name`: resnet20, ds_cnn or mobilenet_v2. The test is skipped with the reason where there are no shared data."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    return _loaded(name, n_validation)


@cache
def _loaded(name: str, n_validation: int) -> RealModel:
    read = {"resnet20": _cifar, "ds_cnn": _keywords, "mobilenet_v2": _photos}[name]
    files = {
        "resnet20": "cifar10/resnet20_cifar10",
        "ds_cnn": "kws/ds_cnn_kws",
        "mobilenet_v2": "imagenet/mobilenet_v2_1.0_224",
    }
    splits = {}
    for split, n in (("calib", 64), ("val", n_validation)):
        inputs, labels = read(split, n)
        splits[split] = Dataset(arrays={"input": inputs}, labels=labels, preprocess=None, digest=f"{name}-{split}-{n}")
    return RealModel(path=SHARED / f"{files[name]}.onnx", calibration=splits["calib"], validation=splits["val"])


def _spread(count: int, n: int) -> NDArray[np.intp]:
    """n of `count` samples, evenly spread: the files are sorted by label."""
    return np.linspace(0, count - 1, min(n, count)).round().astype(np.intp)


def _cifar(split: str, n: int) -> tuple[NDArray, NDArray]:
    stored = np.load(SHARED / f"cifar10/{split}.npz", allow_pickle=False)
    chosen = _spread(len(stored["x"]), n)
    scaled = stored["x"][chosen].astype(np.float32) / 255
    normal = (scaled - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2)), stored["y"][chosen]


def _keywords(split: str, n: int) -> tuple[NDArray, NDArray]:
    stored = np.load(SHARED / f"kws/{split}.npz", allow_pickle=False)
    chosen = _spread(len(stored["x"]), n)
    normal = (stored["x"][chosen].astype(np.float32) - 83) * np.float32(0.5847029)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2)), stored["y"][chosen]


def _photos(split: str, n: int) -> tuple[NDArray, NDArray]:
    from PIL import Image

    with (SHARED / "imagenet/labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    rows = [rows[i] for i in _spread(len(rows), n)]
    photos = [np.asarray(Image.open(SHARED / "imagenet/images" / row["file"]).convert("RGB")) for row in rows]
    normal = np.stack(photos).astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2)), np.array([int(row["label"]) for row in rows])
