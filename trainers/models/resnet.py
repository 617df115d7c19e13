"""Residual networks for small images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def resnet(
    model: Mapping[str, Any], shape: tuple[int, ...], outputs: int, _: Any = None
) -> nn.Module:
    """A 3 × 3 convolution, stages of residual blocks, then the mean over the image and a linear
    layer: what He et al. (2016) use on CIFAR-10 (`channels` 16, 32, 64; `blocks` (depth - 2) / 6).

    Each stage but the first halves height and width. With `stochastic_depth` p the last block is
    skipped with probability p in training, those before it with less, in proportion to their
    place.
    """
    from torch import nn

    from trainers.models.modules import ImageBlock

    stages, blocks = model["channels"], model["blocks"]
    skipped = model["stochastic_depth"] or 0.0
    channels = stages[0]
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]
    for stage, width in enumerate(stages):
        for block in range(blocks):
            share = (stage * blocks + block + 1) / (len(stages) * blocks)
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ImageBlock(channels, width, stride, skipped * share))
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(model["dropout"] or 0.0)]
    return nn.Sequential(*layers, nn.Linear(channels, outputs))
