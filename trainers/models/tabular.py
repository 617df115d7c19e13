"""Networks for the columns of a table, beside the mlp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainers.models.columns import Layout
from trainers.models.mlp import hidden_layers

if TYPE_CHECKING:
    from torch import nn


def residual_mlp(
    model: Mapping[str, Any], shape: tuple[int, ...], outputs: int, _: Any = None
) -> nn.Module:
    """A linear layer, residual blocks, then batch norm, ReLU and a linear layer: the ResNet of
    Gorishniy et al. (2021), see `trainers.models.modules.RowBlock`."""
    from torch import nn

    from trainers.models.modules import RowBlock

    width = model["width"]
    return nn.Sequential(
        nn.Linear(shape[0], width),
        *(RowBlock(width, model["dropout"]) for _ in range(model["blocks"])),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


def embedding_mlp(
    model: Mapping[str, Any],
    shape: tuple[int, ...],
    outputs: int,
    encoding: Sequence[Mapping[str, Any]] | None = None,
) -> nn.Module:
    """An mlp on vectors that stand for what is in each column: see
    `trainers.models.modules.Embeddings`."""
    from torch import nn

    from trainers.models.modules import Embeddings

    numbers = Layout(tuple(range(shape[0])))
    embeddings = Embeddings(
        numbers if encoding is None else Layout.of(encoding),
        model["embedding"],
        model["frequencies"],
        model["frequency_scale"],
    )
    layers, width = hidden_layers(embeddings.outputs, model["hidden"], model["dropout"])
    return nn.Sequential(embeddings, *layers, nn.Linear(width, outputs))
