"""A trained model as plain values, and what it says of new rows.

What is kept of a trial is a dict of tensors, numbers, strings, lists and dicts, so that reading it
runs no code (``torch.load`` with ``weights_only=True``)::

    {
        "version": 1,
        "kind": "table",                # or "images", "text"
        "data": {…},                    # the section of the study file
        "task": "classification",       # or "multilabel", "regression"
        "classes": ["no", "yes"],       # or labels; None: a regression
        "shape": [13],                  # of one input, without the batch
        "white": 255,                   # what a white pixel is, of images
        "folds": [
            {
                "members": [{"model": {…}, "weights": {…}}, …],
                "how": "mean",                      # None: a single model
                "fitted": {},                       # what that way to combine needs
                "encoding": [{…}, …],               # of columns (`trainers.data.encode`), or
                                                    # {…} of texts (`trainers.data.tokens`)
                "mean": None, "std": None,          # of the channels of images
                "target_mean": 0.0, "target_std": 1.0,
            },
        ],
    }

A member has its ``model`` section and a ``state_dict`` of the module that
`trainers.models.build` makes of it; ``how`` and ``fitted`` are for `trainers.ensembles.combined`.
What a trial says is the mean of what its folds say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers import ensembles
from trainers.data.dataset import Dataset, Encoded, PixelForm, row_numbers
from trainers.metrics import Estimates, Labels, Predicted, Scores, Task, output
from trainers.models import build
from trainers.models.columns import Layout

if TYPE_CHECKING:
    import pandas as pd

    from trainers.data.encode import Encoding
    from trainers.data.tokens import Tokens

VERSION = 1
BATCH_NUMBERS = 2**20  # of inputs at once: bounds what a convolutional network holds in memory

Output = NDArray[np.float32]
Weights = Mapping[str, Tensor]


class NotAModel(ValueError):
    """What was read is not what `content` makes, or is of a later version."""


@dataclass(frozen=True)
class Predictors:
    """Who predicts in a fold.

    Attributes:
        each: Their ``model`` sections and state_dicts.
        how, fitted: As for `trainers.ensembles.combined`; None: there is one member.
    """

    each: Sequence[tuple[Mapping[str, Any], Weights]]
    how: str | None = None
    fitted: Mapping[str, Any] | None = None


def content(
    section: Mapping[str, Any], data: Dataset, folds: Sequence[Predictors]
) -> dict[str, Any]:
    """What is kept of a trial's models.

    Args:
        section: The trial's ``data`` section.
        folds: Of the first splits of the data.
    """
    return {
        "version": VERSION,
        "kind": data.kind,
        "data": section,
        "task": data.task,
        "classes": None if data.classes is None else list(data.classes),
        "shape": list(data.shape),
        "white": data.white,
        "folds": [
            {
                "members": [{"model": model, "weights": own} for model, own in members.each],
                "how": members.how,
                "fitted": members.fitted,
                "encoding": split.encoding,
                "mean": None if split.mean is None else split.mean.cpu(),
                "std": None if split.std is None else split.std.cpu(),
                "target_mean": split.target_mean,
                "target_std": split.target_std,
            }
            for split, members in zip(data.splits, folds, strict=False)
        ],
    }


class Rows(Protocol):
    """What is to be predicted; each fold of each model prepares it in its own way."""

    def __len__(self) -> int: ...

    def inputs(self, model: Model, fold: Fold, some: slice) -> Tensor:
        """(n, …) of some rows, as the fold's members take them."""


@dataclass(frozen=True)
class TableRows:
    """Rows of a table, with all columns that the models know."""

    frame: pd.DataFrame
    _encoded: dict[Encoding, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.frame)

    def inputs(self, model: Model, fold: Fold, some: slice) -> Tensor:
        encoding = fold.encoding
        assert encoding is not None
        if encoding not in self._encoded:
            self._encoded[encoding] = torch.from_numpy(encoding.encode(self.frame))
        return self._encoded[encoding][some]


@dataclass(frozen=True)
class TextRows:
    """Texts; one that is empty is taken for a word that nobody knows."""

    texts: Sequence[str]
    _encoded: dict[Fold, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.texts)

    def inputs(self, model: Model, fold: Fold, some: slice) -> Tensor:
        assert fold.tokens is not None
        if fold not in self._encoded:
            self._encoded[fold] = torch.from_numpy(fold.tokens.encode(self.texts))
        return self._encoded[fold][some]


@dataclass(frozen=True)
class PixelRows:
    """Images, in as many forms as the models take them.

    Attributes:
        pixels: Form → (N, C, H, W) uint8 images.
    """

    pixels: Mapping[PixelForm, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.pixels.values())))

    def inputs(self, model: Model, fold: Fold, some: slice) -> Tensor:
        assert fold.mean is not None
        assert fold.std is not None
        pixels = self.pixels[model.form][some]
        return pixels.float().sub_(fold.mean).div_(fold.std)


