"""Two to 200 runs, of one study or several, side by side."""

from __future__ import annotations

from functools import partial

import streamlit as st

from app import address
from app.charts import curves
from app.compared import Compared, compared, unlike
from app.parts import (
    LIVE_S,
    chart,
    current_words,
    heading,
    inert,
    made,
    trouble,
)
from app.picking import pick
from app.views import compare_errors, compare_examples, compare_metrics, compare_probabilities
from app.views.compare_probabilities import roc_chart
from app.words import Words

VIEWS = ("overview", "metrics", "errors", "probabilities", "examples")
OVER: tuple[curves.Over, ...] = ("epoch", "time", "samples")
FIRST_METRICS = 3


def show() -> None:
    """Draw the page."""
    w = current_words()
    runs = address.runs()
    if not runs and address.chosen():
        runs = address.chosen()
        address.set_runs(runs)
    found = compared(runs) if runs else None
    above = st.container()
    if found is None:
        st.info(w("compare.empty") if not runs else w("compare.none_there"))
    else:
        _view(found, runs, w)
    with above:  # sent last, since the browser is longer at the charts
        heading(w("page.compare"), w)
        trouble()
        _chosen(runs, w)
        if found is not None:
            _apart(found, w)


def _chosen(runs: list[address.Run], w: Words) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        pick(runs, w)
        if len(runs) > 1:
            of_these = {"runs": address.join(runs)}
            address.link(address.ENSEMBLE, w("ensemble.of_these"), ":material/hub:", **of_these)


def _apart(found: Compared, w: Words) -> None:
    """Say which runs are not shown, or not everywhere."""
    if found.missing:
        st.warning(w("compare.missing", runs=inert(", ".join(found.missing[:5]), 300)))
    if other := unlike(found):
        st.warning(w("compare.unlike", runs=inert(", ".join(other[:5]), 300), count=len(other)))


def _view(found: Compared, runs: list[address.Run], w: Words) -> None:
    views = [view for view in VIEWS if view != "probabilities" or _may_have_classes(found)]
    view = address.choice("view", views, lambda v: w(f"compare.view.{v}"), w("study.view"))
    live = any(
        tables.state == "running" or tables.missing_curves for tables in found.studies.values()
    )
    if view == "overview":
        st.fragment(_overview, run_every=LIVE_S if live else None)(runs, w)
    elif view == "metrics":
        compare_metrics.show(found, w)
    elif view == "errors":
        compare_errors.show(found, w)
    elif view == "probabilities":
        compare_probabilities.show(found, w)
    else:
        compare_examples.show(found, w)


def _may_have_classes(found: Compared) -> bool:
    """Whether a run predicts classes or labels, as far as is known."""
    tasks = {tables.dataset.get("task") for tables in found.studies.values()}
    return tasks != {"regression"}


# -- the overview: curves and ROC


def _overview(runs: list[address.Run], w: Words) -> None:
    found = compared(runs)
    if found is None:
        return
    answer = st.container()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        over = address.choice(
            "over", OVER, lambda v: w(f"compare.over.{v}"), w("compare.over"), hidden=False
        )
        smoothing = st.slider(
            w("compare.smoothing"), 0.0, 0.95, 0.0, 0.05, key="smooth", bind="query-params"
        )
        log_x = st.toggle(w("compare.log_x"), key="logx", bind="query-params")
        log_y = st.toggle(w("compare.log_y"), key="logy", bind="query-params")
    epochs = made(found.epochs, "epochs", *found.version)
    names = curves.metric_names([c for c in map(str, epochs) if "/" in c or _is_metric(found, c)])
    shown = st.multiselect(
        w("compare.metrics"),
        names,
        default=first_metrics(names),
        key="metrics",
        bind="query-params",
    )
    columns = st.columns(2)
    for place, metric in enumerate(shown):
        one = made(
            partial(curves.overlay, epochs, metric, w, over, smoothing, log_x, log_y, found.names),
            *("overlay", w.language, metric, over, smoothing, log_x, log_y, *found.version),
        )
        with columns[place % 2]:
            chart(one, f"compare-{metric}", w)
    with columns[len(shown) % 2]:
        roc_chart(found, w)
    with answer:  # last, since it takes longer than the charts
        compare_metrics.verdict(found, w, brief=True)


def first_metrics(names: list[str]) -> list[str]:
    """Loss, accuracy and F1 if they are there, else the first ones."""
    f1 = next((name for name in names if name.startswith("f1")), None)
    wanted = [name for name in ("loss", "accuracy", f1) if name in names]
    rest = [name for name in names if name not in wanted]
    return [*wanted, *rest][:FIRST_METRICS]


def _is_metric(found: Compared, column: str) -> bool:
    return any(column in tables.metrics for tables in found.studies.values())
