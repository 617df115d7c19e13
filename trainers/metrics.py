"""Metrics: a table for each task, computed where the outputs lie, of many models at once.
Numbers of rows and of classes are added up on the CPU: a GPU rounds a model's sum otherwise where
there are more models.

Each row is a function of what was predicted; what several of them need (probabilities, counts of
each class) is computed once. They equal scikit-learn's; where scikit-learn refuses (ROC-AUC
of a class that is missing from the targets) the mean is over the classes for which it is defined.

Those of `METRICS` that are cheap are reported every epoch, of training and of validation; others
of validation where ``train.metrics``, an objective or early stopping names them. ``loss`` is the
same whatever loss models were trained with, so that trials can be compared by it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Task = Literal["classification", "multilabel", "regression"]

# Of the expected calibration error, as the app's diagram of reliability has them.
BINS = 10
# A probability from which a label is said to be there.
THRESHOLD = 0.5


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

    @property
    def rows(self) -> int:
        """N"""
        return self.target.shape[-1]

    @cached_property
    def by_class(self) -> Tensor:
        """(…, C, N): the logits, so laid out that what goes over the classes is fast."""
        return self.logits.mT.contiguous()

    @cached_property
    def probabilities(self) -> Tensor:
        """(…, N, C)"""
        return self.by_class.softmax(-2).mT

    @cached_property
    def against_rest(self) -> tuple[Tensor, Tensor]:
        """(…, C, N) each: probabilities, and whether the class is the target's, as int32.

        Of two classes the second one alone, (…, 1, N).
        """
        import torch

        classes = self.logits.shape[-1]
        first = 1 if classes == 2 else 0
        numbers = torch.arange(first, classes, device=self.logits.device)
        positive = self.target.unsqueeze(-2) == numbers.unsqueeze(-1)
        return self.probabilities.mT[..., first:, :].float(), positive.int()

    @cached_property
    def right(self) -> Tensor:
        """(…, C) float64, on the CPU: how many of each class were recognized."""
        return self._count(self.target, self._named == self.target)

    @cached_property
    def wanted(self) -> Tensor:
        """(…, C) float64, on the CPU: how many there are of each class."""
        return self._count(self.target)

    @cached_property
    def named(self) -> Tensor:
        """(…, C) float64, on the CPU: how often each class was predicted."""
        return self._count(self._named)

    @cached_property
    def counted(self) -> Tensor:
        """(…, C) bool: the classes that means are over, those targeted or predicted."""
        return self.wanted + self.named > 0

    @cached_property
    def _named(self) -> Tensor:
        """(…, N) int64: the class predicted for each row."""
        return self.by_class.max(-2).indices  # five times as fast as argmax

    def _count(self, classes: Tensor, which: Tensor | None = None) -> Tensor:
        """How often each class is among `classes` (…, N), where `which` is true."""
        counts = self.logits.new_zeros((*classes.shape[:-1], self.logits.shape[-1])).double()
        ones = counts.new_ones(classes.shape) if which is None else which.double()
        return counts.scatter_add_(-1, classes, ones).cpu()  # whole numbers, so it is exact


@dataclass
class Labels:
    """What was said of rows that can have several labels; `…` is nothing, or one a lane.

    Attributes:
        logits: (…, N, L) float32, of each label by itself.
        target: (…, N, L) bool.
    """

    logits: Tensor
    target: Tensor

    def lane(self, place: int) -> Labels:
        """Those of one lane."""
        return Labels(self.logits[place], self.target[place])

    @property
    def rows(self) -> int:
        """N"""
        return self.target.shape[-2]

    @cached_property
    def probabilities(self) -> Tensor:
        """(…, N, L)"""
        return self.logits.sigmoid()

    @cached_property
    def against_rest(self) -> tuple[Tensor, Tensor]:
        """(…, L, N) each: probabilities, and whether the label is there, as int32."""
        return self.probabilities.mT.float(), self.target.mT.int()

    @cached_property
    def right(self) -> Tensor:
        """(…, L) float64, on the CPU: how often each label was recognized."""
        return (self.said & self.target).double().sum(-2).cpu()

    @cached_property
    def wanted(self) -> Tensor:
        """(…, L) float64, on the CPU: how often each label is there."""
        return self.target.double().sum(-2).cpu()

    @cached_property
    def named(self) -> Tensor:
        """(…, L) float64, on the CPU: how often each label was predicted."""
        return self.said.double().sum(-2).cpu()

    @cached_property
    def counted(self) -> Tensor:
        """(…, L) bool: the labels that means are over, all of them."""
        import torch

        return torch.ones_like(self.wanted, dtype=torch.bool)

    @cached_property
    def said(self) -> Tensor:
        """(…, N, L) bool: what is as likely as not, or likelier."""
        return self.probabilities >= THRESHOLD


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
    def error(self) -> Tensor:
        """(…, N) float64, on the CPU."""
        return (self.output - self.target).double().cpu()

    @cached_property
    def squared_error(self) -> Tensor:
        """(…): the mean."""
        return self.error.square().mean(-1)


Predicted: TypeAlias = Scores | Labels | Estimates
Kind = TypeVar("Kind", Scores, Labels, Estimates)


def output(said: Predicted) -> Tensor:
    """(…, N, C) probabilities, or (…, N) values."""
    return said.output if isinstance(said, Estimates) else said.probabilities


@dataclass(frozen=True)
class Metric(Generic[Kind]):
    """A row of the table.

    Attributes:
        compute: → a number, or one a lane.
        maximize: Whether more is better.
        always: It is reported every epoch, of training, too.
        each: It is of each class: `compute` gives (…, C), reported as ``NAME/CLASS``.
        classes: It says something of so many classes only, and more.
    """

    compute: Callable[[Kind], Tensor]
    maximize: bool
    always: bool = False
    each: bool = False
    classes: int = 0


# -- of classes and of labels


def precision(said: Scores | Labels) -> Tensor:
    """(…, C), 0 of a class that was never predicted."""
    return said.right / said.named.clamp(min=1)


def recall(said: Scores | Labels) -> Tensor:
    """(…, C), 0 of a class that is never the target."""
    return said.right / said.wanted.clamp(min=1)


def f1(said: Scores | Labels) -> Tensor:
    """(…, C), 0 of a class neither targeted nor predicted."""
    return 2 * said.right / (said.named + said.wanted).clamp(min=1)


def _macro(each: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """The mean over classes."""
    return lambda said: each(said).sum(-1) / said.counted.sum(-1)


def _weighted(each: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """The same, a class counting by how often it is the target."""
    return lambda said: (each(said) * said.wanted).sum(-1) / said.wanted.sum(-1).clamp(min=1)


def precision_micro(said: Scores | Labels) -> Tensor:
    """Of all that was predicted."""
    return said.right.sum(-1) / said.named.sum(-1).clamp(min=1)


def recall_micro(said: Scores | Labels) -> Tensor:
    """Of all that there is."""
    return said.right.sum(-1) / said.wanted.sum(-1).clamp(min=1)


def f1_micro(said: Scores | Labels) -> Tensor:
    return 2 * said.right.sum(-1) / (said.named + said.wanted).sum(-1).clamp(min=1)


def roc_auc(said: Scores | Labels) -> Tensor:
    """Two classes: of the second. More: the mean over one class against the rest; or over labels.

    By Mann and Whitney's U, the pairs of a positive and a negative in their right order; of equal
    scores that is the mean of both orders.
    """
    import torch

    scored, positive = said.against_rest
    # The bits of floats that are not negative have the order of the floats: with the class as the
    # last bit one sort of numbers does, which is several times as fast as one with its places.
    bits = scored.contiguous().view(torch.int32) << 1
    right = _pairs(bits | positive) + _pairs((bits | positive ^ 1), flipped=True)
    positives = positive.sum(-1)
    pairs = (positives * (scored.shape[-1] - positives)).cpu()
    return (right.cpu() / 2 / pairs.clamp(min=1)).sum(-1) / (pairs > 0).sum(-1)


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


def pr_auc(said: Scores | Labels) -> Tensor:
    """Average precision; of classes and labels as `roc_auc` has them.

    The precision at each positive, rows of an equal score taken together, as scikit-learn's
    ``average_precision_score``.
    """
    import torch

    scored, positive = said.against_rest
    ordered, places = scored.sort(-1, descending=True)
    hit = positive.gather(-1, places).double()
    numbers = torch.arange(1, hit.shape[-1] + 1, device=hit.device)
    # Of rows of an equal score, where the last one stands.
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[..., :-1] = ordered[..., :-1] != ordered[..., 1:]
    last = torch.where(ends, numbers, hit.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    found = hit.cumsum(-1).gather(-1, last - 1)
    positives = hit.sum(-1).cpu()
    average = (hit * found / last).cpu().sum(-1) / positives.clamp(min=1)
    return average.sum(-1) / (positives > 0).sum(-1)


# -- of classes


def cross_entropy(scores: Scores) -> Tensor:
    chosen = scores.by_class.log_softmax(-2).gather(-2, scores.target.unsqueeze(-2))
    return -chosen.squeeze(-2).double().cpu().mean(-1)


def accuracy(scores: Scores) -> Tensor:
    return scores.right.sum(-1) / scores.rows


def balanced_accuracy(scores: Scores) -> Tensor:
    """The mean recall of the classes that there are."""
    return recall(scores).sum(-1) / (scores.wanted > 0).sum(-1)


def top5_accuracy(scores: Scores) -> Tensor:
    """How often fewer than five classes are likelier than the true one."""
    truth = scores.by_class.gather(-2, scores.target.unsqueeze(-2))
    return ((scores.by_class > truth).sum(-2) < 5).double().mean(-1)


def brier(scores: Scores) -> Tensor:
    """The squared distance of probabilities and truth: in [0, 1] of two classes, else [0, 2]."""
    probabilities = scores.probabilities.double()
    truth = probabilities.gather(-1, scores.target.unsqueeze(-1)).squeeze(-1)
    squared = (probabilities.cpu().square().sum(-1) + 1 - 2 * truth.cpu()).mean(-1)
    return squared / 2 if scores.logits.shape[-1] == 2 else squared


def ece(scores: Scores) -> Tensor:
    """How far the probability of the class said is from how often it is right, in [0, 1].

    Expected calibration error over 10 bins of equal width (Guo et al. 2017, "On calibration of
    modern neural networks").
    """
    sure, said = scores.probabilities.max(-1)
    sure, right = sure.double().cpu(), (said == scores.target).double().cpu()
    places = (sure * BINS).long().clamp(0, BINS - 1)  # of NaN it is a negative number
    off = right - sure
    summed = off.new_zeros((*off.shape[:-1], BINS)).scatter_add_(-1, places, off)
    return summed.abs().sum(-1) / scores.rows


def mcc(scores: Scores) -> Tensor:
    """Matthews' correlation coefficient, of several classes Gorodkin's (2004); 0 where either the
    targets or the predictions are all of one class."""
    rows, wanted, named = scores.rows, scores.wanted, scores.named
    together = scores.right.sum(-1) * rows - (wanted * named).sum(-1)
    spread = (rows**2 - wanted.square().sum(-1)) * (rows**2 - named.square().sum(-1))
    return together / spread.sqrt().where(spread > 0, 1.0)


# -- of labels


def binary_cross_entropy(labels: Labels) -> Tensor:
    """The mean over rows and labels."""
    from torch.nn import functional

    loss = functional.binary_cross_entropy_with_logits
    wanted = labels.target.to(labels.logits.dtype)
    return loss(labels.logits, wanted, reduction="none").double().cpu().mean((-2, -1))


def all_right(labels: Labels) -> Tensor:
    """How many rows have every label right."""
    return (labels.said == labels.target).all(-1).double().mean(-1)


def hamming_loss(labels: Labels) -> Tensor:
    """The share of labels that are wrong."""
    return (labels.said != labels.target).double().mean((-2, -1))


def label_brier(labels: Labels) -> Tensor:
    """The mean squared distance of a label's probability and truth, in [0, 1]."""
    missed = labels.probabilities.double() - labels.target.double()
    return missed.square().cpu().mean((-2, -1))


# -- of values


def standardized_squared_error(estimates: Estimates) -> Tensor:
    unit = estimates.unit
    return estimates.squared_error / (unit if isinstance(unit, float) else unit.cpu()) ** 2


def squared_error(estimates: Estimates) -> Tensor:
    return estimates.squared_error


def root_squared_error(estimates: Estimates) -> Tensor:
    return estimates.squared_error.sqrt()


def absolute_error(estimates: Estimates) -> Tensor:
    return estimates.error.abs().mean(-1)


def relative_error(estimates: Estimates) -> Tensor:
    """The mean of errors as shares of the target; 1 is 100 %. Huge where a target is 0."""
    import torch

    target = estimates.target.double().cpu().abs().clamp(min=torch.finfo(torch.float64).eps)
    return (estimates.error.abs() / target).mean(-1)


def r2(estimates: Estimates) -> Tensor:
    """0 where the targets are all alike, as scikit-learn has it."""
    target = estimates.target.double().cpu()
    # Not by var(), which rounds a lane otherwise the more lanes there are.
    spread = (target - target.mean(-1, keepdim=True)).square().mean(-1)
    differ = target.amax(-1) > target.amin(-1)
    return ((1 - estimates.squared_error / spread) * differ).nan_to_num(0.0)


# Those of classes and of labels alike.
_COUNTED: dict[str, Metric[Any]] = {
    "pr_auc": Metric(pr_auc, maximize=True),
    "precision": Metric(precision, maximize=True, each=True),
    "precision_macro": Metric(_macro(precision), maximize=True),
    "precision_micro": Metric(precision_micro, maximize=True),
    "precision_weighted": Metric(_weighted(precision), maximize=True),
    "recall": Metric(recall, maximize=True, each=True),
    "recall_macro": Metric(_macro(recall), maximize=True),
    "recall_micro": Metric(recall_micro, maximize=True),
    "recall_weighted": Metric(_weighted(recall), maximize=True),
    "f1": Metric(f1, maximize=True, each=True),
    "f1_micro": Metric(f1_micro, maximize=True),
}

CLASSIFICATION: dict[str, Metric[Scores]] = {
    "loss": Metric(cross_entropy, maximize=False, always=True),
    "accuracy": Metric(accuracy, maximize=True, always=True),
    "f1_macro": Metric(_macro(f1), maximize=True, always=True),
    "f1_weighted": Metric(_weighted(f1), maximize=True, always=True),
    "roc_auc": Metric(roc_auc, maximize=True, always=True),
    **_COUNTED,
    "balanced_accuracy": Metric(balanced_accuracy, maximize=True),
    "top5_accuracy": Metric(top5_accuracy, maximize=True, classes=6),
    "mcc": Metric(mcc, maximize=True),
    "log_loss": Metric(cross_entropy, maximize=False),
    "brier": Metric(brier, maximize=False),
    "ece": Metric(ece, maximize=False),
}

MULTILABEL: dict[str, Metric[Labels]] = {
    "loss": Metric(binary_cross_entropy, maximize=False, always=True),
    "accuracy": Metric(all_right, maximize=True, always=True),
    "f1_macro": Metric(_macro(f1), maximize=True, always=True),
    "f1_weighted": Metric(_weighted(f1), maximize=True, always=True),
    "roc_auc": Metric(roc_auc, maximize=True, always=True),
    **_COUNTED,
    "hamming_loss": Metric(hamming_loss, maximize=False),
    "log_loss": Metric(binary_cross_entropy, maximize=False),
    "brier": Metric(label_brier, maximize=False),
}

REGRESSION: dict[str, Metric[Estimates]] = {
    "loss": Metric(standardized_squared_error, maximize=False, always=True),
    "mse": Metric(squared_error, maximize=False, always=True),
    "mae": Metric(absolute_error, maximize=False, always=True),
    "r2": Metric(r2, maximize=True, always=True),
    "rmse": Metric(root_squared_error, maximize=False),
    "mape": Metric(relative_error, maximize=False),
}

TABLES: Mapping[Task, Mapping[str, Metric[Any]]] = {
    "classification": CLASSIFICATION,
    "multilabel": MULTILABEL,
    "regression": REGRESSION,
}

# What a prediction costs (`trainers.costs`), reported where it is asked for; the second is
# measured by the clock, and is another number each time.
COSTS = ("cost/parameters", "cost/inference_ms")
CLOCKED = COSTS[1:]

# By name, of whatever task: a name means more is better in all tables, or in none.
METRICS: Mapping[str, Metric[Any]] = {**REGRESSION, **MULTILABEL, **CLASSIFICATION}
# Those that are reported of training, too.
ALWAYS = tuple(name for name, metric in METRICS.items() if metric.always)
# What ``train.metrics`` can name.
FURTHER = tuple(name for name, metric in METRICS.items() if not metric.always)
# What is one number, whatever the data.
SINGLE = tuple(name for name, metric in METRICS.items() if not metric.each)


def names(task: Task) -> list[str]:
    """What the built-in trainers always report: ``train/loss``, …, ``val/loss``, …"""
    always = [name for name, metric in TABLES[task].items() if metric.always]
    return [f"{split}/{name}" for split in ("train", "val") for name in always]


def known(task: Task, classes: Sequence[str]) -> list[str]:
    """What they can report, `names` first.

    Args:
        classes: The names of the classes, or of the labels; of a regression none.
    """
    always = names(task)
    found = [f"val/{name}" for name in measured(task, FURTHER, classes)]
    return [*always, *(name for name in found if name not in always)]


def asked(recorded: Iterable[str]) -> list[str]:
    """Of names such as ``val/f1/cat``, the rows of `FURTHER` that give them, each once."""
    rows = [name.split("/")[1] for name in recorded if name.startswith("val/")]
    return list(dict.fromkeys(row for row in rows if row in FURTHER))


def watched(train: Mapping[str, Any]) -> dict[str, str]:
    """What decides something during a training, by the keys of the ``train`` section."""
    found = {}
    if train["early_stopping"] is not None:
        found["early_stopping.metric"] = train["early_stopping"]["metric"]
    if train["schedule"] == "plateau":
        found["plateau.metric"] = train["plateau"]["metric"]
    return found


def maximize(name: str) -> bool:
    """Whether more is better, of a name such as ``val/loss``."""
    return METRICS[name.split("/")[1]].maximize


def task_of(target: Tensor) -> Task:
    """What is predicted, by the targets' type: int64 classes, bool labels, or values."""
    import torch

    tasks: dict[torch.dtype, Task] = {torch.int64: "classification", torch.bool: "multilabel"}
    return tasks.get(target.dtype, "regression")


def predicted(
    output: Tensor, target: Tensor, mean: float | Tensor, std: float | Tensor
) -> Predicted:
    """What models say of rows by what they put out.

    Args:
        output: (…, N, outputs), of a regression in standard deviations from the mean.
        target: (…, N), of labels (…, N, L).
        mean, std: Of a regression's training targets.
    """
    task = task_of(target)
    if task == "classification":
        return Scores(output, target)
    if task == "multilabel":
        return Labels(output, target)
    return Estimates(output.squeeze(-1) * std + mean, target, std)


def measure(
    predicted: Predicted, further: Collection[str] = (), classes: Sequence[str] = ()
) -> dict[str, float]:
    """What is always reported of the task, by its name without the split, and some `further` rows.

    Args:
        further: Of them those that the task does not have are left out.
        classes: The names of the classes or labels, for what is of each.
    """
    return _numbers(predicted, further, classes, [])[0]


def measure_each(
    predicted: Predicted, further: Collection[str] = (), classes: Sequence[str] = ()
) -> list[dict[str, float]]:
    """The same of each lane, where there is one leading dimension of lanes."""
    return _numbers(predicted, further, classes, [len(predicted.target)])


def _numbers(
    predicted: Predicted, further: Collection[str], classes: Sequence[str], lanes: list[int]
) -> list[dict[str, float]]:
    """Of each lane."""
    import torch

    task = task_of(predicted.target)
    named, values = measured(task, further, classes), []
    for metric in _rows(task, further, classes).values():
        value = metric.compute(predicted).double().cpu()
        values.append((value if metric.each else value.unsqueeze(-1)).reshape(*lanes, -1))
    of_lanes = torch.cat(values, -1).reshape(-1, len(named)).tolist()
    return [dict(zip(named, numbers, strict=True)) for numbers in of_lanes]


def measured(task: Task, further: Collection[str], classes: Sequence[str]) -> list[str]:
    """The names of what `measure` gives."""
    rows = _rows(task, further, classes)
    return [full for name, metric in rows.items() for full in _full(name, metric, classes)]


def _rows(task: Task, further: Collection[str], classes: Sequence[str]) -> dict[str, Metric[Any]]:
    return {
        name: metric
        for name, metric in TABLES[task].items()
        if metric.always or (name in further and len(classes) >= metric.classes)
    }


def _full(name: str, metric: Metric[Any], classes: Sequence[str]) -> list[str]:
    return [f"{name}/{each}" for each in recordable(classes)] if metric.each else [name]


def recordable(classes: Sequence[str]) -> list[str]:
    """Names of classes as parts of metrics' names; what MLflow would refuse by its number."""
    short = [re.sub(r"[^\w\-. :]", "_", name) for name in classes]
    often = Counter(short)
    return [
        name if often[name] == 1 and len(name) <= 200 and name.strip(". ") else f"class {number}"
        for number, name in enumerate(short)
    ]
