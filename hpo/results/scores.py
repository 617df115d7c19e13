"""The metrics that predictions give, each as a function of means over rows.

So one product of resampled weights and rows gives all of them in every resample. They have the
names, and the values, of `trainers.metrics`, which also says which way each is better. Areas under
curves are not functions of such means: see `hpo.results.ranking`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpo.errors import UserError
from hpo.results.intervals import Floats
from hpo.results.predicted import Predicted
from hpo.results.ranking import AREAS
from hpo.results.rows import chosen, class_names, labelled, right
from trainers import metrics as trained
from trainers.metrics import BINS, Task

Goal = Literal["maximize", "minimize"]

# Half of the smallest number above zero in float32, in which probabilities are stored: the most
# that a probability stored as zero can have been.
LEAST_PROBABILITY = 2.0**-150


@dataclass(frozen=True)
class Score:
    """A metric of n rows.

    Attributes:
        columns: → (n, k), what each row contributes; metrics that share it are computed together.
        combine: The means of the columns, (k, …) → the metric, (…).
        is_share: It is the share of rows with a 1, of one column of zeros and ones.
        is_distance: It is made of distances, which resampling makes larger, on average.
    """

    columns: Callable[[Predicted], Floats]
    combine: Callable[[Floats], Floats]
    is_share: bool = False
    is_distance: bool = False


def _first(means: Floats) -> Floats:
    return np.asarray(means[0])


# -- of classes


def _one_hot(indices: np.ndarray, count: int) -> Floats:
    return np.asarray(indices[:, None] == np.arange(count), np.float64)


def _right(predicted: Predicted) -> Floats:
    return np.asarray(right(predicted)[:, None], np.float64)


def _among_five(predicted: Predicted) -> Floats:
    """(n, 1): whether fewer than five classes are likelier than the true one."""
    truth = np.take_along_axis(predicted.output, _places(predicted), axis=1)
    return np.asarray((predicted.output > truth).sum(axis=1, keepdims=True) < 5, np.float64)


def _by_class(predicted: Predicted) -> Floats:
    """(n, 3·C): right; of the class; said to be of the class."""
    count = predicted.output.shape[1]
    wanted = _one_hot(predicted.target, count)
    said = _one_hot(chosen(predicted), count)
    return np.concatenate([wanted * said, wanted, said], axis=1)


def _precision(means: Floats) -> Floats:
    """(C, …), 0 of a class that was never said."""
    right, _, said = np.split(means, 3)
    return np.asarray(right / np.where(said > 0, said, 1))


def _recall(means: Floats) -> Floats:
    """(C, …), 0 of a class that is never wanted."""
    right, wanted, _ = np.split(means, 3)
    return np.asarray(right / np.where(wanted > 0, wanted, 1))


def _f1(means: Floats) -> Floats:
    """(C, …), 0 of a class neither wanted nor said."""
    right, wanted, said = np.split(means, 3)
    either = wanted + said
    return np.asarray(2 * right / np.where(either > 0, either, 1))


def _macro(each: Callable[[Floats], Floats]) -> Score:
    """The mean over the classes that were wanted or said."""

    def combine(means: Floats) -> Floats:
        _, wanted, said = np.split(means, 3)
        return np.asarray(each(means).sum(0) / (wanted + said > 0).sum(0))

    return Score(_by_class, combine)


def _weighted(each: Callable[[Floats], Floats]) -> Score:
    """The same, a class counting by how often it is wanted."""
    return Score(_by_class, lambda means: (each(means) * np.split(means, 3)[1]).sum(0))


def _of_one(
    columns: Callable[[Predicted], Floats], each: Callable[[Floats], Floats], index: int
) -> Score:
    """Of one class, or label."""
    return Score(columns, lambda means: each(means)[index])


def _balanced_accuracy(means: Floats) -> Floats:
    """The mean recall of the classes that there are."""
    return np.asarray(_recall(means).sum(0) / (np.split(means, 3)[1] > 0).sum(0))


def _mcc(means: Floats) -> Floats:
    """0 where the targets, or what was said, are all of one class."""
    right, wanted, said = np.split(means, 3)
    together = right.sum(0) - (wanted * said).sum(0)
    spread = (1 - (wanted**2).sum(0)) * (1 - (said**2).sum(0))
    return np.asarray(np.where(spread > 0, together, 0) / np.sqrt(np.where(spread > 0, spread, 1)))


def _places(predicted: Predicted) -> np.ndarray:
    """(n, 1) the column of the true class."""
    return np.asarray(predicted.target.astype(np.int64)[:, None])


def _probabilities(predicted: Predicted) -> Floats:
    """(n, C) that sum to 1: rounded, they do not quite."""
    output = np.clip(predicted.output.astype(np.float64), 0, None)
    total = output.sum(axis=1, keepdims=True)
    return output / np.where(total > 0, total, 1)


def _log_loss(predicted: Predicted) -> Floats:
    of_truth = np.take_along_axis(_probabilities(predicted), _places(predicted), axis=1)
    return np.asarray(-np.log(np.maximum(of_truth, LEAST_PROBABILITY)))


def _brier(predicted: Predicted) -> Floats:
    """In [0, 1] for two classes, in [0, 2] for more, as scikit-learn has it."""
    wanted = _one_hot(predicted.target, predicted.output.shape[1])
    squared = ((_probabilities(predicted) - wanted) ** 2).sum(axis=1, keepdims=True)
    return np.asarray(squared / 2 if predicted.output.shape[1] == 2 else squared)


def _off(predicted: Predicted) -> Floats:
    """(n, BINS): right less how sure, in the bin of how sure."""
    sure = predicted.output.max(axis=1).astype(np.float64)
    bins = np.clip((sure * BINS).astype(np.int64), 0, BINS - 1)
    return np.asarray(_one_hot(bins, BINS) * (_right(predicted) - sure[:, None]))


# -- of labels


def _by_label(predicted: Predicted) -> Floats:
    """(n, 3·L): rightly said; there; said to be there."""
    wanted, said = predicted.target.astype(bool), labelled(predicted)
    return np.concatenate([wanted & said, wanted, said], axis=1).astype(np.float64)


def _over_labels(each: Callable[[Floats], Floats]) -> Score:
    """The mean over all labels, also those that are neither there nor said to be."""
    return Score(_by_label, lambda means: np.asarray(each(means).mean(0)))


def _by_frequency(each: Callable[[Floats], Floats]) -> Score:
    """The same, a label counting by how often it is there."""

    def combine(means: Floats) -> Floats:
        wanted = np.split(means, 3)[1]
        total = wanted.sum(0)
        return np.asarray((each(means) * wanted).sum(0) / np.where(total > 0, total, 1))

    return Score(_by_label, combine)


def _of_all(each: Callable[[Floats], Floats]) -> Score:
    """Of all labels taken together."""

    def combine(means: Floats) -> Floats:
        return np.asarray(each(np.stack([part.sum(0) for part in np.split(means, 3)]))[0])

    return Score(_by_label, combine)


def _wrong_labels(predicted: Predicted) -> Floats:
    """(n, 1): the share that is wrong."""
    return np.asarray((labelled(predicted) != predicted.target).mean(axis=1, keepdims=True))


def _label_loss(predicted: Predicted) -> Floats:
    """(n, 1): the log loss of whether a label is there, the mean over labels."""
    output = predicted.output.astype(np.float64)
    of_truth = np.where(predicted.target, output, 1 - output)
    loss = -np.log(np.maximum(of_truth, LEAST_PROBABILITY))
    return np.asarray(loss.mean(axis=1, keepdims=True))


def _label_brier(predicted: Predicted) -> Floats:
    return np.asarray((_error(predicted) ** 2).mean(axis=1, keepdims=True))


# -- of values


def _error(predicted: Predicted) -> Floats:
    return predicted.output.astype(np.float64) - predicted.target.astype(np.float64)


def _absolute(predicted: Predicted) -> Floats:
    return np.abs(_error(predicted))[:, None]


def _relative(predicted: Predicted) -> Floats:
    """Errors as shares of the target; huge where it is 0, as scikit-learn has it."""
    target = np.abs(predicted.target.astype(np.float64))[:, None]
    return np.asarray(_absolute(predicted) / np.maximum(target, np.finfo(np.float64).eps))


def _squared(predicted: Predicted) -> Floats:
    return _error(predicted)[:, None] ** 2


def _squares(predicted: Predicted) -> Floats:
    """(n, 3): squared error, the target's distance from its mean, and the square of that."""
    away = predicted.target.astype(np.float64) - np.mean(predicted.target, dtype=np.float64)
    return np.stack([_error(predicted) ** 2, away, away**2], axis=1)


