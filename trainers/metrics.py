"""Metrics: a table for classification and one for regression, computed where the outputs lie.

Each row is a function of what was predicted; what several of them need (probabilities, counts of
each class) is computed once. They equal scikit-learn's; where scikit-learn refuses (ROC-AUC
of a class that is missing from the targets) the mean is over the classes for which it is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Task = Literal["classification", "regression"]


@dataclass
class Scores:
    """What a classifier said, or several of the same rows' number; `…` is nothing, or one a lane.

    Attributes:
        logits: (…, N, C) float32.
        target: (…, N) int64 in [0, C).
    """

    logits: Tensor
    target: Tensor

    def lane(self, place: int) -> Scores:
        """Those of one lane."""
        return Scores(self.logits[place], self.target[place])

    @cached_property
    def by_class(self) -> Tensor:
        """(…, C, N): the logits, so laid out that what goes over the classes is fast."""
        return self.logits.mT.contiguous()

    @cached_property
    def probabilities(self) -> Tensor:
        """(…, N, C)"""
        return self.by_class.softmax(-2).mT

    @cached_property
    def right(self) -> Tensor:
        """(…, C) float64: how many of each class were recognized."""
        return self._count(self.target, self._named == self.target)

    @cached_property
    def wanted(self) -> Tensor:
        """(…, C) float64: how many there are of each class."""
        return self._count(self.target)

    @cached_property
    def named(self) -> Tensor:
        """(…, C) float64: how often each class was predicted, plus how many there are of it."""
        return self._count(self._named) + self.wanted

    @cached_property
    def f1_per_class(self) -> Tensor:
        """(…, C), 0 for a class neither targeted nor predicted."""
        return 2 * self.right / self.named.clamp(min=1)

    @cached_property
    def _named(self) -> Tensor:
        """(…, N) int64: the class predicted for each row."""
        return self.by_class.max(-2).indices  # five times as fast as argmax

    def _count(self, classes: Tensor, which: Tensor | None = None) -> Tensor:
        """How often each class is among `classes` (…, N), where `which` is true."""
        counts = self.logits.new_zeros((*classes.shape[:-1], self.logits.shape[-1])).double()
        ones = counts.new_ones(classes.shape) if which is None else which.double()
        return counts.scatter_add_(-1, classes, ones)


@dataclass
class Estimates:
    """What a regression said, in the units of the target; `…` is nothing, or one a lane.

    Attributes:
        output: (…, N) float32.
        target: (…, N) float32.
        unit: The standard deviation of the target in training; the loss is in units of it. One
            number, or (…) float64.
    """

    output: Tensor
    target: Tensor
    unit: float | Tensor

    def lane(self, place: int) -> Estimates:
        """Those of one lane."""
        unit = self.unit if isinstance(self.unit, float) else self.unit[place]
        return Estimates(self.output[place], self.target[place], unit)

    @cached_property
    def squared_error(self) -> Tensor:
        """(…): the mean."""
        return (self.output - self.target).double().square().mean(-1)


Predicted = TypeVar("Predicted", Scores, Estimates)


@dataclass(frozen=True)
class Metric(Generic[Predicted]):
    """A row of the table: the function (→ a number, or one a lane), and whether more is better."""

    compute: Callable[[Predicted], Tensor]
    maximize: bool


def cross_entropy(scores: Scores) -> Tensor:
    chosen = scores.by_class.log_softmax(-2).gather(-2, scores.target.unsqueeze(-2))
    return -chosen.squeeze(-2).double().mean(-1)


def accuracy(scores: Scores) -> Tensor:
    return scores.right.sum(-1) / scores.target.shape[-1]


def f1_macro(scores: Scores) -> Tensor:
    return scores.f1_per_class.sum(-1) / (scores.named > 0).sum(-1)


def f1_weighted(scores: Scores) -> Tensor:
    return (scores.f1_per_class * scores.wanted).sum(-1) / scores.target.shape[-1]


def roc_auc(scores: Scores) -> Tensor:
    """Two classes: of the second. More: the mean over one class against the rest.

    By Mann and Whitney's U, the pairs of a positive and a negative in their right order; of equal
    scores that is the mean of both orders.
    """
    import torch

    classes = scores.logits.shape[-1]
    first = 1 if classes == 2 else 0
    scored = scores.probabilities.mT[..., first:, :].float()  # (…, C or 1, N)
    numbers = torch.arange(first, classes, device=scored.device)
    positive = (scores.target.unsqueeze(-2) == numbers.unsqueeze(-1)).int()
    # The bits of floats that are not negative have the order of the floats: with the class as the
    # last bit one sort of numbers does, which is several times as fast as one with its places.
    bits = scored.contiguous().view(torch.int32) << 1
    right = _pairs(bits | positive) + _pairs((bits | positive ^ 1), flipped=True)
    positives = positive.sum(-1)
    pairs = positives * (scored.shape[-1] - positives)
    return (right / 2 / pairs.clamp(min=1)).sum(-1) / (pairs > 0).sum(-1)


def _pairs(keys: Tensor, flipped: bool = False) -> Tensor:
    """(…) float64: how often a positive stands above a negative, when (…, N) keys are sorted.

    Args:
        keys: int32, changed; their last bit says which are positive, or if `flipped` negative.
    """
    import torch

    if keys.device.type == "cpu":
        keys.numpy().sort(axis=-1)
    else:
        keys = keys.sort(-1).values
    positive = (keys & 1 ^ int(flipped)).double()
    places = torch.arange(keys.shape[-1], dtype=torch.float64, device=keys.device)
    count = positive.sum(-1)
    return positive @ places - count * (count - 1) / 2  # less the positives that stand below


def standardized_squared_error(estimates: Estimates) -> Tensor:
    return estimates.squared_error / estimates.unit**2


def squared_error(estimates: Estimates) -> Tensor:
    return estimates.squared_error


def absolute_error(estimates: Estimates) -> Tensor:
    return (estimates.output - estimates.target).double().abs().mean(-1)


def r2(estimates: Estimates) -> Tensor:
    """0 where the targets are all alike, as scikit-learn has it."""
    spread = estimates.target.double().var(-1, correction=0)
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

# What a prediction costs (`trainers.costs`), reported where the ``ensemble`` section asks for it;
# the second is measured by the clock, and is another number each time.
COSTS = ("cost/parameters", "cost/inference_ms")
CLOCKED = COSTS[1:]

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
    values = _values(predicted)
    return dict(zip(_table(predicted), values.tolist(), strict=True))


def measure_each(predicted: Scores | Estimates) -> list[dict[str, float]]:
    """The same of each lane, where there is one leading dimension of lanes."""
    table = _table(predicted)
    return [dict(zip(table, lane, strict=True)) for lane in _values(predicted).T.tolist()]


def _table(predicted: Scores | Estimates) -> Mapping[str, Metric[Any]]:
    return CLASSIFICATION if isinstance(predicted, Scores) else REGRESSION


def _values(predicted: Scores | Estimates) -> Tensor:
    """(metrics, …) float64, on the CPU by one trip off the device."""
    import torch

    values = [metric.compute(predicted).double() for metric in _table(predicted).values()]
    return torch.stack(values).cpu()
