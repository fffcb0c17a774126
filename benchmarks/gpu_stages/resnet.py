"""ResNet-50 as everybody measures it: v1.5, with the stride in the 3×3 convolution. 25.6 M parameters, 4.1 G MACs at 224²."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Channels within, blocks, and the stride of the first block of each stage (He et al. 2015, table 1)."""
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1, and the way around."""

    def __init__(self, n_in: int, n_within: int, stride: int) -> None:
        super().__init__()
        n_out = n_within * _EXPANSION
        self.within = nn.Sequential(
            *_convolution(n_in, n_within, 1), nn.ReLU(),
            *_convolution(n_within, n_within, 3, stride), nn.ReLU(),
            *_convolution(n_within, n_out, 1),
        )  # fmt: skip
        same = stride == 1 and n_in == n_out
        self.around = nn.Identity() if same else nn.Sequential(*_convolution(n_in, n_out, 1, stride))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.within(x) + self.around(x))


def _convolution(n_in: int, n_out: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(n_out)


def resnet50() -> nn.Sequential:
    """1000 classes, weights as torch draws them, in training mode."""
    layers: list[nn.Module] = [*_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    n_in = 64
    for n_within, n_blocks, stride in _STAGES:
        for i in range(n_blocks):
            layers.append(Bottleneck(n_in, n_within, stride if i == 0 else 1))
            n_in = n_within * _EXPANSION
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, 1000))
