"""One study: how far it is, what it found, what to try next."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Sequence
from typing import Any

import streamlit as st

from app import address
from app.charts import endings, fronts, learning, parallel, parameters, progress, workers
from app.charts.style import Chart
from app.compared import predictions_of
from app.controls import controls
from app.leaderboard import columns, leaderboard
from app.parts import (
    LIVE_S,
    catalog,
    chart,
    current_words,
    heading,
    inert,
    made,
    offer,
    panels,
    study_or_stop,
    trouble,
)
from app.plot import Selecting
from app.sentences import number, span, suggestion
from app.views.confirmed import confirmed
from app.views.ensemble import link_to_best
from app.words import Words
from hpo.results import UserError
from hpo.results import advice as advising
from hpo.results.summary import busy_s, used
from hpo.results.tables import OVER, STATES, StudyTables

BY: tuple[progress.By, ...] = ("trial", "time")
VIEWS = ("overview", "parameters", "curves", "workers")
IDLE_S = 10.0  # between two looks at whether a study that rests goes on
MOST_SLICES = 6  # parameters shown unless others are asked for


def show() -> None:
    """Draw the page."""
    w = current_words()
    key = address.study()
    heading(inert(key) if key else w("page.study"), w)
    tables = study_or_stop(key, w)
    trouble()
    refresh_s = LIVE_S if tables.state == "running" or tables.missing_curves else None
    st.fragment(_state, run_every=refresh_s or IDLE_S)(tables.key, tables.state, w)
    view = address.choice("view", VIEWS, lambda v: w(f"study.view.{v}"), w("study.view"))
    st.fragment(_view, run_every=refresh_s)(view, tables.key, tables.state, w)


def _view(view: str, key: str, state: str, w: Words) -> None:
    tables = study_or_stop(key, w)
    if tables.state != state:
        st.rerun()  # it began or ended: what refreshes, and which buttons there are, changes
    if tables.trials.empty:
        st.info(w("study.no_trials"))
        return
    {"overview": _overview, "parameters": _parameters, "curves": _curves, "workers": _workers}[
        view
    ](tables, w)


# -- how far it is


def _state(key: str, state: str, w: Words) -> None:
    tables = study_or_stop(key, w)
    if tables.state != state:
        st.rerun()  # somebody goes on with it, or it has ended
    counts = tables.trials["state"].value_counts()
    shown = ", ".join(f"{counts[s]} {w(f'state.{s}')}" for s in STATES if s in counts)
    best = tables.best() if len(tables.objective) == 1 else None
    facts = st.columns([2, 1, 1, 1])
    facts[0].metric(
        w("column.trials"), w(f"state.{tables.state}"), shown, delta_color="off", delta_arrow="off"
    )
    if best is not None:
        metric, goal = tables.objective[0]["metric"], tables.objective[0]["goal"]
        value = tables.trials.set_index("number")["value"][best]
        facts[1].metric(
            inert(metric),
            number(value),
            w(f"study.best.{goal}", trial=best),
            delta_color="off",
            delta_arrow="off",
        )
    elapsed_s = busy_s(tables)
    share = used(tables)
    facts[2].metric(
        w("study.took"), span(elapsed_s, w), _busy(tables, w), delta_color="off", delta_arrow="off"
    )
    if not math.isnan(share):
        left = ""
        if tables.state == "running" and 0.02 < share < 1:
            left = w("study.left", time=span(elapsed_s * (1 - share) / share, w))
        facts[3].metric(
            w("column.used"), f"{share:.0%}", left or None, delta_color="off", delta_arrow="off"
        )
    if tables.missing_curves:
        st.caption(w("study.fetching", count=tables.missing_curves))
    behind = 0 if tables.state == "running" else catalog().pending(tables.key)
    if behind:
        st.warning(w("study.behind", count=behind))
        st.code(f"hpo sync {tables.key}", language=None)
    controls(tables, w)
    _running(tables, w)


def _running(tables: StudyTables, w: Words) -> None:
    """The trials that train now, epoch by epoch."""
    going = tables.trials[tables.trials["state"] == "running"]
    if going.empty or not tables.objective:
        return
    params = [column for column in map(str, going) if column.startswith("params.")]
    shown = going[["worker", "number", "last_epoch", "value", "seconds", *params]]
    shown = shown.dropna(axis=1, how="all")
    st.dataframe(
        shown,
        hide_index=True,
        key="running",
        column_config=columns(shown, w),
    )


def _busy(tables: StudyTables, w: Words) -> str | None:
    """How many workers there are, and which share of the time they trained."""
    if tables.spans.empty:
        return None
    trained_s = workers.trained_s(workers.timeline_table(tables.spans, tables.updated_ms))
    share = min(1.0, float(trained_s.sum()) / (len(trained_s) * max(busy_s(tables), 1e-9)))
    return w("study.busy", workers=len(trained_s), share=share)


# -- what it found


def _overview(tables: StudyTables, w: Words) -> None:
    if len(tables.objective) > 1:
        front = made(
            lambda: fronts.pareto(tables.trials, tables.objective, w),
            *("pareto", w.language, *_over(tables)),
        )
        _selectable(front, "pareto", tables, w)
    left, right = st.columns([3, 2])
    with left:
        _history(tables, w)
    confirmed(tables, w)
    leaderboard(tables, w)
    with right:  # last, since it takes longer
        _advice(tables, w)


def _history(tables: StudyTables, w: Words) -> None:
    with st.container(horizontal=True):
        by = address.choice("by", BY, lambda v: w(f"history.by.{v}"), w("history.by"))
        log = st.toggle(w("log_axis"), key="log", bind="query-params")
        index = 0
        if len(tables.objective) > 1:
            names = [goal["metric"] for goal in tables.objective]
            index = names.index(st.selectbox(w("column.metric"), names, key="objective"))
    found = made(
        lambda: progress.history(
            tables.trials, tables.objective, w, by, log, index, tables.epochs
        ),
        *("history", w.language, *_over(tables), by, log, index),
    )
    _selectable(found, "history", tables, w)


def _advice(tables: StudyTables, w: Words) -> None:
    st.header(w("advice"))
    best = tables.best()
    predicted = None if best is None else predictions_of(tables, best)
    found = made(
        lambda: advising.advice(tables, advising.importances(tables), predicted),
        *("advice", predicted is not None, *_over(tables)),
    )
    for one in found:
        st.markdown("- " + suggestion(one, w, inert))
    if not found:
        st.caption(w("advice.none"))
    if tables.state != "running":
        _ensembles(tables, w)


def _ensembles(tables: StudyTables, w: Words) -> None:
    """The way to those that were recorded, or to one of its best trials."""
    there: list[Any] = []
    with contextlib.suppress(UserError):  # a store that cannot be read now: it is said above
        there = made(lambda: catalog().ensembles(tables.key), *_at(tables, w, "ensembles"))
    if not there:
        link_to_best(tables, w)
        return
    label = w("ensemble.open", count=len(there))
    address.link(address.ENSEMBLE, label, icon=":material/hub:", study=tables.key)


# -- which parameters matter


def _parameters(tables: StudyTables, w: Words) -> None:
    if not tables.search:
        st.info(w("parameters.none"))
        return
    found = made(lambda: advising.importances(tables), "importances", *_over(tables))
    paths = list(tables.search)
    if found is None:
        st.info(w("importances.too_few"))
    else:
        caution = w("importances.few", trials=found.trials) if found.few else ""
        chart(parameters.importances(found.table, w, caution), f"{tables.key}-importances", w)
        ranked = [p for p in found.table["param"] if p in paths]
        paths = ranked + [p for p in paths if p not in ranked]
    _parallel(tables, w)
    shown = st.multiselect(
        w("slices.of"),
        paths,
        default=paths[:MOST_SLICES],
        format_func=_plain,
        key="slices",
        bind="query-params",
    )
    if shown:
        slices = made(
            lambda: parameters.slices(
                tables.trials, tables.search, tables.objective, w, shown, panels()
            ),
            *("slices", w.language, *_over(tables), panels(), *shown),
        )
        _selectable(slices, "slices", tables, w)
    if len(paths) > 1:
        _contour(tables, paths, w)


def _parallel(tables: StudyTables, w: Words) -> None:
    axes = made(
        lambda: parallel.parallel_axes(tables.trials, tables.search, tables.objective),
        *("parallel-axes", *_over(tables)),
    )
    found = made(
        lambda: parallel.parallel(tables.trials, axes, tables.objective, w),
        *("parallel", w.language, *_over(tables)),
    )
    selected = chart(found, f"{tables.key}-parallel", w, ("box",))
    if selected.boxes:
        brushed = parallel.brushed(selected.boxes, tables.trials, axes)
        offer([(tables.key, trial) for trial in brushed], "parallel", w)


def _contour(tables: StudyTables, paths: list[str], w: Words) -> None:
    with st.container(horizontal=True):
        x = st.selectbox(
            w("contour.x"), paths, index=0, key="x", format_func=_plain, bind="query-params"
        )
        y = st.selectbox(
            w("contour.y"), paths, index=1, key="y", format_func=_plain, bind="query-params"
        )
    found = made(
        lambda: parameters.contour(tables.trials, tables.search, tables.objective, w, x, y),
        *("contour", w.language, *_over(tables), x, y),
    )
    chart(found, f"{tables.key}-contour", w)


# -- how they learned


def _curves(tables: StudyTables, w: Words) -> None:
    metrics = tables.metrics
    if not metrics:
        st.info(w("curves.none"))
        return
    wanted = tables.objective[0]["metric"] if tables.objective else metrics[0]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        metric = st.selectbox(
            w("column.metric"),
            metrics,
            index=metrics.index(wanted) if wanted in metrics else 0,
            format_func=_plain,
            key="metric",
            bind="query-params",
        )
        best = address.whole_number("best", 0, 20, 5, w("curves.best"))
        log = st.toggle(w("log_axis"), key="log", bind="query-params")
    found = made(
        lambda: learning.learning_bands(
            tables.epochs, tables.trials, tables.objective, metric, w, best, log
        ),
        *_at(tables, w, "bands", metric, best, log),
    )
    chart(found, f"{tables.key}-curves", w)
    rungs = made(lambda: endings.rungs(tables.trials, w), "rungs", w.language, *_over(tables))
    chart(rungs, f"{tables.key}-rungs", w)


# -- who did what


def _workers(tables: StudyTables, w: Words) -> None:
    spans = made(
        lambda: workers.timeline(tables.spans, tables.updated_ms, w),
        *("workers", w.language, *_over(tables)),
    )
    _selectable(spans, "workers", tables, w, ("points",))
    if (tables.trials["state"] == "failed").any():
        causes = made(
            lambda: endings.failures(tables.trials, w), "failures", w.language, *_over(tables)
        )
        chart(causes, f"{tables.key}-failures", w)


def _selectable(
    found: Chart,
    key: str,
    tables: StudyTables,
    w: Words,
    select: Sequence[Selecting] = ("points", "box"),
) -> None:
    """A chart in which trials can be selected, and what can be done with those that are."""
    selected = chart(found, f"{tables.key}-{key}", w, select)
    offer([(tables.key, trial) for trial in selected.points], key, w)


def _at(tables: StudyTables, w: Words, *more: Any) -> tuple[Any, ...]:
    """Names what is made of these tables; see `made`."""
    return (tables.source, tables.key, tables.version, w.language, *more)


def _over(tables: StudyTables) -> tuple[Hashable, ...]:
    """The same as long as no trial ends: what is drawn of trials that are over stays the same."""
    ended = int(tables.trials["state"].isin(OVER).sum())
    return (tables.source, tables.key, tables.started_ms, ended, tables.state)


def _plain(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
