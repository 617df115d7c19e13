"""What a run's predictions say, in numbers: metrics, confusion, thresholds, calibration, errors.

Every interval is at 95 %. An output that is not a number (NaN, infinite) makes every metric of
the run NaN, since a run must not gain by rows that it does not predict; counts and tables are of
the other rows. Curves and areas under them are in `hpo.results.ranking`, comparisons in
`hpo.results.significance`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpo.results import intervals
from hpo.results.intervals import Estimate, Floats
from hpo.results.predicted import Predicted
from hpo.results.ranking import AREAS, area, area_shares, auc
from hpo.results.rows import belonging, chosen, class_names, finite, is_finite, labelled
from hpo.results.scores import STANDARD, score, task_of
from trainers.metrics import BINS

POSITIVE_COUNTS = ("tp", "fp", "fn", "tn")


def metrics(predicted: Predicted, further: Iterable[str] = ()) -> pd.DataFrame:
    """``metric``, ``value``, ``low``, ``high``: those of `hpo.results.scores.STANDARD`, in that
    order, and `further` ones that the predictions give."""
    names = dict.fromkeys([*STANDARD[task_of(predicted)], *further])
    found = measured(predicted, list(names))
    rows = [(name, each.value, each.low, each.high) for name, each in found.items()]
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high"])


def measured(predicted: Predicted, names: Sequence[str]) -> dict[str, Estimate]:
    """Metrics that the predictions give (`hpo.results.scores.gives`), with their intervals.

    Accuracies have Wilson's interval, areas (of class 1, or the mean over classes or labels)
    those of `hpo.results.ranking`, the others the bootstrap's over rows. Where all resamples agree
    the interval cannot be said.
    """
    rows = len(predicted.ids)
    values, samples = sampled(predicted, [name for name in names if name not in AREAS])
    found = {}
    for name in names:
        if name in AREAS:
            found[name] = area(predicted, name, "macro")
            continue
        low, high = map(float, intervals.percentiles(samples[name], rows))
        if score(predicted, name).is_share and not math.isnan(values[name]):
            low, high = map(float, intervals.wilson(values[name] * rows, rows))
        found[name] = Estimate(values[name], *((low, high) if low < high else ()))
    return found


def value(predicted: Predicted, metric: str) -> float:
    """A metric that the predictions give, without its interval."""
    if len(predicted.ids) == 0 or not is_finite(predicted):
        return math.nan
    if metric in AREAS:
        return area_shares(predicted, metric, "macro").value
    how = score(predicted, metric)
    return float(how.combine(how.columns(predicted).mean(axis=0)))


def sampled(
    predicted: Predicted, names: Sequence[str]
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Metrics that are no areas, and what they are in each of the shared resamples, (RESAMPLES,).

    All runs with as many rows share the resamples: rows must be in the same order to be paired.
    Resamples of a distance are moved to have it as their mean, but not below 0.
    """
    if not names:
        return {}, {}
    if len(predicted.ids) == 0 or not is_finite(predicted):
        nothing = np.full(intervals.RESAMPLES, math.nan)
        return dict.fromkeys(names, math.nan), dict.fromkeys(names, nothing)
    table = {name: score(predicted, name) for name in names}
    kinds = list(dict.fromkeys(how.columns for how in table.values()))
    parts = [kind(predicted) for kind in kinds]
    edges = np.cumsum([part.shape[1] for part in parts])[:-1]
    means = intervals.resampled_means(np.concatenate(parts, axis=1))
    resampled = dict(zip(kinds, np.split(means, edges, axis=1), strict=True))
    mean = {kind: part.mean(0) for kind, part in zip(kinds, parts, strict=True)}
    values, samples = {}, {}
    for name, how in table.items():
        values[name] = float(how.combine(mean[how.columns]))
        samples[name] = how.combine(resampled[how.columns].T)
        if how.is_distance:
            moved = samples[name] + values[name] - samples[name].mean()
            samples[name] = np.maximum(moved, 0)
    return values, samples


# -- classification


