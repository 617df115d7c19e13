"""Exponential moving averages of a model's weights (EMA; Polyak and Juditsky 1992)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

Steps = TypeVar("Steps", float, Tensor)


def warmed(steps: Steps) -> Steps:
    """The most that may stay of an average at a step, so that it soon forgets its beginning.

    Args:
        steps: Made with this one.
    """
    return (1 + steps) / (10 + steps)


class Average:
    """The average of a module's parameters; its buffers are as they are.

    Attributes:
        values: A tensor a parameter.
        steps: How often it was updated.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters: list[Tensor] = list(model.parameters())
        self._decay = decay
        self.values = [p.detach().clone() for p in self._parameters]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move on by a step."""
        self.steps += 1
        decay = min(self._decay, warmed(float(self.steps)))
        torch._foreach_lerp_(self.values, self._parameters, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the averages meanwhile."""
        trained = [p.data for p in self._parameters]
        for parameter, value in zip(self._parameters, self.values, strict=True):
            parameter.data = value
        try:
            yield
        finally:
            for parameter, own in zip(self._parameters, trained, strict=True):
                parameter.data = own

    def load(self, values: list[Tensor], steps: int) -> None:
        """Go on from an earlier `values` and `steps`."""
        for own, saved in zip(self.values, values, strict=True):
            own.copy_(saved)
        self.steps = steps
