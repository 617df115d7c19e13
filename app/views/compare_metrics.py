"""Compared runs in numbers: metrics with intervals, what differs, and whether it is real."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from app import sentences
from app.charts import comparisons
from app.charts.style import cut
from app.compared import Compared, metrics, predictions
from app.parts import chart, csv, digits, inert, made, made_of_run
from app.sentences import explained, interval, number
from app.words import Words
from hpo.results import differences, evaluation, significance
from hpo.results.scores import STANDARD, goal_of, task_of

BEST = ""  # the reference that is chosen unless one is named


def show(found: Compared, w: Words) -> None:
    """Draw the view."""
    verdict(found, w)
    _intervals(found, w)
    _differences(found, w)
    _spread(found, w)


def verdict(found: Compared, w: Words, brief: bool = False) -> None:
    """Is the best really better? In words; with all comparisons unless `brief`."""
    kept = predictions(found)
    if len(found.names) < 2:
        return
    if len(kept) < 2:
        st.info(w("real.no_predictions"))
        return
    names, reference = metrics(found), BEST
    metric = names[0]
    if not brief:
        st.header(w("real"))
        with st.container(horizontal=True):
            metric = st.selectbox(
                w("column.metric"), names, key="real-metric", bind="query-params"
            )
            reference = st.selectbox(
                w("real.reference"),
                [BEST, *kept],
                format_func=lambda name: name or w("real.best"),
                key="reference",
                bind="query-params",
            )
    result = made(
        lambda: significance.compare(kept, metric, reference or None),
        *("real", metric, reference, tuple(kept), *found.version),
    )
    if result.reference is not None:
        key, trial = dict(zip(found.names, found.runs, strict=True))[result.reference]
        result = significance.of_its_study(result, found.studies[key], trial)
    _say(result, w)
    if not brief:
        table = sentences.comparison_table(result, w)
        st.dataframe(table, hide_index=True, key="real-table")
        with st.container(horizontal=True):
            st.caption(w("real.how"))
            csv(result.table, "compare-tests", w)


def _say(result: significance.Comparison, w: Words) -> None:
    box = st.success if result.kind == "clear" else st.info
    box(sentences.verdict(result, w, inert))


def _metric_tables(found: Compared, further: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Run → the standard metrics, and further ones, with intervals."""
    return {
        name: made_of_run(
            partial(evaluation.metrics, predicted, further),
            *("metrics", name, further, *found.version[1:]),
        )
        for name, predicted in predictions(found).items()
    }


def _intervals(found: Compared, w: Words) -> None:
    st.header(w("metrics.intervals"))
    if not predictions(found):
        recorded = _recorded(found)
        st.dataframe(recorded, key="recorded", column_config=digits(recorded))
        return
    names = metrics(found)
    metric = st.selectbox(w("column.metric"), names, key="interval-metric", bind="query-params")
    st.caption(explained(metric, w))
    standard = STANDARD[task_of(next(iter(predictions(found).values())))]
    further = [name for name in dict.fromkeys((names[0], metric)) if name not in standard]
    found_metrics = _metric_tables(found, tuple(further))
    long = pd.concat(
        [table.assign(run=run) for run, table in found_metrics.items()], ignore_index=True
    )
    one = long[long["metric"] == metric].drop(columns="metric").reset_index(drop=True)
    chart(
        comparisons.metric_intervals(one, metric, goal_of(metric) == "maximize", w),
        "compare-intervals",
        w,
    )
    wide = {
        run: [
            f"{number(v)} {interval(low, high)}"
            for v, low, high in zip(t["value"], t["low"], t["high"], strict=True)
        ]
        for run, t in found_metrics.items()
    }
    shown = next(iter(found_metrics.values()))["metric"]
    st.dataframe(pd.DataFrame(wide, index=list(shown)).T, key="interval-table")
    with st.container(horizontal=True):
        st.caption(w("metrics.how"))
        csv(long, "compare-metrics", w)


def _recorded(found: Compared) -> pd.DataFrame:
    table = found.trials()
    names = {name for tables in found.studies.values() for name in tables.metrics}
    return table[[column for column in map(str, table) if column in names]]


def _differences(found: Compared, w: Words) -> None:
    st.header(w("differs"))
    table = differences.differing(found.configs())
    if table.empty:
        st.caption(w("differs.nothing"))
        return
    shown = table.map(lambda value: "" if value is None else cut(value, 60))
    st.dataframe(shown.rename_axis(w("term.parameter")), key="differs")
    csv(table.reset_index(), "compare-parameters", w)


def _spread(found: Compared, w: Words) -> None:
    trials = found.repeats()
    table = differences.spread(trials, "value")
    if table.empty:
        return
    st.header(w("spread"))
    metric = found.objective["metric"]
    chart(comparisons.seed_spread(table, trials["value"], metric, w), "compare-spread", w)
