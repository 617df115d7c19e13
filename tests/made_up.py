"""Predictions that nobody made, for tests of what is said of predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hpo.results.predicted import Predicted


def classifier(
    rows: int = 200, classes: int = 3, skill: float = 1.5, seed: int = 0, data: int = 0
) -> Predicted:
    """Probabilities as they are stored: of float16, with ties and zeros.

    Args:
        skill: How far the logit of the truth lies above the others.
        seed: Of the run; `data`: of the targets, which runs to be compared share.
    """
    target = np.random.default_rng(data).integers(0, classes, rows)
    logits = np.random.default_rng((seed, 1)).normal(size=(rows, classes)) * 2
    logits[np.arange(rows), target] += 2 * skill
    output = np.exp(logits - logits.max(axis=1, keepdims=True))
    output /= output.sum(axis=1, keepdims=True)
    names = tuple(f"class {index}" for index in range(classes))
    return Predicted(np.arange(rows) * 3, target, _stored(output), names)


def regression(rows: int = 200, error: float = 1.0, seed: int = 0, data: int = 0) -> Predicted:
    target = np.random.default_rng(data).normal(50, 4, rows)
    output = target + np.random.default_rng((seed, 1)).normal(0, error, rows)
    return Predicted(np.arange(rows), target, output.astype(np.float32))


def labels(rows: int = 200, seed: int = 0, data: int = 0) -> Predicted:
    """Of three labels, which a row can all have."""
    target = np.random.default_rng(data).random((rows, 3)) < [0.5, 0.3, 0.1]
    noise = np.random.default_rng((seed, 2)).normal(0, 1, target.shape)
    output = 1 / (1 + np.exp(noise - 2 * target + 1))
    return Predicted(np.arange(rows), target, output.astype(np.float32), ("cat", "dog", "owl"))


def said(target: list[int], output: list[list[float]] | list[float]) -> Predicted:
    """Exactly these; two columns where only the probability of class 1 is given."""
    scores = np.array(output, np.float32)
    if scores.ndim == 1:
        scores = np.stack([1 - scores, scores], axis=1)
    return Predicted(np.arange(len(target)), np.array(target), scores)


def shuffled(predicted: Predicted, seed: int = 0) -> Predicted:
    """The same rows in another order."""
    order = np.random.default_rng(seed).permutation(len(predicted.ids))
    return replace(
        predicted,
        ids=predicted.ids[order],
        target=predicted.target[order],
        output=predicted.output[order],
    )


def spoilt(predicted: Predicted, row: int = 0) -> Predicted:
    """With an output of NaN."""
    output = predicted.output.copy()
    output[row] = np.nan
    return replace(predicted, output=output)


def _stored(output: np.ndarray) -> np.ndarray:
    return output.astype(np.float16).astype(np.float32)
