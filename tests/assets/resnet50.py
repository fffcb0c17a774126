"""ResNet-50 (He et al. 2015, table 1; the stride in the 3×3 convolution, as most frameworks have it), with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""Blocks, width of their 3×3 convolutions, stride of the first."""


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 and the way around them."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = 4 * width
        self.body = nn.Sequential(
            *_convolved(n_in, width, 1),
            nn.ReLU(),
            *_convolved(width, width, 3, stride),
            nn.ReLU(),
            *_convolved(width, n_out, 1),
        )
        self.around = nn.Identity() if n_in == n_out and stride == 1 else nn.Sequential(*_convolved(n_in, n_out, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.around(x))


def _convolved(n_in: int, n_out: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(n_out)


class ResNet50(nn.Module):
    """25.6 million parameters, 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolved(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        n_in = 64
        for n_blocks, width, stride in _STAGES:
            for i in range(n_blocks):
                blocks.append(Bottleneck(n_in, width, stride if i == 0 else 1))
                n_in = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def resnet50() -> nn.Module:
    """The network in eval mode, the same one each time."""
    torch.manual_seed(0)
    return ResNet50().eval()
