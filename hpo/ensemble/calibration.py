"""Temperatures: one number a member that makes its probabilities as sure as it is right.

Guo et al. (2017), "On calibration of modern neural networks": logits divided by a temperature T,
which is the same as probabilities to the power 1/T, normalized; of labels each with its opposite.
The sharpness 1/T is one of SHARPNESS; the log loss is convex in it, so the nearest eighth is near
enough, and the losses of all of them on each fold are found once, for whatever folds a temperature
is fitted on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.ensemble.criterion import Singles
from hpo.results.intervals import Floats
from hpo.results.scores import LEAST_PROBABILITY

SHARPNESS = np.arange(1, 17) / 8  # temperatures of 8 to ½
AS_IT_IS = 7  # SHARPNESS[7] is 1


def sharpened(output: Singles, place: int, of_labels: bool = False) -> Singles:
    """(n, C) or (n, L) probabilities at SHARPNESS[place]; a row of zeros stays."""
    if place == AS_IT_IS:
        return output
    if of_labels:
        return np.ascontiguousarray(sharpened(_pairs(output), place)[:, 1].reshape(output.shape))
    powered = np.power(np.maximum(output, 0), np.float32(SHARPNESS[place]))
    total = powered.sum(axis=1, keepdims=True)
    return np.asarray(powered / np.where(total > 0, total, 1), np.float32)


def log_losses(
    output: Singles, target: NDArray[Any], fold: NDArray[np.intp], folds: int
) -> Floats:
    """(folds, SHARPNESS) the summed log loss of the rows of each fold at each sharpness.

    Args:
        output: (n, C) or (n, L) probabilities.
        target: (n,) class numbers, or (n, L) labels.
    """
    if target.ndim == 2:
        fold = np.repeat(fold, target.shape[1])
        output, target = _pairs(output), target.ravel()
    # The eighth root is three square roots, and every power of it one product more.
    root = np.sqrt(np.sqrt(np.sqrt(np.maximum(output, 0))))
    ones, places = np.ones(output.shape[1], np.float32), np.arange(len(output))
    flat = places * output.shape[1] + target.astype(np.int64)
    powered = np.ones_like(root)
    found = np.empty((folds, len(SHARPNESS)))
    for place in range(len(SHARPNESS)):
        powered *= root
        total = (powered @ ones).astype(np.float64)
        of_truth = powered.ravel()[flat] / np.where(total > 0, total, 1)
        losses = -np.log(np.maximum(of_truth, LEAST_PROBABILITY))
        found[:, place] = np.bincount(fold, losses, folds)
    return found


def _pairs(output: Singles) -> Singles:
    """(n·L, 2) the probabilities that a label is not there, and that it is."""
    there = output.reshape(-1)
    return np.stack([1 - there, there], axis=1)
