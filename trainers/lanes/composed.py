"""Modules made of layers that have rules, as one layer of many models at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from trainers.lanes.layers import Layer, Pass


class Chain:
    """Layers one after another; of none, what changes nothing."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        for layer in self._layers:
            x = layer.forward(x, run)
        return x

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        through: Tensor | None = gradient
        for place in range(len(self._layers) - 1, -1, -1):
            assert through is not None
            through = self._layers[place].backward(through, further or place > 0)
        return through


class Sum:
    """What several layers make of the same activations, added up."""

    def __init__(self, branches: Sequence[Layer]) -> None:
        self._branches = branches

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        # A layer may change what it is given, and the next one needs it as it was.
        *others, last = self._branches
        total = [branch.forward(x.clone(), run) for branch in others]
        return sum(total, last.forward(x, run))

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        *others, last = self._branches
        found = [branch.backward(gradient.clone(), further) for branch in others]
        by_last = last.backward(gradient, further)
        if not further or by_last is None:
            return None
        return sum((each for each in found if each is not None), by_last)
