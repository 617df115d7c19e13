"""Metrics: a table for classification and one for regression, computed where the outputs lie.

Each row is a function of what was predicted; what several of them need (probabilities, counts of
each class) is computed once. They equal scikit-learn's; where scikit-learn refuses (ROC-AUC
of a class that is missing from the targets) the mean is over the classes for which it is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Task = Literal["classification", "regression"]


@dataclass
class Scores:
    """What a classifier said.

    Attributes:
        logits: (N, C) float32.
        target: (N,) int64 in [0, C).
    """

    logits: Tensor
    target: Tensor

    @cached_property
    def probabilities(self) -> Tensor:
        """(N, C)"""
        return self.logits.softmax(1)

    @cached_property
    def right(self) -> Tensor:
        """(C,) float64: how many of each class were recognized."""
        hit = (self.logits.argmax(1) == self.target).double()
        return self.target.bincount(hit, minlength=self.logits.shape[1])

    @cached_property
    def wanted(self) -> Tensor:
        """(C,) float64: how many there are of each class."""
        return self.target.bincount(minlength=self.logits.shape[1]).double()

    @cached_property
    def named(self) -> Tensor:
        """(C,) float64: how often each class was predicted, plus how many there are of it."""
        return self.logits.argmax(1).bincount(minlength=self.logits.shape[1]) + self.wanted

    @cached_property
    def f1_per_class(self) -> Tensor:
        """(C,), 0 for a class neither targeted nor predicted."""
        return 2 * self.right / self.named.clamp(min=1)


@dataclass
class Estimates:
    """What a regression said, in the units of the target.

    Attributes:
        output: (N,) float32.
        target: (N,) float32.
        unit: The standard deviation of the target in training; the loss is in units of it.
    """

    output: Tensor
    target: Tensor
    unit: float

    @cached_property
    def squared_error(self) -> Tensor:
        """The mean."""
        return (self.output - self.target).double().square().mean()


Predicted = TypeVar("Predicted", Scores, Estimates)


@dataclass(frozen=True)
class Metric(Generic[Predicted]):
    """A row of the table: the function (→ a tensor of one number), and whether more is better."""

    compute: Callable[[Predicted], Tensor]
    maximize: bool


def cross_entropy(scores: Scores) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(scores.logits, scores.target)


def accuracy(scores: Scores) -> Tensor:
    return scores.right.sum() / len(scores.target)


def f1_macro(scores: Scores) -> Tensor:
    return scores.f1_per_class.sum() / (scores.named > 0).sum()


def f1_weighted(scores: Scores) -> Tensor:
    return (scores.f1_per_class * scores.wanted).sum() / len(scores.target)


def roc_auc(scores: Scores) -> Tensor:
    """Two classes: of the second. More: the mean over one class against the rest."""
    import torch
    from torch.nn.functional import pad

    if scores.logits.shape[1] == 2:
        values = scores.probabilities[:, 1:].T.contiguous()  # (1, N)
        positive = scores.target.unsqueeze(0) == 1
    else:
        values = scores.probabilities.T.contiguous()  # (C, N)
        positive = scores.target == torch.arange(len(values), device=values.device).unsqueeze(1)
    ascending, order = values.sort(1)
    positives = positive.gather(1, order).cumsum(1)  # up to and with each place
    negatives = torch.arange(1, values.shape[1] + 1, device=values.device) - positives
    pairs = positives[:, -1] * negatives[:, -1]
    # A point of the curve at the last place of equal values; the places before it repeat the
    # point before. Then each step right has the area of its mean height.
    last = torch.ones_like(positive)
    last[:, :-1] = ascending[:, 1:] != ascending[:, :-1]
    x = pad(torch.where(last, negatives, 0).cummax(1).values, (1, 0))
    y = pad(torch.where(last, positives, 0).cummax(1).values, (1, 0))
    area = (x.diff(dim=1) * (2 * y[:, -1:] - y[:, 1:] - y[:, :-1])).sum(1).double() / 2
    return (area / pairs.clamp(min=1)).sum() / (pairs > 0).sum()


def standardized_squared_error(estimates: Estimates) -> Tensor:
    return estimates.squared_error / estimates.unit**2


def squared_error(estimates: Estimates) -> Tensor:
    return estimates.squared_error


def absolute_error(estimates: Estimates) -> Tensor:
    return (estimates.output - estimates.target).double().abs().mean()


def r2(estimates: Estimates) -> Tensor:
    """0 where the targets are all alike, as scikit-learn has it."""
    spread = estimates.target.double().var(correction=0)
    return ((1 - estimates.squared_error / spread) * (spread > 0)).nan_to_num(0.0)


CLASSIFICATION: dict[str, Metric[Scores]] = {
    "loss": Metric(cross_entropy, maximize=False),
    "accuracy": Metric(accuracy, maximize=True),
    "f1_macro": Metric(f1_macro, maximize=True),
    "f1_weighted": Metric(f1_weighted, maximize=True),
    "roc_auc": Metric(roc_auc, maximize=True),
}

REGRESSION: dict[str, Metric[Estimates]] = {
    "loss": Metric(standardized_squared_error, maximize=False),
    "mse": Metric(squared_error, maximize=False),
    "mae": Metric(absolute_error, maximize=False),
    "r2": Metric(r2, maximize=True),
}

TABLES: Mapping[Task, Mapping[str, Metric[Scores]] | Mapping[str, Metric[Estimates]]] = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
}

METRICS = tuple(dict.fromkeys([*CLASSIFICATION, *REGRESSION]))


def names(task: Task) -> list[str]:
    """What the built-in trainers report: ``train/loss``, …, ``val/loss``, …"""
    return [f"{split}/{name}" for split in ("train", "val") for name in TABLES[task]]


def maximize(name: str) -> bool:
    """Whether more is better, of a name such as ``val/loss``."""
    short = name.partition("/")[2]
    table = CLASSIFICATION if short in CLASSIFICATION else REGRESSION
    return table[short].maximize


def measure(predicted: Scores | Estimates) -> dict[str, float]:
    """Every metric of the task, by its name without the split."""
    import torch

    table = CLASSIFICATION if isinstance(predicted, Scores) else REGRESSION
    values = [metric.compute(predicted).double() for metric in table.values()]  # type: ignore[arg-type]
    return dict(zip(table, torch.stack(values).tolist(), strict=True))  # one trip off the device