def _r2(means: Floats) -> Floats:
    """NaN where the targets are all alike."""
    error, away, squared = means
    spread = squared - away**2
    alike = spread <= 1e-12 * np.maximum(squared, np.finfo(np.float64).tiny)
    return np.asarray(1 - error / np.where(alike, np.nan, spread))


# -- the tables

# Those that are reported as ``NAME/CLASS``.
_EACH: Mapping[str, Callable[[Floats], Floats]] = {
    "precision": _precision,
    "recall": _recall,
    "f1": _f1,
}

_RIGHT = Score(_right, _first, is_share=True)

CLASSIFICATION: Mapping[str, Score] = {
    "accuracy": _RIGHT,
    "f1_macro": _macro(_f1),
    "f1_weighted": _weighted(_f1),
    "log_loss": Score(_log_loss, _first),
    "brier": Score(_brier, _first),
    "balanced_accuracy": Score(_by_class, _balanced_accuracy),
    "top5_accuracy": Score(_among_five, _first, is_share=True),
    "mcc": Score(_by_class, _mcc),
    "ece": Score(_off, lambda means: np.abs(means).sum(0), is_distance=True),
    "precision_macro": _macro(_precision),
    "precision_micro": _RIGHT,
    "precision_weighted": _weighted(_precision),
    "recall_macro": _macro(_recall),
    "recall_micro": _RIGHT,
    "recall_weighted": _weighted(_recall),
    "f1_micro": _RIGHT,
}

