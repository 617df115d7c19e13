"""A small convolutional network, for images from 8 × 8 up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def cnn(
    model: Mapping[str, Any], shape: tuple[int, ...], outputs: int, _: Any = None
) -> nn.Module:
    """Blocks of 3 × 3 convolution, batch norm, ReLU and 2 × 2 pooling; then the mean over what
    is left of the image, dropout, and a linear layer.

    Pooling stops when the image is 1 pixel high or wide, so any number of blocks fits any size.
    """
    from torch import nn

    layers: list[nn.Module] = []
    channels, smallest = shape[0], min(shape[1:])
    for width in model["channels"]:
        layers += [
            # No bias: batch norm would take it away again.
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        if smallest > 1:
            layers.append(nn.MaxPool2d(2))
            smallest //= 2
        channels = width
    # With dropout even if none is dropped: so models that differ in it have the same shape.
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(model["dropout"] or 0.0)]
    return nn.Sequential(*layers, nn.Linear(channels, outputs))
