"""Trains the models of the development tables on the digits of examples/digits and writes what their sweeps need.

    python benchmarks/sweeps/development/models.py FOLDER [NAME ...]

Six networks that differ from those of benchmarks/sweeps in kind or in width: a vision transformer, an inverted-residual
network with depthwise convolutions, a wide convolutional network of some milliseconds per image, a perceptron, a residual
network that is trained briefly, and inverted residuals on enlarged images that one scale per weight tensor ruins. Each gets a
folder of its own with model.onnx, train.npz, calib.npz and val.npz. They are there for choosing a search's settings, so that
others judge it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "digits"))
from make_model import MEAN, N_CALIBRATION, N_TRAIN, SCALE, STD, block, digits, export, train


class Transformer(nn.Module):
    """Patches of 4 by 4, two layers of four heads, width 64: 64 tokens, 0.1 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, 64, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, 10)."""
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.places
        found: torch.Tensor = self.head(self.layers(tokens).mean(1))
        return found


class Inverted(nn.Module):
    """An inverted residual: 1×1 to four times the width, depthwise 3×3, 1×1 back (Sandler et al. 2018)."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1, activation: type[nn.Module] = nn.ReLU6) -> None:
        super().__init__()
        wide = 4 * n_in
        self.body = nn.Sequential(
            nn.Conv2d(n_in, wide, 1, bias=False), nn.BatchNorm2d(wide), activation(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation(),
            nn.Conv2d(wide, n_out, 1, bias=False), nn.BatchNorm2d(n_out),
        )  # fmt: skip
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (n, n_out, h / stride, w / stride)."""
        found: torch.Tensor = x + self.body(x) if self.adds else self.body(x)
        return found


class Residual(nn.Module):
    """Two 3×3 convolutions beside the identity, or beside a 1×1 convolution where the width changes (He et al. 2015)."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        convolution = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.body = nn.Sequential(*block(n_in, n_out, stride), convolution, nn.BatchNorm2d(n_out))
        same = stride == 1 and n_in == n_out
        self.beside = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (n, n_out, h / stride, w / stride)."""
        found: torch.Tensor = torch.relu(self.beside(x) + self.body(x))
        return found


def _residual() -> nn.Module:
    steps = [Residual(24, 24), Residual(24, 48, 2), Residual(48, 48), Residual(48, 96, 2), Residual(96, 96)]
    return nn.Sequential(*block(1, 24), *steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def _depthwise() -> nn.Module:
    steps = [Inverted(24, 24), Inverted(24, 40, 2), Inverted(40, 40), Inverted(40, 64, 2), Inverted(64, 64)]
    return nn.Sequential(*block(1, 24), *steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def _uneven() -> nn.Module:
    steps = [(24, 32, 2), (32, 32, 1), (32, 48, 2), (48, 48, 1), (48, 48, 1), (48, 96, 2), (96, 96, 1), (96, 96, 1)]
    inverted = [Inverted(n_in, n_out, stride, nn.ReLU) for n_in, n_out, stride in steps]
    return nn.Sequential(
        nn.Upsample(scale_factor=4.0), *block(1, 24, 2), *inverted, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10)
    )


def _make_scales_uneven(model: nn.Module) -> None:
    """The weights of a few depthwise channels become _UNEVEN times as large and what they multiply as much smaller.

    The function stays the same, as ReLU is homogeneous; one scale for all of a tensor's weights leaves the other channels few
    steps, as in networks that were trained with ReLU6 (Nagel et al. 2019, section 3.1). The channels are those that the next
    batch norm makes least of.
    """
    for step in model.modules():
        if isinstance(step, Inverted):
            before, depthwise, after = step.body[1], step.body[3], step.body[4]
            few = torch.argsort(after.weight.abs())[: len(after.weight) // 16]
            with torch.no_grad():
                before.weight[few] /= _UNEVEN
                before.bias[few] /= _UNEVEN
                depthwise.weight[few] *= _UNEVEN


def _wide() -> nn.Module:
    layers = [*block(1, 64), *block(64, 64), *block(64, 128), *block(128, 128, 2), *block(128, 256), *block(256, 256, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def _perceptron() -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers)


def _leave(model: nn.Module) -> None:
    """The trained network is the model."""


MODELS: dict[str, tuple[Callable[[], nn.Module], int, Callable[[nn.Module], None]]] = {
    "transformer": (Transformer, 30, _leave),
    "depthwise": (_depthwise, 12, _leave),
    "wide": (_wide, 3, _leave),
    "perceptron": (_perceptron, 20, _leave),
    "residual": (_residual, 4, _leave),
    "uneven": (_uneven, 5, _make_scales_uneven),
}
"""By name, what makes the network, for how many epochs it is trained, and what is done to it then."""
_UNEVEN = 64.0


def make(folder: Path, name: str) -> float:
    """The share of right answers on the 900 images of val.npz, which were never trained on."""
    network, epochs, finish = MODELS[name]
    torch.manual_seed(0)
    pixels, labels = digits()
    model = network()
    train(model, pixels[:N_TRAIN], labels[:N_TRAIN], epochs)
    finish(model)
    held_out = (torch.tensor(pixels[N_TRAIN:]).permute(0, 3, 1, 2).float() * SCALE - MEAN) / STD
    with torch.no_grad():
        answers = torch.cat([model(some).argmax(1) for some in held_out.split(100)])
    folder.mkdir(parents=True, exist_ok=True)
    export(model, folder / "model.onnx")
    np.savez(folder / "train.npz", x=pixels[:N_TRAIN], y=labels[:N_TRAIN])
    np.savez(folder / "calib.npz", x=pixels[:N_CALIBRATION], y=labels[:N_CALIBRATION])
    np.savez(folder / "val.npz", x=pixels[N_TRAIN:], y=labels[N_TRAIN:])
    return float((answers == torch.tensor(labels[N_TRAIN:])).float().mean())


def main() -> None:
    """Writes the models named on the command line, or all that are not there yet."""
    folder = Path(sys.argv[1])
    for name in sys.argv[2:] or [n for n in MODELS if not (folder / n / "val.npz").exists()]:
        began = time.monotonic()
        accuracy = make(folder / name, name)
        print(f"{name}: {accuracy:.2%} on images it has not seen, {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
