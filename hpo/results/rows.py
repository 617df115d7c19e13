"""The rows that were predicted: in one order, with a usable output, the same in two runs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.results.predicted import Predicted
from trainers.metrics import THRESHOLD

if TYPE_CHECKING:
    from numpy.typing import NDArray


def select(predicted: Predicted, rows: NDArray[Any]) -> Predicted:
    """Only these rows (their places), in that order."""
    return replace(
        predicted,
        ids=predicted.ids[rows],
        target=predicted.target[rows],
        output=predicted.output[rows],
        groups=None if predicted.groups is None else predicted.groups[rows],
    )


def by_id(predicted: Predicted) -> Predicted:
    """The rows in the order of their ids."""
    if (predicted.ids[1:] >= predicted.ids[:-1]).all():
        return predicted
    return select(predicted, np.argsort(predicted.ids, kind="stable"))


def is_finite(predicted: Predicted) -> bool:
    """Whether every output is a number. A run for which it is not has no metrics."""
    return bool(np.isfinite(predicted.output).all())


def finite(predicted: Predicted) -> Predicted:
    """The rows whose output is a number: what can be drawn."""
    if is_finite(predicted):
        return predicted
    good = np.isfinite(predicted.output.reshape(len(predicted.ids), -1)).all(axis=1)
    return select(predicted, np.flatnonzero(good))


def same_rows_key(predicted: Predicted) -> str:
    """Equal for two runs that predicted the same targets of the same rows, in whatever order."""
    ordered = by_id(predicted)
    digest = hashlib.sha256(ordered.ids.astype(np.int64).tobytes())
    digest.update(ordered.target.astype(np.float64).tobytes())
    digest.update(str(ordered.output.shape[1:]).encode())
    return digest.hexdigest()


def chosen(predicted: Predicted) -> NDArray[np.int64]:
    """(n,) the class with the highest probability; the first of several."""
    return np.asarray(predicted.output.argmax(axis=1))


def right(predicted: Predicted) -> NDArray[np.bool_]:
    """(n,) whether the class is the right one, or all labels are."""
    if predicted.is_multilabel:
        return np.asarray((labelled(predicted) == predicted.target).all(axis=1))
    return np.asarray(chosen(predicted) == predicted.target)


def labelled(predicted: Predicted) -> NDArray[np.bool_]:
    """(n, L) the labels that are as likely as not, or likelier."""
    return np.asarray(predicted.output >= THRESHOLD)


def belonging(predicted: Predicted, index: int) -> NDArray[np.bool_]:
    """(n,) whether a row is of a class, or has a label."""
    if predicted.is_multilabel:
        return np.asarray(predicted.target[:, index], bool)
    return np.asarray(predicted.target == index)


def of_label(predicted: Predicted, index: int) -> Predicted:
    """One of several labels alone: two classes, not to have it and to have it."""
    there = predicted.output[:, index]
    name = class_names(predicted)[index]
    return replace(
        predicted,
        target=belonging(predicted, index).astype(np.int64),
        output=np.stack([1 - there, there], axis=1),
        classes=(f"¬ {name}", name),
    )


def class_names(predicted: Predicted) -> list[str]:
    """The C or L names; their numbers where the names are not known."""
    count = predicted.output.shape[1]
    names = predicted.classes or ()
    return list(names) if len(names) == count else [str(index) for index in range(count)]
