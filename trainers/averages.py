"""Averages of a model's weights: exponential moving ones (EMA; Polyak and Juditsky 1992), and the
mean of the ends of epochs (SWA; Izmailov et al. 2018)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Steps = TypeVar("Steps", float, Tensor)


def warmed(steps: Steps) -> Steps:
    """The most that may stay of an average at a step, so that it soon forgets its beginning.

    Args:
        steps: Made with this one.
    """
    return (1 + steps) / (10 + steps)


class Average:
    """The average of a module's parameters; its buffers are as they are, until `normalize`.

    Attributes:
        values: A tensor a parameter.
        steps: How often it was updated; before the first time the module is as it is.
        statistics: Of batch norm with the averages; empty: as they are.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        """
        Args:
            decay: What stays of an exponential moving average at a step; None: it is a mean.
        """
        self._model, self._decay = model, decay
        self._parameters: list[Tensor] = list(model.parameters())
        self.values = [p.detach().clone() for p in self._parameters]
        self.steps = 0
        self.statistics: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Move on by a step."""
        self.steps += 1
        share = 1 / self.steps
        if self._decay is not None:
            share = 1 - min(self._decay, warmed(float(self.steps)))
        torch._foreach_lerp_(self.values, self._parameters, share)

    @torch.no_grad()
    def normalize(self, batches: Iterable[Tensor]) -> None:
        """Estimate batch norm's statistics for the averages: torch's ``update_bn``, but without
        dropout, as the model is when it is asked.

        Args:
            batches: Inputs.
        """
        norms = self._norms()
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        trained = [buffer.clone() for buffer in self._buffers()]
        self._model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # of all batches alike
        with self._exchanged():
            for batch in batches:
                self._model(batch)
        self.statistics = [buffer.clone() for buffer in self._buffers()]
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        _copy(self._buffers(), trained)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the averages meanwhile."""
        if self.steps == 0:
            yield
            return
        trained = [buffer.clone() for buffer in self._buffers()] if self.statistics else []
        if trained:
            _copy(self._buffers(), self.statistics)
        try:
            with self._exchanged():
                yield
        finally:
            if trained:
                _copy(self._buffers(), trained)

    @contextlib.contextmanager
    def _exchanged(self) -> Iterator[None]:
        """The parameters alone; copied, for they may be views of what several devices share."""
        trained = [p.detach().clone() for p in self._parameters]
        _copy(self._parameters, self.values)
        try:
            yield
        finally:
            _copy(self._parameters, trained)

    def _norms(self) -> list[_BatchNorm]:
        """The batch norms that learn; those that are frozen keep their statistics."""
        return [
            module
            for module in self._model.modules()
            if isinstance(module, _BatchNorm)
            and module.track_running_stats
            and (module.weight is None or module.weight.requires_grad)
        ]

    def _buffers(self) -> list[Tensor]:
        return [buffer for norm in self._norms() for buffer in norm.buffers()]

    def state(self) -> dict[str, object]:
        """For a checkpoint: refers to the live tensors."""
        return {"values": self.values, "steps": self.steps, "statistics": self.statistics}

    def load(self, values: list[Tensor], steps: int, statistics: list[Tensor]) -> None:
        """Go on from an earlier `state`."""
        _copy(self.values, values)
        self.steps, self.statistics = steps, list(statistics)


@torch.no_grad()
def _copy(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for own, value in zip(into, values, strict=True):
        own.copy_(value)
