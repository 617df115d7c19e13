"""How many rows fit into memory at once, found out by what did not; remembered by the worker."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")  # of a CPU, in a RuntimeError

Result = TypeVar("Result")

# What this worker has found: of a model, its input, its numbers and a device, the most rows.
_known: dict[Hashable, int] = {}


class Fits:
    """The most rows of a model that are computed at once.

    Args:
        model: What is computed, on its device.
        kind: Equal for models that take as much memory (`kind`).

    Attributes:
        rows: None while everything has fitted.
        normalizes: Whether rows of a batch depend on one another, by batch norm.
    """

    def __init__(self, model: nn.Module, kind: Hashable) -> None:
        self._key = kind
        self.normalizes = _normalizes(model)
        self._fewest = 2 if self.normalizes else 1  # batch norm knows no spread of one row
        self.rows = _known.get(self._key)

    def parts(self, rows: int) -> int:
        """In how many parts so many rows are computed."""
        if self.rows is None:
            return 1
        return max(1, min(-(-rows // self.rows), rows // self._fewest))

    def at_once(self, rows: int) -> int:
        """How many are computed at a time, of so many."""
        return -(-rows // self.parts(rows))

    def halving(
        self,
        rows: int,
        compute: Callable[[], Result],
        undo: Callable[[], None] | None = None,
    ) -> Result:
        """What `compute` returns, which takes `parts` of so many rows; called again, after `undo`,
        with parts half as large, as often as memory is short.

        Raises:
            RuntimeError: Memory is short for the fewest rows, or something else is wrong.
        """
        while True:
            parts = 2 * self.parts(rows)  # of the next try
            try:
                return compute()
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not is_out_of_memory(error) or rows // parts < self._fewest:
                    raise
            # Out here nothing holds what was computed any more, as the error would.
            torch.cuda.empty_cache()
            if undo is not None:
                undo()
            self.rows = _known[self._key] = -(-rows // parts)


def kind(model: nn.Module, shape: Sequence[int], *use: Hashable) -> Hashable:
    """Equal for models on one device that are computed alike.

    Args:
        shape: Of a row of their inputs.
        use: What else decides how they are computed, such as the precision.
    """
    parameters = list(model.parameters())
    sizes = tuple(parameter.shape for parameter in parameters)
    return (repr(model), sizes, tuple(shape), parameters[0].device, *use)


class Before:
    """What a pass over rows moves beside the gradients, as it is now: statistics, randomness."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._saved = [buffer.clone() for buffer in self._buffers]
        self._random = torch.get_rng_state()
        on_gpu = next(model.parameters()).is_cuda
        self._random_gpu: Tensor | None = torch.cuda.get_rng_state() if on_gpu else None

    @torch.no_grad()
    def restore(self) -> None:
        for buffer, as_it_was in zip(self._buffers, self._saved, strict=True):
            buffer.copy_(as_it_was)
        torch.set_rng_state(self._random)
        if self._random_gpu is not None:
            torch.cuda.set_rng_state(self._random_gpu)


def _normalizes(model: nn.Module) -> bool:
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in OUT_OF_MEMORY
    )
