"""Trains a small network on scikit-learn's handwritten digits and writes what a study needs: the model and its labelled data.

    python examples/digits/make_model.py FOLDER

The 1,797 images are real scans (UCI, Alpaydin and Kaynak 1998), 8 by 8 pixels; they are enlarged to 32 by 32, so that the
network has work worth compressing. Writes model.onnx, train.npz (897 images), calib.npz (200 of them) and val.npz (900 that
were never trained on).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

SCALE, MEAN, STD = 1 / 255.0, 0.3, 0.35
N_TRAIN, N_CALIBRATION = 897, 200


def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All images as uint8 (n, 32, 32, 1) and their classes, in a fixed random order."""
    data = load_digits()
    images = torch.tensor(data.images[:, None] / 16.0, dtype=torch.float32)
    large = nn.functional.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False)
    order = np.random.default_rng(0).permutation(len(images))
    pixels = (large * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels[order], data.target[order].astype(np.int64)


def block(n_in: int, n_out: int, stride: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU."""
    return [nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]


def network() -> nn.Sequential:
    """Seven convolutions and a linear layer: 0.3 M parameters, 29 M multiply-accumulates per image."""
    layers = [
        *block(1, 32),
        *block(32, 32),
        *block(32, 64, 2),
        *block(64, 64),
        *block(64, 64),
        *block(64, 96, 2),
        *block(96, 96),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def train(model: nn.Module, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], epochs: int = 10) -> None:
    """The model has learned the samples, with shifts of up to two pixels as augmentation."""
    x = (torch.tensor(pixels).permute(0, 3, 1, 2).float() * SCALE - MEAN) / STD
    y = torch.tensor(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    batch = 64
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            dy, dx = (int(v) for v in torch.randint(-2, 3, (2,)))
            loss = nn.functional.cross_entropy(model(torch.roll(x[rows], (dy, dx), (2, 3))), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def export(model: nn.Module, path: Path) -> None:
    """The model as ONNX; the exporter folds batch norm into the convolutions."""
    torch.onnx.export(
        model, (torch.zeros(1, 1, 32, 32),), str(path), input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip


def main() -> None:
    """Writes the four files into the folder named on the command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    began = time.monotonic()
    pixels, labels = digits()
    model = network()
    train(model, pixels[:N_TRAIN], labels[:N_TRAIN])
    held_out = (torch.tensor(pixels[N_TRAIN:]).permute(0, 3, 1, 2).float() * SCALE - MEAN) / STD
    with torch.no_grad():
        accuracy = float((model(held_out).argmax(1) == torch.tensor(labels[N_TRAIN:])).float().mean())
    export(model, folder / "model.onnx")
    np.savez(folder / "train.npz", x=pixels[:N_TRAIN], y=labels[:N_TRAIN])
    np.savez(folder / "calib.npz", x=pixels[:N_CALIBRATION], y=labels[:N_CALIBRATION])
    np.savez(folder / "val.npz", x=pixels[N_TRAIN:], y=labels[N_TRAIN:])
    print(
        f"trained in {time.monotonic() - began:.0f} s: {accuracy:.2%} on {len(held_out)} images it has not seen",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
