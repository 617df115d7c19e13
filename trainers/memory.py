"""How many rows fit into memory at once, found out by what did not; remembered by the worker."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

# Of a CPU, in a RuntimeError; the last one is oneDNN's, which says no more.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "could not create a primitive")

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
    """

    def __init__(self, model: nn.Module, kind: Hashable) -> None:
        self._key = kind
        self._normalizes = _normalizes(model)
        self._fewest = 2 if self._normalizes else 1  # batch norm knows no spread of one row
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
            try:
                return compute()
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not is_out_of_memory(error) or not self.halve(rows):
                    raise
            # Out here nothing holds what was computed any more, as the error would.
            torch.cuda.empty_cache()
            if undo is not None:
                undo()

    def halve(self, rows: int) -> bool:
        """Compute so many rows in parts half as large from now on; False: they are the fewest."""
        parts = 2 * self.parts(rows)
        if rows // parts < self._fewest:
            return False
        self.rows = _known[self._key] = -(-rows // parts)
        return True

    def notes(self, rows: int) -> dict[str, str]:
        """Of batches of so many rows, see `trainers.contract.Epoch.notes`."""
        some = self.at_once(rows)
        if some == rows:
            return {}
        note = f"memory was short: {some} of the {rows} rows of a batch at once"
        if self._normalizes:
            note += f"; batch norm saw {some} rows at a time"
        return {"micro_batch": note}


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
    """What a pass over rows moves beside the gradients, as it was: statistics, randomness.

    Args:
        model: On its device.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._on_gpu = next(model.parameters()).is_cuda
        self.remember()

    def remember(self) -> None:
        """Keep what is now."""
        self._saved = [buffer.clone() for buffer in self._buffers]
        self._random = torch.get_rng_state()
        self._random_gpu: Tensor | None = torch.cuda.get_rng_state() if self._on_gpu else None

    @torch.no_grad()
    def restore(self) -> None:
        """Make it what it was."""
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
