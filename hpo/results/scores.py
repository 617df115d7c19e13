"""The metrics that predictions give, each as a function of means over rows.

So one product of resampled weights and rows gives all of them in every resample. They equal
scikit-learn's. ROC-AUC is not a function of such means: see `hpo.results.ranking`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpo.results.intervals import Floats
from hpo.results.predicted import Predicted
from hpo.results.rows import chosen

Goal = Literal["maximize", "minimize"]

# Half of the smallest number above zero in float32, in which probabilities are stored: the most
# that a probability stored as zero can have been.
LEAST_PROBABILITY = 2.0**-150


@dataclass(frozen=True)
class Score:
    """A metric of n rows.

    Attributes:
        goal: Whether more or less is better.
        columns: → (n, k), what each row contributes.
        combine: The means of the columns, (k, …) → the metric, (…).
    """

    goal: Goal
    columns: Callable[[Predicted], Floats]
    combine: Callable[[Floats], Floats]


def _one_hot(indices: np.ndarray, count: int) -> Floats:
    return np.asarray(indices[:, None] == np.arange(count), np.float64)


def _right(predicted: Predicted) -> Floats:
    return np.asarray((chosen(predicted) == predicted.target)[:, None], np.float64)


def _by_class(predicted: Predicted) -> Floats:
    """(n, 3·C): right; of the class; said to be of the class."""
    count = predicted.output.shape[1]
    wanted = _one_hot(predicted.target, count)
    said = _one_hot(chosen(predicted), count)
    return np.concatenate([wanted * said, wanted, said], axis=1)


def _f1(means: Floats) -> tuple[Floats, Floats, Floats]:
    """(C, …) each: F1, 0 of a class neither wanted nor said; how often wanted; wanted or said."""
    right, wanted, said = np.split(means, 3)
    either = wanted + said
    return 2 * right / np.where(either > 0, either, 1), wanted, either


def _f1_macro(means: Floats) -> Floats:
    f1, _, either = _f1(means)
    return np.asarray(f1.sum(0) / (either > 0).sum(0))


def _f1_weighted(means: Floats) -> Floats:
    f1, wanted, _ = _f1(means)
    return np.asarray((f1 * wanted).sum(0))


def _probabilities(predicted: Predicted) -> Floats:
    """(n, C) that sum to 1: rounded, they do not quite."""
    output = np.clip(predicted.output.astype(np.float64), 0, None)
    total = output.sum(axis=1, keepdims=True)
    return output / np.where(total > 0, total, 1)


def _log_loss(predicted: Predicted) -> Floats:
    truth = predicted.target.astype(np.int64)[:, None]
    of_truth = np.take_along_axis(_probabilities(predicted), truth, axis=1)
    return -np.log(np.maximum(of_truth, LEAST_PROBABILITY))


def _brier(predicted: Predicted) -> Floats:
    """In [0, 1] for two classes, in [0, 2] for more, as scikit-learn has it."""
    wanted = _one_hot(predicted.target, predicted.output.shape[1])
    squared = ((_probabilities(predicted) - wanted) ** 2).sum(axis=1, keepdims=True)
    return np.asarray(squared / 2 if predicted.output.shape[1] == 2 else squared)


def _error(predicted: Predicted) -> Floats:
    return predicted.output.astype(np.float64) - predicted.target.astype(np.float64)


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


def _first(means: Floats) -> Floats:
    return np.asarray(means[0])


CLASSIFICATION: Mapping[str, Score] = {
    "accuracy": Score("maximize", _right, _first),
    "f1_macro": Score("maximize", _by_class, _f1_macro),
    "f1_weighted": Score("maximize", _by_class, _f1_weighted),
    "log_loss": Score("minimize", _log_loss, _first),
    "brier": Score("minimize", _brier, _first),
}

REGRESSION: Mapping[str, Score] = {
    "rmse": Score("minimize", lambda p: _error(p)[:, None] ** 2, lambda means: np.sqrt(means[0])),
    "mae": Score("minimize", lambda p: np.abs(_error(p))[:, None], _first),
    "r2": Score("maximize", _squares, _r2),
}

METRICS = {
    "classification": ("accuracy", "f1_macro", "f1_weighted", "roc_auc", "log_loss", "brier"),
    "regression": ("rmse", "mae", "r2"),
}

GOALS: Mapping[str, Goal] = {
    **{name: score.goal for name, score in (*CLASSIFICATION.items(), *REGRESSION.items())},
    "roc_auc": "maximize",
}


def metric_of(recorded: str, task: str) -> str | None:
    """The metric here that is nearest to one a trainer recorded, such as ``val/f1_macro``.

    The loss is the log loss, or the root of the mean squared error.

    Args:
        task: ``classification`` or ``regression``.
    """
    short = recorded.rpartition("/")[2]
    loss = "log_loss" if task == "classification" else "rmse"
    name = loss if short in ("loss", "mse") else short
    return name if name in METRICS[task] else None


def task_of(predicted: Predicted) -> Literal["classification", "regression"]:
    return "classification" if predicted.is_classification else "regression"
