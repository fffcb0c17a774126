"""The models and the studies: ResNet-50 made here, MobileNetV2 as it is given."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.cli.running import checked_plan
from autotune.devices.gpu import select_gpu
from autotune.spec.load import load_spec
from autotune.spec.model import StudySpec
from autotune.spec.presets import preset_of_device
from autotune.study.plan import StudyPlan
from gpu_stages.bench import MOBILENET, Bench

_SIDE = 224
_N_IMAGES = 256
_COMMON = """\
device: cuda:0
{engines}load: {{window_s: {window_s}, min_windows: {min_windows}, max_s: {max_s}, warmup_s: {warmup_s}, precision: 0.01}}
budget: {{trials: {trials}}}
finalists: {finalists}
canary: off
limits: {{deadline_s: 240}}
storage: sqlite:///study.db
cache: {cache}
seed: 0
"""
_RESNET50 = """\
study: resnet50-random
model: {{path: resnet50.onnx}}
data:
  validation:  {{npz: images.npz, inputs: x, labels: y}}
  calibration: {{npz: images.npz, inputs: x, limit: 64}}
  metric: top1
space: {{extends: {preset}, pruning_ratio: 0.0}}
"""
_MOBILENET = """\
study: mobilenet-v2-gpu
model: {{path: {data}/{model}}}
data:
  validation:  {{images: {data}/images, labels: {data}/labels.csv, split: val}}
  calibration: {{images: {data}/images, labels: {data}/labels.csv, split: calib}}
  preprocess: {{scale: 0.00784313725, mean: [1, 1, 1], std: [1, 1, 1]}}
  metric: top1
space: {{extends: {preset}, pruning_ratio: 0.0}}
constraints: {{accuracy_drop: 0.01}}
"""


def resnet50_plan(bench: Bench) -> StudyPlan:
    """The study of ResNet-50 on this machine; its model and data are made where they are not there yet."""
    folder = bench.work / "resnet50"
    write_resnet50(folder)
    return _plan(bench, folder, _RESNET50, preset=_preset())


def mobilenet_plan(bench: Bench) -> StudyPlan:
    """The study of MobileNetV2 on the given images."""
    return _plan(bench, bench.work / "mobilenet", _MOBILENET, preset=_preset(), data=bench.data, model=MOBILENET)


def _preset() -> str:
    select_gpu("cuda")
    return preset_of_device("cuda:0")


def _plan(bench: Bench, folder: Path, text: str, **words: Any) -> StudyPlan:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(_filled(bench, text, **words))
    return checked_plan(str(folder / "study.yaml"))


def _filled(bench: Bench, text: str, **words: Any) -> str:
    load: dict[str, Any] = {"window_s": 0.3, "min_windows": 8, "max_s": 3, "warmup_s": 0.5}  # energy needs 2 s
    if bench.quick:
        load = {"window_s": 0.05, "min_windows": 5, "max_s": 0.3, "warmup_s": 0.1}
    engines = f"engines: [{', '.join(bench.engines)}]\n" if bench.engines else ""
    finalists = "off" if bench.quick else "{rounds: 2, at_most: 4, max_s: 60}"
    return (text + _COMMON).format(
        engines=engines, finalists=finalists, trials=bench.trials, cache=bench.work / "cache", **load, **words
    )


def study_texts(bench: Bench) -> dict[str, str]:
    """The studies as they would be written, with the preset of the largest GPUs; for a look at them without a GPU."""
    texts = {"resnet50": _filled(bench, _RESNET50, preset="h100")}
    if bench.data is not None:
        texts["mobilenet"] = _filled(bench, _MOBILENET, preset="h100", data=bench.data, model=MOBILENET)
    return texts


def loaded(text: str) -> StudySpec:
    """The study of this text. Raises SpecError where its keys or values are wrong; the files it names need not be there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        for name in ("resnet50.onnx", "images.npz"):
            (Path(folder) / name).touch()
        path.write_text(text)
        return load_spec(path)


def write_resnet50(folder: Path) -> None:
    """resnet50.onnx (random weights, batch dynamic) and images.npz, where they are not there.

    Batch normalization has seen three batches of the images, without which activations of random weights grow layer by layer
    until 16-bit formats overflow; and the last bias is set so that not every image is of the same class. Labels are the fp32
    model's own answers: "accuracy" is then how far a format agrees with fp32, on images of noise; it says nothing of ResNet-50.
    """
    if (folder / "images.npz").exists():
        return
    import torch

    from gpu_stages.resnet import resnet50

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = resnet50()
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((_N_IMAGES, 3, _SIDE, _SIDE), dtype=np.float32))
    with torch.inference_mode():
        for start in range(0, 48, 16):
            model.train()(images[start : start + 16])
        model.eval()
        answers = torch.cat([model(part) for part in images.split(32)])
        model[-1].bias -= answers.mean(0)
        labels = (answers - answers.mean(0)).argmax(1)
    torch.onnx.export(
        model,
        (images[:2],),
        str(folder / "resnet50.onnx"),
        dynamo=True,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        external_data=False,
    )
    write_images(folder, images.numpy(), labels.numpy())


def write_images(folder: Path, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """images.npz is there whole or not at all: a stage may be killed at any time, and the file says that all is made."""
    partial = folder / "images.partial.npz"
    np.savez(partial, x=images, y=labels)
    partial.replace(folder / "images.npz")
