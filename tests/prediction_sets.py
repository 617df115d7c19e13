"""Predictions of models that share what is hard, and err differently beyond that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hpo.ensemble.criterion import for_metric
from hpo.ensemble.library import Library, open_library
from hpo.results.predicted import Predicted
from hpo.results.scores import task_of


def classifiers(
    trials: int = 12, rows: int = 300, classes: int = 3, seed: int = 0, signal: float = 1.0
) -> list[Predicted]:
    """Trial after trial more skilled; each with a sharpness of its own, from ½ to 2.

    Args:
        signal: 0: what they say has nothing to do with the targets.
    """
    random = np.random.default_rng(seed)
    target = random.integers(0, classes, rows)
    shared = random.normal(size=(rows, classes))
    found = []
    for trial in range(trials):
        logits = shared + random.normal(size=(rows, classes))
        logits[np.arange(rows), target] += signal * (0.5 + 2 * trial / trials)
        logits *= 2 ** random.uniform(-1, 1)
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        output = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
        found.append(Predicted(np.arange(rows), target, output))
    return found


def regressions(
    trials: int = 8, rows: int = 300, seed: int = 0, signal: float = 1.0
) -> list[Predicted]:
    random = np.random.default_rng(seed)
    target = random.normal(50, 4, rows)
    shared = random.normal(size=rows)
    found = []
    for trial in range(trials):
        output = 50 + signal * (target - 50) + shared + random.normal(0, 1 + trial / 2, rows)
        found.append(Predicted(np.arange(rows), target, output.astype(np.float32)))
    return found


def part(predicted: list[Predicted], rows: slice) -> list[Predicted]:
    """Only these rows of each."""
    return [
        replace(each, ids=each.ids[rows], target=each.target[rows], output=each.output[rows])
        for each in predicted
    ]


def library_of(predicted: list[Predicted], metric: str) -> Library:
    """A library of these; trial numbers are their places."""
    criterion = for_metric(metric, task_of(predicted[0]))
    library, left_out = open_library(
        range(len(predicted)), predicted.__getitem__, metric, criterion
    )
    assert not left_out
    return library
