"""The data of a study as a trainer sees it: a few tensors and the rows of each split.

The test split is not in here: whatever a trainer does, it cannot look at it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from trainers.metrics import Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from trainers.augment import Drawn
    from trainers.options import Resize

# Data above this share of a GPU's free memory stays in main memory; models need the rest.
DEVICE_SHARE = 0.5
# Up to so many numbers (16 MB) are standardized once, not each time that a row is used.
STANDARDIZED_NUMBERS = 2**22
TOKEN_NUMBERS = 512  # that a model makes of a token, about: where numbers bound what is held

# `trainers.data.encode.Encoding.plain` of columns, `trainers.data.tokens.Tokens.plain` of texts.
Encoded = Sequence[Mapping[str, Any]] | Mapping[str, Any]


class PixelForm(NamedTuple):
    """How images are given to a model.

    Attributes:
        shape: (channels, height, width).
        white: What a white pixel is.
        resize: How those of another shape are brought to it (`trainers.data.decode.Form`).
    """

    shape: tuple[int, ...]
    white: int
    resize: Resize


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows to validate on, and what was learned from the former alone.

    Attributes:
        inputs: (N, C, H, W) uint8 images, or (N, F) float32 columns or (N, L) int32 token ids,
            encoded for this split. Where `target` is, or in main memory when that device has no
            room for it.
        target: (N,) int64 classes, or float32 values.
        train: (n,) int64 rows of `inputs`, ascending, in main memory.
        validation: (m,) int64 rows of `inputs`, ascending, in main memory.
        mean: (C, 1, 1) float32, what is taken off each channel of images; None for columns.
        std: (C, 1, 1) float32, by what it is then divided, above 0.
        target_mean: Of the training targets; 0 for classes.
        target_std: Likewise, above 0; 1 for classes.
        encoding: How columns became numbers, or texts token ids; None for images.
        seen: (F,) float32, 1 for the columns that a model may look at and 0 for the others; None:
            all.
        groups: (N,) int64, of each row the number of its group, in main memory: whatever divides
            the training rows again keeps a group together; None: each row is for itself.
        white: What a white pixel is, of images.
    """

    inputs: Tensor
    target: Tensor
    train: Tensor
    validation: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None
    target_mean: float = 0.0
    target_std: float = 1.0
    encoding: Encoded | None = field(default=None, repr=False, compare=False)
    seen: Tensor | None = None
    groups: Tensor | None = None
    white: int = 255

    def batch(self, rows: Tensor, drawn: Drawn | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and targets of `rows`, on the device of `target`.

        Inputs are float32 and standardized; token ids are as they are.

        Args:
            rows: (B,) int64 rows of `inputs`, in main memory.
            drawn: What happens to each of them, of images; None: they stay as they are.
        """
        device = self.target.device
        target = self.target.index_select(0, rows.to(device))
        if drawn is None and self._standardized is not None:
            return self._visible(self._standardized.index_select(0, rows.to(device))), target
        inputs = self.inputs[rows.to(self.inputs.device)]
        if inputs.device != device:
            inputs = inputs.pin_memory().to(device, non_blocking=True)
        if drawn is not None:
            inputs = drawn.before(inputs, self.white)
        if self.mean is not None and self.std is not None:
            inputs = inputs.float().sub_(self.mean).div_(self.std)
        if drawn is not None:
            inputs = drawn.after(inputs)
        return self._visible(inputs), target

    @property
    def row_numbers(self) -> int:
        """How many numbers a row is to a model; of a token those of its embedding, about."""
        return row_numbers(self.inputs.shape[1:], self.inputs.dtype == torch.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row. A table's splits may know different categories, and so differ in it."""
        return tuple(self.inputs.shape[1:])

    def _visible(self, inputs: Tensor) -> Tensor:
        return inputs if self.seen is None else inputs * self.seen

    @cached_property
    def _standardized(self) -> Tensor | None:
        """All inputs as `batch` gives them, where they are small and on the device; else None."""
        if self.inputs.numel() > STANDARDIZED_NUMBERS or self.inputs.device != self.target.device:
            return None
        if self.mean is None or self.std is None:
            return self.inputs
        return self.inputs.float().sub_(self.mean).div_(self.std)

    def to(self, device: torch.device, inputs: Tensor) -> Split:
        return replace(
            self,
            inputs=inputs,
            target=self.target.to(device),
            mean=None if self.mean is None else self.mean.to(device),
            std=None if self.std is None else self.std.to(device),
        )


def row_numbers(shape: Sequence[int], of_tokens: bool) -> int:
    """How many numbers an input of `shape` is to a model."""
    return math.prod(shape) * (TOKEN_NUMBERS if of_tokens else 1)


@dataclass(frozen=True)
class Dataset:
    """Training and validation rows, loaded once per worker.

    Attributes:
        kind: What the rows are.
        task: What is predicted.
        classes: The names of the classes in the order of their numbers; None for regression.
        ids: (N,) int64, the number of each row in the source, before splitting.
        splits: One, or one a fold.
        summary: For the record, as JSON has it: source, task, rows, train, validation, test,
            classes, class_counts (of all rows), shape (of one row), fingerprint (sha256 of the
            source's content), metrics (what a built-in trainer reports), skipped (bad files),
            report (`trainers.data.cleaning`).
        originals: Of a table or texts, those rows as they are in the source that are to be shown
            as examples (`trainers.data.examples`), or None.
    """

    kind: Literal["images", "table", "text"]
    task: Task
    classes: tuple[str, ...] | None
    ids: Tensor
    splits: tuple[Split, ...]
    summary: Mapping[str, Any]
    originals: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    _elsewhere: dict[str, Dataset] = field(default_factory=dict, repr=False, compare=False)

    @property
    def inputs(self) -> Tensor:
        """Of the first split: (N, C, H, W) uint8 images, (N, F) float32 columns or (N, L) int32
        token ids."""
        return self.splits[0].inputs

    @property
    def target(self) -> Tensor:
        """(N,) int64 classes or float32 values."""
        return self.splits[0].target

    @property
    def white(self) -> int:
        """What a white pixel is, of images."""
        return self.splits[0].white

    @property
    def train(self) -> Tensor:
        """Rows to train on, in the first split."""
        return self.splits[0].train

    @property
    def validation(self) -> Tensor:
        """Rows to validate on, in the first split."""
        return self.splits[0].validation

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one row: (channels, height, width), (columns,) or (tokens,)."""
        return tuple(self.inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """What a model must put out: a number a class, or one."""
        return 1 if self.classes is None else len(self.classes)

    def arrays(self, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of `rows` of the first split, for libraries that take NumPy.

        Returns:
            (B, …) float32, standardized by the training rows; (B,) int64 or float32.
        """
        inputs, target = self.splits[0].batch(rows)
        return inputs.cpu().numpy(), target.cpu().numpy()

    def to(self, device: str) -> Dataset:
        """The same data on `device`, moved there once.

        What is larger than half of a GPU's free memory stays in main memory, from where each
        batch is copied.
        """
        if torch.device(device).type == "cpu":
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = self._moved(torch.device(device))
        return self._elsewhere[device]

    def _moved(self, device: torch.device) -> Dataset:
        distinct = {id(split.inputs): split.inputs for split in self.splits}
        size_bytes = sum(inputs.nbytes for inputs in distinct.values())
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        # A worker that shares the GPU may not take more than its share.
        share = torch.cuda.get_per_process_memory_fraction()
        free_bytes = min(free_bytes, int(share * total_bytes))
        if size_bytes <= DEVICE_SHARE * free_bytes:
            distinct = {key: inputs.to(device) for key, inputs in distinct.items()}
        splits = tuple(split.to(device, distinct[id(split.inputs)]) for split in self.splits)
        return replace(self, splits=splits, _elsewhere={})
