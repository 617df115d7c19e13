"""How well scores rank: ROC and precision-recall curves, their areas, intervals and bands.

OF says of what: a class's index (it against the rest), ``"macro"`` (the mean over the classes for
which there are positives and negatives), or ``"micro"`` (every score of every class pooled). With
two classes both averages are the curve of class 1.

Of the areas, each row's share of the error is known in closed form, so their intervals and tests
need no resampling: DeLong, DeLong and Clarke-Pearson (1988) for the area under the ROC curve of
one class; for averages the same, with the shares of a row summed over the classes (Obuchowski
1997); for average precision its derivative by each row's weight (the infinitesimal jackknife).
A row whose output is not a number is left out of curves; areas are NaN then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpo.results import intervals
from hpo.results.intervals import Estimate, Floats
from hpo.results.predicted import Predicted
from hpo.results.ranked import Ranked, ranked
from hpo.results.rows import finite, is_finite

Of = int | Literal["macro", "micro"]

Shared = tuple[float, Floats]  # an area, and the share of each item
POINTS = 200  # of a curve, at most: more cannot be seen

# Metrics that are areas under a curve, and how one is computed of one class against the rest.
AREAS: Mapping[str, Callable[[Ranked], Shared]] = {
    "roc_auc": Ranked.roc_shares,
    "pr_auc": Ranked.precision_shares,
}


@dataclass(frozen=True)
class Shares:
    """An area, and what each row adds to its error.

    Attributes:
        value: NaN where there are no positives or no negatives.
        rows: (n,); the variance of the area is the sum of their squares, and that of the
            difference of two runs the sum of the squares of the differences.
        positives, negatives: How many there are; of the rarest class, of several. Of pooled
            scores both are the number of rows.
    """

    value: float
    rows: Floats
    positives: int = 0
    negatives: int = 0

    @property
    def error(self) -> float:
        """The standard error."""
        return float(np.sqrt((self.rows**2).sum()))


def roc(predicted: Predicted, of: Of) -> pd.DataFrame:
    """The ROC curve: ``threshold``, ``fpr``, ``tpr``, from (0, 0) to (1, 1).

    A point for each threshold that bends the curve, at most POINTS. Empty where there are no
    positives or no negatives. The macro average is over a common grid and has no thresholds.
    """
    cases = _cases(finite(predicted), of)
    if not cases:
        return _frame(threshold=(), fpr=(), tpr=())
    if _kind(predicted, of) == "macro":
        rate = _grid()
        height = np.mean([np.interp(rate, *_roc_points(case)) for case in cases], axis=0)
        rate, height = np.append(0, rate), np.append(0, height)
        return _frame(threshold=np.full(len(rate), np.nan), fpr=rate, tpr=height)
    fpr, tpr = _roc_points(cases[0])
    threshold = np.append(np.inf, cases[0].threshold)
    keep = _visible(fpr, tpr)
    return _frame(threshold=threshold[keep], fpr=fpr[keep], tpr=tpr[keep])


def precision_recall(predicted: Predicted, of: Of) -> pd.DataFrame:
    """The precision-recall curve: ``threshold``, ``recall``, ``precision``; recall rises.

    It is a staircase: the precision at a point holds from the point before up to its recall.
    Starts at recall 0 and precision 1 by convention. Otherwise as `roc`.
    """
    cases = _cases(finite(predicted), of)
    if not cases:
        return _frame(threshold=(), recall=(), precision=())
    if _kind(predicted, of) == "macro":
        recall = np.linspace(0, 1, POINTS)
        heights = []
        for case in cases:
            reached = np.searchsorted(case.recall, recall - 1e-12)  # the first that has so much
            heights.append(case.precision[reached])
        height = np.mean(heights, axis=0)
        height[0] = 1.0
        return _frame(threshold=np.full(POINTS, np.nan), recall=recall, precision=height)
    case = cases[0]
    threshold = np.append(np.inf, case.threshold)
    recall, precision = np.append(0, case.recall), np.append(1, case.precision)
    keep = _visible(recall, precision)
    return _frame(threshold=threshold[keep], recall=recall[keep], precision=precision[keep])


def auc(predicted: Predicted, of: Of) -> Estimate:
    """The area under the ROC curve, with DeLong's interval on the logit scale.

    Where no row disagrees (an area of 0 or 1), or one row is all there is of a side, the variance
    cannot be seen; Newcombe's interval stands in. A class with a single row adds nothing to the
    interval of an average.
    """
    shares = area_shares(predicted, "roc_auc", of)
    rarest = min(shares.positives, shares.negatives)
    if shares.value in (0, 1) or (rarest == 1 and _kind(predicted, of) == "one"):
        return intervals.newcombe_auc(shares.value, shares.positives, shares.negatives)
    return intervals.within_0_1(shares.value, shares.error)


def average_precision(predicted: Predicted, of: Of) -> Estimate:
    """The area under the precision-recall staircase, with an interval on the logit scale.

    Where it is 1, Wilson's interval of so many positives without a miss stands in.
    """
    shares = area_shares(predicted, "pr_auc", of)
    if shares.value == 1:
        low, high = intervals.wilson(shares.positives, shares.positives)
        return Estimate(1.0, float(low), float(high))
    return intervals.within_0_1(shares.value, shares.error)


def area(predicted: Predicted, metric: str, of: Of) -> Estimate:
    """One of `AREAS`, with its interval."""
    return (auc if metric == "roc_auc" else average_precision)(predicted, of)


def area_shares(predicted: Predicted, metric: str, of: Of) -> Shares:
    """One of `AREAS` and each row's share of its error, rows as they are.

    An average is the mean over the cases; the shares of a row are summed over its items.
    """
    rows = len(predicted.ids)
    cases = _cases(predicted, of) if is_finite(predicted) else []
    if not cases:
        return Shares(math.nan, np.zeros(rows))
    found, total = 0.0, np.zeros(rows)
    for case in cases:
        value, shares = AREAS[metric](case)
        found += value
        total += np.bincount(case.row, shares, rows)
    rarest = min(cases, key=lambda case: int(case.tp[-1]))
    sides = (int(rarest.tp[-1]), int(rarest.fp[-1]))
    if _kind(predicted, of) == "micro":
        sides = (rows, rows)
    return Shares(found / len(cases), total / len(cases), *sides)


def roc_band(predicted: Predicted, of: Of) -> pd.DataFrame:
    """The ROC curve with a pointwise 95 % band: ``fpr``, ``tpr``, ``low``, ``high``.

    By resampling the rows. For one class the band is at least as wide as Wilson's interval of the
    true positive rate, so that a perfect curve has one too.
    """
    shown = finite(predicted)
    cases = _cases(shown, of)
    if not cases:
        return _frame(fpr=(), tpr=(), low=(), high=())
    rate, rows = np.linspace(0, 1, 101), len(shown.ids)
    height = np.mean([np.interp(rate, *_roc_points(case)) for case in cases], axis=0)
    total = np.zeros((intervals.RESAMPLES, len(rate)))
    count = np.zeros((intervals.RESAMPLES, 1))
    for case in cases:
        drawn = _visible(*_roc_points(case))[1:] - 1
        resampled = case.resampled_tpr(rate, rows, drawn)
        known = ~np.isnan(resampled[:, :1])  # a resample may lack a class
        total += np.where(known, resampled, 0)
        count += known
    samples = total / np.where(count > 0, count, math.nan)
    low, high = intervals.percentiles(samples, rows)
    if _kind(predicted, of) == "one":
        positives = cases[0].tp[-1]
        bounds = intervals.wilson(height * positives, np.full(len(height), positives))
        low, high = np.fmin(low, bounds[0]), np.fmax(high, bounds[1])
    return _frame(fpr=rate, tpr=height, low=low, high=high)


# -- what is ranked


def _kind(predicted: Predicted, of: Of) -> Literal["one", "macro", "micro"]:
    two_classes = predicted.is_classification and predicted.output.shape[1] == 2
    return "one" if isinstance(of, int) or two_classes else of


def _cases(predicted: Predicted, of: Of) -> list[Ranked]:
    if predicted.output.ndim == 1:
        raise ValueError("a regression has no ROC or precision-recall curve")
    rows, count = predicted.output.shape
    row = np.arange(rows)
    wanted = predicted.target.astype(bool)
    if predicted.is_classification:
        wanted = predicted.target[:, None] == np.arange(count)
    kind = _kind(predicted, of)
    if kind == "micro":
        cases = [ranked(predicted.output.ravel(), wanted.ravel(), np.repeat(row, count))]
    else:
        one = of if isinstance(of, int) else 1
        classes = range(count) if kind == "macro" else (one,)
        columns = [(predicted.output[:, k], wanted[:, k]) for k in classes]
        cases = [ranked(score, positive, row) for score, positive in columns]
    return [case for case in cases if case is not None]


# -- points


def _roc_points(case: Ranked) -> tuple[Floats, Floats]:
    return np.append(0, case.fp / case.fp[-1]), np.append(0, case.tp / case.tp[-1])


def _grid() -> Floats:
    """Rates from 0 to 1, closer together where curves are steep."""
    return np.union1d(np.geomspace(1e-4, 1, POINTS // 2 - 1), np.linspace(0, 1, POINTS // 2))


def _visible(x: Floats, y: Floats) -> NDArray[np.intp]:
    """The points that bend the curve; if those are too many, evenly along its way."""
    places = np.arange(len(x))
    bends = np.ones(len(x), bool)
    bends[1:-1] = np.abs(np.diff(x, 2)) + np.abs(np.diff(y, 2)) > 1e-12
    places = places[bends]
    if len(places) <= POINTS:
        return places
    way = np.cumsum(np.abs(np.diff(x[places])) + np.abs(np.diff(y[places])))
    even = np.searchsorted(way, np.linspace(0, way[-1], POINTS)[1:] - 1e-12) + 1
    return np.asarray(places[np.unique(np.append(0, np.minimum(even, len(places) - 1)))])


def _frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({name: np.asarray(c, np.float64) for name, c in columns.items()})
