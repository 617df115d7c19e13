"""Compared classifiers by their probabilities: ROC, precision-recall, calibration, scores.

Of several labels a row, each is looked at alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from app import address
from app.charts import probabilities, thresholds
from app.charts.style import Chart, Trace, cut
from app.compared import Compared, predictions
from app.parts import Made, chart, csv, digits, made, made_of_run
from app.words import Words
from hpo.results import evaluation, ranking
from hpo.results.predicted import Predicted
from hpo.results.rows import belonging, class_names, of_label

MOST_BANDS = 4


def show(found: Compared, w: Words) -> None:
    """Draw the view."""
    kept = predictions(found)
    if not kept or not next(iter(kept.values())).has_probabilities:
        st.info(w("probabilities.none"))
        return
    st.fragment(_curves)(found, w)


def roc_chart(found: Compared, w: Words) -> None:
    """The ROC curves of all runs, averaged over classes (of class 1 where there are two) or
    labels."""
    kept = predictions(found)
    if not kept or not next(iter(kept.values())).has_probabilities:
        return
    of = _kinds(next(iter(kept.values())))[0]
    one = made(
        lambda: _roc(found, kept, of, False, w),
        *("roc", False, of, tuple(kept), w.language, *found.version),
    )
    chart(one, "compare-roc", w)


def _curves(found: Compared, w: Words) -> None:
    kept = predictions(found)
    first = next(iter(kept.values()))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kinds = _kinds(first)
        of = address.choice_of_many(
            "of", kinds, lambda kind: _name(kept, kind, w), w("probabilities.of")
        )
        bands = st.toggle(
            w("probabilities.bands"),
            disabled=len(kept) > MOST_BANDS,
            key="bands",
            bind="query-params",
        )
        threshold = 0.5
        if isinstance(of, int):
            threshold = st.slider(
                w("probabilities.threshold"), 0.0, 1.0, 0.5, 0.01, key="t", bind="query-params"
            )
    points = evaluation.operating_points(kept, of, threshold) if isinstance(of, int) else None
    at = (of, tuple(kept), w.language, *found.version)
    left, right = st.columns(2)
    with left:
        one = made(lambda: _roc(found, kept, of, bands, w), "roc", bands, *at)
        chart(one, "roc", w, over=_over(points, kept, "fpr", "tpr", w))
    with right:
        one = made(lambda: _precision_recall(found, kept, of, w), "precision-recall", *at)
        chart(one, "precision-recall", w, over=_over(points, kept, "recall", "precision", w))
    if points is not None:
        st.caption(w("probabilities.point", threshold=f"{threshold:.2f}"))
        st.dataframe(points, hide_index=True, key="operating-points", column_config=digits(points))
        csv(points, "operating-points", w)
    sure, of_one = kept, None  # what is as sure as it is right: the class that is said
    if first.is_multilabel:
        if not isinstance(of, int):
            st.caption(w("probabilities.label"))
            return
        sure, of_one = {run: of_label(predicted, of) for run, predicted in kept.items()}, of
    left, right = st.columns(2)
    with left:
        one = made(
            lambda: probabilities.calibration(
                {run: evaluation.calibration(predicted) for run, predicted in sure.items()}, w
            ),
            *("calibration", of_one, w.language, tuple(kept), *found.version),
        )
        chart(one, "calibration", w)
        errors = made(
            lambda: calibration_errors(sure, w),
            *("calibration-errors", of_one, w.language, tuple(kept), *found.version),
        )
        st.dataframe(
            errors, hide_index=True, key="calibration-errors", column_config=digits(errors)
        )
    with right:
        if isinstance(of, int):
            histograms = {
                run: evaluation.score_histogram(p, of) for run, p in list(kept.items())[:4]
            }
            chart(
                probabilities.score_histograms(histograms, w, _name(kept, of, w), threshold),
                "scores",
                w,
            )


def _roc(found: Compared, kept: Mapping[str, Predicted], of: Any, bands: bool, w: Words) -> Chart:
    curves = _of_each(ranking.roc, kept, of, found)
    areas = _of_each(ranking.auc, kept, of, found)
    spread = _spread(kept, of) if bands else None
    return thresholds.roc(curves, w, _name(kept, of, w), areas, spread)


def _precision_recall(found: Compared, kept: Mapping[str, Predicted], of: Any, w: Words) -> Chart:
    curves = _of_each(ranking.precision_recall, kept, of, found)
    areas = _of_each(ranking.average_precision, kept, of, found)
    first = next(iter(kept.values()))
    chance = float(belonging(first, of).mean()) if isinstance(of, int) else None
    return thresholds.precision_recall(curves, w, _name(kept, of, w), areas, chance)


def _over(
    points: pd.DataFrame | None, kept: Mapping[str, Predicted], x: str, y: str, w: Words
) -> list[Trace]:
    """What moves with the threshold is drawn over the curves, which stay as they are."""
    return [] if points is None else thresholds.points(points, list(kept), x, y, w)


def calibration_errors(kept: Mapping[str, Predicted], w: Words) -> pd.DataFrame:
    """How far what each run says with a probability is from how often that is right."""
    errors = [evaluation.value(predicted, "ece") for predicted in kept.values()]
    return pd.DataFrame({w("column.run"): list(kept), w("calibration.error"): errors})


def _kinds(predicted: Predicted) -> list[Any]:
    """What may be ranked: averages and each class or label; of two classes, the second."""
    count = predicted.output.shape[1]
    if count == 2 and predicted.is_classification:
        return [1, 0]
    return ["macro", "micro", *range(count)]


def _name(kept: Mapping[str, Predicted], of: Any, w: Words) -> str:
    first = next(iter(kept.values()))
    if isinstance(of, int):
        return cut(class_names(first)[of])
    return w(f"average.{'labels.' if first.is_multilabel else ''}{of}")


def _of_each(
    make: Callable[[Predicted, Any], Made], kept: Mapping[str, Predicted], of: Any, found: Compared
) -> dict[str, Made]:
    """What `make` says of each run: kept, so that another selection makes only what is new."""
    versions = found.version[len(found.names) :]  # of the studies
    return {
        run: made_of_run(partial(make, predicted, of), make.__name__, run, of, *versions)
        for run, predicted in kept.items()
    }


def _spread(kept: Mapping[str, Predicted], of: Any) -> dict[str, Any]:
    first = list(kept.items())[:MOST_BANDS]
    return {run: ranking.roc_band(predicted, of) for run, predicted in first}
