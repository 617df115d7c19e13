"""What is made small when members and weights are fitted: a mean over rows of one number each.

An ensemble's output is the weighted mean of its members'. So of a classifier only the probability
of the true class is needed for its log loss, and of a regression only the error, since weights
sum to 1: both are one number a member and row, and a candidate is scored without its other
classes. Of several labels it is one a label, the probability of what is true of it. Accuracy, F1
and areas are fitted by the log loss, too: they are steps with many ties, and what is chosen by
them on few rows fits these rows (docs/decisions/0009-ensembles.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.results.intervals import Floats

Singles = NDArray[np.float32]

# Of a probability, when members are weighed: four of them multiplied are a number still, and what
# lies below costs as much as a log loss of 21. What ensembles are judged by has no such limit.
LEAST = np.float32(2.0**-30)
BLOCK = 250_000  # numbers handled at a time: they stay in a core's cache


@dataclass(frozen=True)
class Criterion:
    """A loss of rows.

    Attributes:
        name: ``log_loss``, ``mse`` or ``mae``.
        mean: (m, n) sums of values, and of how many members → (m,) the mean losses of these
            members' means; the sums are overwritten.
        gains_shrink: Whether a member gains the less (see `gain`) the more others there are.
    """

    name: str
    mean: Callable[[Singles, float], Floats]
    gains_shrink: bool = False

    def values(self, output: Singles, target: NDArray[Any]) -> Singles:
        """(n,) what a member's output (n, C) or (n,) comes to, or (n, L) of labels: see the
        module."""
        if output.ndim == 1:
            return (output - target.astype(np.float64)).astype(np.float32)
        if target.ndim == 2:
            return np.asarray(np.maximum(np.where(target, output, 1 - output), LEAST))
        of_truth = np.arange(len(output)) * output.shape[1] + target.astype(np.int64)
        return np.asarray(np.maximum(output.ravel().take(of_truth), LEAST))

    def of(self, values: Singles) -> Floats:
        """(m,) the mean loss of each row of combined values, (m, n)."""
        return self._blocks(len(values), values.shape[1], lambda part: values[part].copy(), 1)

    def with_each(self, total: Singles, values: Singles, count: int) -> Floats:
        """(m,) the loss if each of `values` (m, n) joined a `total` (n,) of `count` members."""
        return self._blocks(len(values), len(total), lambda part: values[part] + total, count + 1)

    def gain(self, before: float, after: Floats, count: int) -> Floats:
        """(m,) by how much each member would improve a mean of `count` members, in an order that
        is theirs: of logarithms by what it adds to those of the sum, for then it can only shrink
        as the sum grows.

        Args:
            before: The loss of the mean.
            after: (m,) the loss with each.
        """
        grown = math.log((count + 1) / count) if count and self.gains_shrink else 0.0
        return np.asarray(before + grown - after)

    def _blocks(
        self, count: int, rows: int, block: Callable[[slice], Singles], members: float
    ) -> Floats:
        losses = np.empty(count)
        step = max(1, BLOCK // rows)
        for at in range(0, count, step):
            part = slice(at, at + step)
            losses[part] = self.mean(block(part), members)
        return losses


def _log_loss(sums: Singles, members: float) -> Floats:
    """One logarithm of four rows' product: it is what takes the time."""
    rows = sums.shape[1]
    quarter = rows // 4
    products, rest = sums[:, :quarter], sums[:, 4 * quarter :]
    for at in range(1, 4):
        products *= sums[:, at * quarter : (at + 1) * quarter]
    total = np.log(products, out=products).sum(axis=1) + np.log(rest).sum(axis=1)
    return np.asarray(math.log(members) - total.astype(np.float64) / rows)


def _squares(sums: Singles, members: float) -> Floats:
    return np.asarray(np.square(sums, out=sums).mean(axis=1), np.float64) / members**2


def _absolute(sums: Singles, members: float) -> Floats:
    return np.asarray(np.abs(sums, out=sums).mean(axis=1), np.float64) / members


LOG_LOSS = Criterion("log_loss", _log_loss, gains_shrink=True)
SQUARES = Criterion("mse", _squares)
ABSOLUTE = Criterion("mae", _absolute)


def for_metric(metric: str, task: str) -> Criterion:
    """By what an ensemble that is judged by `metric` is fitted."""
    if task != "regression":
        return LOG_LOSS
    return ABSOLUTE if metric in ("mae", "mape") else SQUARES