MULTILABEL: Mapping[str, Score] = {
    "accuracy": _RIGHT,
    "f1_macro": _over_labels(_f1),
    "f1_weighted": _by_frequency(_f1),
    "hamming_loss": Score(_wrong_labels, _first),
    "log_loss": Score(_label_loss, _first),
    "brier": Score(_label_brier, _first),
    "precision_macro": _over_labels(_precision),
    "precision_micro": _of_all(_precision),
    "precision_weighted": _by_frequency(_precision),
    "recall_macro": _over_labels(_recall),
    "recall_micro": _of_all(_recall),
    "recall_weighted": _by_frequency(_recall),
    "f1_micro": _of_all(_f1),
}

REGRESSION: Mapping[str, Score] = {
    "rmse": Score(_squared, lambda means: np.sqrt(means[0])),
    "mae": Score(_absolute, _first),
    "r2": Score(_squares, _r2),
    "mse": Score(_squared, _first),
    "mape": Score(_relative, _first),
}

_TABLES: Mapping[Task, Mapping[str, Score]] = {
    "classification": CLASSIFICATION,
    "multilabel": MULTILABEL,
    "regression": REGRESSION,
}

# What is measured without being asked for.
STANDARD: Mapping[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "f1_macro", "f1_weighted", "roc_auc", "log_loss", "brier"),
    "multilabel": ("accuracy", "f1_macro", "f1_weighted", "roc_auc", "hamming_loss", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}


def names_of(predicted: Predicted) -> list[str]:
    """The metrics that predictions give, those of `STANDARD` first; without those of one class."""
    task = task_of(predicted)
    names = dict.fromkeys([*STANDARD[task], *_TABLES[task]])
    if task != "regression":
        names |= dict.fromkeys(AREAS)
    least = trained.METRICS["top5_accuracy"].classes
    if task == "classification" and predicted.output.shape[1] < least:
        del names["top5_accuracy"]
    return list(names)


def gives(predicted: Predicted, metric: str) -> bool:
    """Whether predictions give a metric: one of `names_of`, or of one class, as ``f1/cat``."""
    row, _, one = metric.partition("/")
    if one:
        of_each = task_of(predicted) != "regression" and row in _EACH
        return of_each and one in _classes(predicted)
    return metric in names_of(predicted)


def score(predicted: Predicted, metric: str) -> Score:
    """How a metric that predictions give, and that is no area, is computed of them."""
    row, _, one = metric.partition("/")
    if one:
        columns = _by_label if predicted.is_multilabel else _by_class
        return _of_one(columns, _EACH[row], _classes(predicted).index(one))
    return _TABLES[task_of(predicted)][metric]


def goal_of(metric: str) -> Goal:
    """Which way is better.

    Raises:
        ValueError: There is no such metric.
    """
    row = metric.partition("/")[0]
    known = dict.fromkeys([*CLASSIFICATION, *MULTILABEL, *REGRESSION, *AREAS, *_EACH])
    if row not in known:
        raise ValueError(f"no metric {metric!r}; there are {', '.join(known)}")
    return "maximize" if trained.METRICS[row].maximize else "minimize"


def metric_of(recorded: str, predicted: Predicted) -> str | None:
    """The metric here that is one a trainer recorded, such as ``val/f1_macro`` or ``val/f1/cat``.

    The loss is the log loss, or the root of the mean squared error.
    """
    above, _, last = recorded.rpartition("/")
    if gives(predicted, of_class := f"{above.rpartition('/')[2]}/{last}"):
        return of_class
    loss = "rmse" if task_of(predicted) == "regression" else "log_loss"
    name = loss if last == "loss" else last
    return name if gives(predicted, name) else None


def metric_or_first(recorded: str, predicted: Predicted) -> str:
    """The same; where predictions do not give it, the first of `STANDARD`."""
    return metric_of(recorded, predicted) or STANDARD[task_of(predicted)][0]


def asked_metric(asked: str | None, recorded: str, predicted: Predicted) -> str:
    """What ``--metric`` asks for; without it `metric_or_first` of what a trainer recorded.

    Raises:
        UserError: Predictions do not give what is asked for.
    """
    name = metric_of(asked, predicted) if asked else metric_or_first(recorded, predicted)
    if name is None:
        each = [f"{row}/CLASS" for row in _EACH if predicted.has_probabilities]
        there = ", ".join([*names_of(predicted), *each])
        raise UserError(f"--metric {asked}: predictions do not give it; there are {there}")
    return name


def task_of(predicted: Predicted) -> Task:
    if predicted.is_multilabel:
        return "multilabel"
    return "classification" if predicted.is_classification else "regression"


def _classes(predicted: Predicted) -> list[str]:
    return trained.recordable(class_names(predicted))
