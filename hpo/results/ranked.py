"""Positives and negatives in the order of their scores: what curves and areas are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.results import intervals
from hpo.results.intervals import Floats


@dataclass(frozen=True)
class Ranked:
    """Positives and negatives by score: a step for each of the S distinct scores, falling.

    Attributes:
        threshold: (S,) the scores.
        tp, fp: (S,) how many positives and negatives have at least that score.
        step: (m,) in which step each item is.
        positive: (m,) bool.
        order: (m,) the items, the highest score first.
        row: (m,) of which row each item is.
    """

    threshold: NDArray[np.float32]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    step: NDArray[np.intp]
    positive: NDArray[np.bool_]
    order: NDArray[np.intp]
    row: NDArray[np.intp]

    @property
    def recall(self) -> Floats:
        return np.asarray(self.tp / self.tp[-1])

    @property
    def precision(self) -> Floats:
        return np.asarray(self.tp / (self.tp + self.fp))

    def roc_shares(self) -> tuple[float, Floats]:
        """The area, and of each item its share of the error: DeLong's placements.

        A positive's placement is the share of negatives below it, a negative's the share of
        positives above it; equal scores count half.
        """
        positives, negatives = self.tp[-1], self.fp[-1]
        below = 1 - (self.fp + np.append(0, self.fp[:-1])) / 2 / negatives
        above = (self.tp + np.append(0, self.tp[:-1])) / 2 / positives
        placement = np.where(self.positive, below[self.step], above[self.step])
        area = float((np.diff(self.tp, prepend=0) * below).sum() / positives)
        per_side = [math.sqrt(count * max(count - 1, 1)) for count in (positives, negatives)]
        return area, (placement - area) / np.where(self.positive, *per_side)

    def precision_shares(self) -> tuple[float, Floats]:
        """The average precision, and its derivative by the weight of each item.

        It is the mean over positives of tp / (tp + fp) at their scores: an item changes its own
        term, and those of all positives that do not score higher.
        """
        positives, said = self.tp[-1], self.tp + self.fp
        new, precision = np.diff(self.tp, prepend=0), self.precision
        area = float((new * precision).sum() / positives)
        gained = np.cumsum((new / said)[::-1])[::-1]
        diluted = np.cumsum((new * self.tp / said**2)[::-1])[::-1]
        own = self.positive * (precision[self.step] - area + gained[self.step])
        return area, (own - diluted[self.step]) / positives

    def resampled_tpr(self, fpr: Floats, rows: int, steps: NDArray[np.intp]) -> Floats:
        """The true positive rates at `fpr` in each resample of the rows.

        Args:
            fpr: (G,) rising.
            steps: (T,) the thresholds that are looked at; the last one is the lowest there is.

        Returns:
            (RESAMPLES, G); NaN in those that lack positives or negatives.
        """
        groups, at_least = min(rows, intervals.GROUPS), np.searchsorted(steps, self.step)
        place = intervals.group_of(rows)[self.row] * len(steps) + at_least
        rates = []
        for side in (~self.positive, self.positive):
            counts = np.bincount(place[side], minlength=groups * len(steps))
            sums = intervals.resampled_sums(counts.reshape(groups, -1).cumsum(axis=1))
            with np.errstate(invalid="ignore"):
                rates.append(sums / sums[:, -1:])
        return _interpolated(fpr, *rates)


def ranked(
    score: NDArray[Any], positive: NDArray[np.bool_], row: NDArray[np.intp]
) -> Ranked | None:
    """None where there are no positives or no negatives."""
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    new = falling[1:] != falling[:-1]
    ends = np.append(np.flatnonzero(new), len(order) - 1)
    tp = np.cumsum(positive[order])[ends]
    step = np.empty(len(order), np.intp)
    step[order] = np.append(0, np.cumsum(new))
    return Ranked(falling[ends], tp, ends + 1 - tp, step, positive, order, row)


def _interpolated(at: Floats, x: Floats, y: Floats) -> Floats:
    """`numpy.interp` for each row of rising `x` and `y` in [0, 1], from (0, 0); the highest y
    where x stands still; NaN where x or y is. (B, S) → (B, len(at))."""
    unknown = np.isnan(x[:, -1]) | np.isnan(y[:, -1])
    x, y = (np.pad(np.nan_to_num(part), ((0, 0), (1, 0))) for part in (x, y))
    width, shift = x.shape[1], 2.0 * np.arange(len(x))[:, None]  # rows end to end, one search
    queries = (at + shift + 1e-9).ravel()
    places = np.searchsorted((x + shift).ravel(), queries, side="right") - 1
    places = places.reshape(len(x), len(at)) - np.arange(len(x))[:, None] * width
    places = np.clip(places, 0, width - 2)
    x0, x1, y0, y1 = (
        np.take_along_axis(part, places + more, axis=1) for part in (x, y) for more in (0, 1)
    )
    share = np.clip((at - x0) / np.where(x1 > x0, x1 - x0, 1), 0, 1)
    found = np.where(x1 > x0, y0 + share * (y1 - y0), y1)
    found[unknown] = np.nan
    return found