def confusion(predicted: Predicted) -> NDArray[np.int64]:
    """(C, C) counts: the row is the truth, the column what was said."""
    shown, count = finite(predicted), predicted.output.shape[1]
    pairs = shown.target.astype(np.int64) * count + chosen(shown)
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def per_class(predicted: Predicted) -> pd.DataFrame:
    """``class`` (or label), ``support`` (rows of it), then ``precision``, ``recall``, ``f1`` and
    ``auc``, each with ``_low`` and ``_high``; NaN where there is nothing to divide by."""
    hits, wanted, said = _of_each_class(predicted)
    missed = wanted + said - 2 * hits
    table: dict[str, Any] = {"class": class_names(predicted), "support": wanted.astype(np.int64)}
    for name, above, below, bounds in (
        ("precision", hits, said, intervals.wilson(hits, said)),
        ("recall", hits, wanted, intervals.wilson(hits, wanted)),
        ("f1", 2 * hits, wanted + said, intervals.wilson_f1(hits, missed)),
    ):
        table |= {name: _ratio(above, below), f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
    areas = [auc(predicted, index) for index in range(len(hits))]
    table["auc"] = [area.value for area in areas]
    table["auc_low"] = [area.low for area in areas]
    table["auc_high"] = [area.high for area in areas]
    found = pd.DataFrame(table)
    if not is_finite(predicted):
        found.loc[:, "precision":] = math.nan
    return found


def operating_points(
    runs: Mapping[str, Predicted], class_index: int, threshold: float
) -> pd.DataFrame:
    """What saying "it is `class_index`" from a probability of `threshold` on comes to.

    Returns:
        A row for each ``run``: ``tpr``, ``fpr``, ``precision``, ``recall``, ``f1``, ``accuracy``
        (of is it or is it not) and the counts ``tp``, ``fp``, ``fn``, ``tn``; NaN where there is
        nothing to divide by.
    """
    counts = np.array([_counts(predicted, class_index, threshold) for predicted in runs.values()])
    tp, fp, fn, tn = counts.reshape(-1, 4).T.astype(np.float64)
    table = {
        "run": list(runs),
        "tpr": _ratio(tp, tp + fn),
        "fpr": _ratio(fp, fp + tn),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
    }
    return pd.DataFrame(table | dict(zip(POSITIVE_COUNTS, (tp, fp, fn, tn), strict=True)))


def calibration(predicted: Predicted, bins: int = BINS) -> pd.DataFrame:
    """How often the class said is right, by the probability it was said with.

    Returns:
        A row for each bin that has rows: ``from``, ``to`` (its edges), ``confidence`` (the mean
        probability of the class said), ``accuracy``, ``low``, ``high`` (Wilson), ``count``.
    """
    shown = finite(predicted)
    confidence = shown.output.max(axis=1, initial=0).astype(np.float64)
    right = (chosen(shown) == shown.target) if len(shown.ids) else np.zeros(0, bool)
    place = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    hits = np.bincount(place, right, bins).astype(np.float64)
    summed = np.bincount(place, confidence, bins).astype(np.float64)
    low, high = intervals.wilson(hits, count)
    edges = np.linspace(0, 1, bins + 1)
    table = pd.DataFrame(
        {
            "from": edges[:-1],
            "to": edges[1:],
            "confidence": _ratio(summed, count),
            "accuracy": _ratio(hits, count),
            "low": low,
            "high": high,
            "count": count.astype(np.int64),
        }
    )
    return table[table["count"] > 0].reset_index(drop=True)


def score_histogram(predicted: Predicted, class_index: int, bins: int = 20) -> pd.DataFrame:
    """``from``, ``to``, ``positives``, ``negatives``: rows by their probability of a class, or
    label."""
    shown = finite(predicted)
    score, positive = shown.output[:, class_index], belonging(shown, class_index)
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "from": edges[:-1],
            "to": edges[1:],
            "positives": np.histogram(score[positive], edges)[0],
            "negatives": np.histogram(score[~positive], edges)[0],
        }
    )


# -- regression


def residuals(predicted: Predicted) -> pd.DataFrame:
    """``id``, ``target``, ``output``, ``residual`` (target − output), in the target's units."""
    shown = finite(predicted)
    target, output = shown.target.astype(np.float64), shown.output.astype(np.float64)
    return pd.DataFrame(
        {"id": shown.ids, "target": target, "output": output, "residual": target - output}
    )


def _of_each_class(predicted: Predicted) -> tuple[Floats, Floats, Floats]:
    """Rows of each class or label that are said to be of it; all of it; all said to be."""
    if predicted.is_multilabel:
        shown = finite(predicted)
        there, said = shown.target.astype(bool), labelled(shown)
        parts = (there & said, there, said)
        hits, wanted, named = (part.sum(0).astype(np.float64) for part in parts)
        return hits, wanted, named
    counts = confusion(predicted).astype(np.float64)
    return np.diag(counts), counts.sum(1), counts.sum(0)


def _counts(predicted: Predicted, class_index: int, threshold: float) -> tuple[int, ...]:
    """tp, fp, fn, tn. A probability of NaN is not above any threshold."""
    said = predicted.output[:, class_index] >= threshold
    wanted = belonging(predicted, class_index)
    tp = int((said & wanted).sum())
    fp, fn = int(said.sum()) - tp, int(wanted.sum()) - tp
    return tp, fp, fn, len(said) - tp - fp - fn


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.asarray(np.where(below > 0, above / np.where(below > 0, below, 1), math.nan))