@dataclass(frozen=True, eq=False)
class Fold:
    """What was fitted to one part of the rows.

    Attributes:
        members: In evaluation mode.
        how, fitted: As for `trainers.ensembles.combined`; None: there is one member.
        encoding: Of columns; else None.
        tokens: Of texts; else None.
        mean, std: (C, 1, 1), of images; None for columns.
        target_mean, target_std: In whose units members of a regression say values.
    """

    members: Sequence[nn.Module]
    how: str | None
    fitted: Mapping[str, Any] | None
    encoding: Encoding | None
    tokens: Tokens | None
    mean: Tensor | None
    std: Tensor | None
    target_mean: float
    target_std: float

    @torch.no_grad()
    def output(self, inputs: Tensor, task: Task) -> Output:
        """(N, C) probabilities, or (N,) values."""
        said = [self._said(member(inputs), task) for member in self.members]
        together = said[0]
        if self.how is not None:
            together = ensembles.combined(said, self.how, self.fitted)
        return np.asarray(output(together).numpy(), np.float32)

    def _said(self, raw: Tensor, task: Task) -> Predicted:
        """Of rows whose targets nobody knows."""
        if task == "multilabel":
            return Labels(raw, torch.zeros_like(raw, dtype=torch.bool))
        if task == "regression":
            values = raw.squeeze(1) * self.target_std + self.target_mean
            return Estimates(values, torch.zeros_like(values), self.target_std)
        return Scores(raw, torch.zeros(len(raw), dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Model:
    """What a trial's best epoch says of new rows.

    Attributes:
        kind: What the rows are.
        data: The ``data`` section of the study file.
        task: What is predicted.
        classes: Their names, or those of the labels, in the order of their numbers; None for
            a regression.
        shape: Of one input: (channels, height, width), (columns,) or (tokens,).
        white: What a white pixel is, of images.
        folds: One, or one a fold of cross-validation.
    """

    kind: Literal["images", "table", "text"]
    data: Mapping[str, Any]
    task: Task
    classes: tuple[str, ...] | None
    shape: tuple[int, ...]
    white: int
    folds: Sequence[Fold]

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Model:
        """The model of what `content` made.

        Raises:
            NotAModel: It is something else.
        """
        version = kept.get("version")
        if version != VERSION:
            raise NotAModel(f"it is of version {version}; this hpo reads {VERSION}")
        try:
            shape, classes = tuple(kept["shape"]), kept["classes"]
            outputs = 1 if classes is None else len(classes)
            return cls(
                kept["kind"],
                kept["data"],
                # Files of before there were labels do not say it.
                kept.get("task", "regression" if classes is None else "classification"),
                None if classes is None else tuple(classes),
                shape,
                kept["white"],
                [_fold(each, shape, outputs) for each in kept["folds"]],
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())[:200]
            raise NotAModel(f"it is no model: {type(error).__name__}: {why}") from error

    @property
    def form(self) -> PixelForm:
        """How it takes images."""
        return PixelForm(self.shape, self.white, self.data.get("resize", "crop"))

    @cached_property
    def text_columns(self) -> frozenset[str]:
        """The columns of categories, or texts: a file's text is to be read as it is there."""
        if self.kind == "text":
            return frozenset(self.columns)
        encodings = [fold.encoding for fold in self.folds if fold.encoding is not None]
        return frozenset(name for encoding in encodings for name in encoding.text_columns)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs, in the order of the training data; none for images."""
        if self.kind == "text":
            return (self.data["text"] or "text",)
        encodings = [fold.encoding for fold in self.folds if fold.encoding is not None]
        return tuple(dict.fromkeys(c.name for each in encodings for c in each.columns))

    @property
    def targets(self) -> tuple[str, ...]:
        """The column that it predicts, or those of the labels; none for images."""
        if self.kind == "images":
            return ()
        if self.task == "multilabel":
            return tuple(self.data["target"])
        return (self.data["target"] or "target",)

    def output(self, rows: Rows) -> Output:
        """(N, C) or (N, L) probabilities, or (N,) values in the units of the target."""
        total = np.zeros((len(rows), *self._row), np.float64)
        for fold in self.folds:
            total += self.fold_output(fold, rows)
        return np.asarray(total / len(self.folds), np.float32)

    def fold_output(self, fold: Fold, rows: Rows) -> Output:
        """The same by one fold's models alone."""
        size = max(1, BATCH_NUMBERS // row_numbers(self.shape, self.kind == "text"))
        parts = [
            fold.output(rows.inputs(self, fold, slice(start, start + size)), self.task)
            for start in range(0, len(rows), size)
        ]
        return np.concatenate([np.zeros((0, *self._row), np.float32), *parts])

    @property
    def _row(self) -> tuple[int, ...]:
        return () if self.classes is None else (len(self.classes),)


def _fold(kept: Mapping[str, Any], shape: tuple[int, ...], outputs: int) -> Fold:
    encoding, tokens = None, None
    if isinstance(kept["encoding"], Mapping):
        from trainers.data.tokens import of

        tokens = of(kept["encoding"])
    elif kept["encoding"] is not None:
        from trainers.data.encode import Encoding

        encoding = Encoding.of(kept["encoding"])
        shape = (Layout.of(kept["encoding"]).inputs,)  # not the same in all folds
    return Fold(
        [_member(each, shape, outputs, kept["encoding"]) for each in kept["members"]],
        kept["how"],
        kept["fitted"],
        encoding,
        tokens,
        kept["mean"],
        kept["std"],
        kept["target_mean"],
        kept["target_std"],
    )


def _member(
    kept: Mapping[str, Any], shape: tuple[int, ...], outputs: int, encoding: Encoded | None
) -> nn.Module:
    # Its first weights are not needed: neither drawn in a way of its own nor read from a file.
    section = {**kept["model"], "init": "default", "weights": None}
    with torch.random.fork_rng(devices=()):
        module = build(section, shape, outputs, encoding)
    module.load_state_dict(kept["weights"])
    return module.eval()
