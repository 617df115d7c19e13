"""Compared runs by their errors: confusions and classes, or residuals."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd
import streamlit as st

from app import address
from app.charts import confusion, errors
from app.charts.style import cut
from app.compared import Compared, predictions
from app.parts import chart, csv, made_of_run, panels
from app.words import Words
from hpo.results import evaluation
from hpo.results.predicted import Predicted
from hpo.results.rows import class_names, of_label

SHOWN = 4
CLASS_METRICS = ("f1", "precision", "recall", "auc")


def show(found: Compared, w: Words) -> None:
    """Draw the view."""
    kept = predictions(found)
    if not kept:
        st.info(w("errors.none"))
    elif next(iter(kept.values())).has_probabilities:
        _classes(found, kept, w)
    else:
        _residuals(found, kept, w)


def _classes(found: Compared, kept: Mapping[str, Predicted], w: Words) -> None:
    """Of classes, or of one of several labels and then of all."""
    shown = st.multiselect(
        w("errors.runs"),
        list(kept),
        default=list(kept)[:2],
        max_selections=SHOWN,
        key="confusion-runs",
        bind="query-params",
    )
    if not shown:
        return
    first = next(iter(kept.values()))
    names, looked_at = class_names(first), kept
    if first.is_multilabel:
        label = address.choice_of_many(
            "label", range(len(names)), lambda index: cut(names[index]), w("errors.label")
        )
        looked_at = {run: of_label(kept[run], label) for run in shown}
        names = class_names(looked_at[shown[0]])
    counts = {run: evaluation.confusion(looked_at[run]) for run in shown}
    chart(confusion.confusions(counts, names, w, panels()), "confusion", w)
    if len(shown) >= 2:
        a, b = shown[:2]
        chart(
            confusion.confusion_difference((a, counts[a]), (b, counts[b]), names, w),
            "confusion-difference",
            w,
        )
    metric = st.segmented_control(
        w("column.metric"),
        CLASS_METRICS,
        format_func=str.upper,
        default="f1",
        required=True,
        key="class-metric",
        bind="query-params",
    )
    tables = {
        run: made_of_run(
            partial(evaluation.per_class, kept[run]),
            *("per-class", run, *found.version[1:]),
        )
        for run in shown
    }
    chart(confusion.class_metrics(tables, metric or "f1", w), "classes", w)
    whole = pd.concat([t.assign(run=run) for run, t in tables.items()], ignore_index=True)
    csv(whole, "per-class", w)


def _residuals(found: Compared, kept: Mapping[str, Predicted], w: Words) -> None:
    target = str(found.studies[found.runs[0][0]].dataset.get("target", ""))
    tables = {run: evaluation.residuals(predicted) for run, predicted in kept.items()}
    left, right = st.columns(2)
    with left:
        chart(errors.predicted_actual(tables, w, target, panels()), "predicted-actual", w)
    with right:
        chart(errors.residual_histogram(tables, w, target), "residuals", w)
