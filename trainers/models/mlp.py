"""Fully connected layers, for tables and small images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def mlp(model: Mapping[str, Any], shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Linear, ReLU and dropout for each width in ``model["hidden"]``, then a linear layer."""
    from torch import nn

    layers: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    width = math.prod(shape)
    for hidden in model["hidden"]:
        # With dropout even if none is dropped: so models that differ in it have the same shape.
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(model["dropout"])]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, outputs))
