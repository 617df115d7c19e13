"""Fully connected layers, for tables and small images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def mlp(
    model: Mapping[str, Any], shape: tuple[int, ...], outputs: int, _: Any = None
) -> nn.Module:
    """Linear, ReLU and dropout for each width in ``model["hidden"]``, then a linear layer."""
    from torch import nn

    flat: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    layers, width = hidden_layers(math.prod(shape), model["hidden"], model["dropout"] or 0.0)
    return nn.Sequential(*flat, *layers, nn.Linear(width, outputs))


def hidden_layers(
    width: int, hidden: Sequence[int], dropout: float
) -> tuple[list[nn.Module], int]:
    """Linear, ReLU and dropout for each width in `hidden`; and the last of these widths."""
    from torch import nn

    layers: list[nn.Module] = []
    for wanted in hidden:
        # With dropout even if none is dropped: so models that differ in it have the same shape.
        layers += [nn.Linear(width, wanted), nn.ReLU(), nn.Dropout(dropout)]
        width = wanted
    return layers, width
