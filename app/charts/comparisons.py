"""Runs against each other in one number each: intervals, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.style import Chart, Trace
from app.words import Words

MOST_NAMED_ROWS = 60  # runs whose names have room beside their row
DOT = "#0072b2"


def metric_intervals(table: pd.DataFrame, metric: str, maximize: bool, w: Words) -> Chart:
    """A metric of many runs with its 95 % interval, a row a run, the best on top.

    A point's ``customdata`` is the run's row in ``table``.

    Args:
        table: ``run``, ``value``, ``low``, ``high``; up to 200 runs. Bounds may be missing.
        metric: Its name.
        maximize: Whether more is better.
    """
    fig = style.figure(w("intervals.title", metric=style.cut(metric, 28)), metric, "")
    known = table.reset_index(drop=True).assign(place=np.arange(len(table)))
    known = known[np.isfinite(known["value"].astype("float64"))]
    if known.empty:
        return Chart(style.note(fig, w("empty.no_values")), table)
    ranked = known.sort_values("value", ascending=maximize, kind="stable")
    fig.add_traces([_whiskers(ranked, metric, w)])
    named = len(ranked) <= MOST_NAMED_ROWS
    fig.update_yaxes(
        tickvals=list(range(len(ranked))) if named else [],
        ticktext=[style.plain(lines.tail(run)) for run in ranked["run"]] if named else [],
        range=[-0.7, len(ranked) - 0.3],
        zeroline=False,
        showgrid=False,
    )
    each = 24 if len(ranked) <= 30 else 16 if named else 8
    fig.update_layout(height=130 + each * len(ranked))
    left = len(table) - len(known)
    return Chart(
        fig,
        table,
        style.said(
            w("intervals.caption"),
            "" if named else w("curves.hover_names"),
            style.left_out(w, left, "caption.no_value"),
        ),
    )


def _whiskers(ranked: pd.DataFrame, metric: str, w: Words) -> Trace:
    value = style.floats(ranked["value"])
    bounds = [
        f" ({low:.6g} – {high:.6g})" if np.isfinite(low + high) else ""
        for low, high in ranked[["low", "high"]].to_numpy(np.float64)
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "showlegend": False,
        "x": value,
        "y": np.arange(len(ranked), dtype=np.int32),
        "customdata": ranked["place"].to_numpy(np.int32),
        "text": [
            f"<b>{style.plain(run)}</b><br>{style.plain(metric)}: {v:.6g}{bound}"
            for run, v, bound in zip(ranked["run"], ranked["value"], bounds, strict=True)
        ],
        "marker": {"color": DOT, "size": 8 if len(ranked) <= MOST_NAMED_ROWS else 5},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": style.floats(ranked["high"]) - value,
            "arrayminus": value - style.floats(ranked["low"]),
            "thickness": 1.5,
            "width": 0,
        },
        "hovertemplate": style.hover(("", "%{text}")),
    }


def seed_spread(table: pd.DataFrame, values: pd.Series, metric: str, w: Words) -> Chart:
    """Runs that differ in nothing but their seed, with their mean and its 95 % interval.

    Args:
        table: From `hpo.results.differences.spread`.
        values: The metric by run's name; the names are those in ``table["rows"]``.
        metric: Its name.
    """
    params = [str(c) for c in table if str(c).startswith("params.")]
    fig = style.figure(w("seeds.title", metric=style.cut(metric, 28)), metric, "")
    shown = table[[c for c in table if c != "rows"]]
    if table.empty:
        return Chart(style.note(fig, w("empty.no_repeats")), shown)
    ordered = table.sort_values("mean", kind="stable")
    telling = [c for c in params if table[c].astype(str).nunique() > 1]
    names = [_group_name(row, telling, w) for row in ordered.to_dict("records")]
    fig.add_traces([_runs(ordered, values, w), _means(ordered, metric, w)])
    fig.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[-0.6, len(names) - 0.4],
        zeroline=False,
    )
    fig.update_layout(height=150 + 40 * len(names))
    return Chart(fig, shown, w("seeds.caption"))


def _group_name(row: Mapping[Any, Any], telling: Sequence[str], w: Words) -> str:
    said = [f"{c.rpartition('.')[2]}={style.compact(row[c])}" for c in telling]
    name = style.plain(", ".join(said) or w("seeds.same"), 34)
    return f"{name} (n={row['n']})"


def _runs(ordered: pd.DataFrame, values: pd.Series, w: Words) -> Trace:
    members = [(run, i) for i, runs in enumerate(ordered["rows"]) for run in runs]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": w("seeds.run"),
        "x": style.floats([values.get(run, np.nan) for run, _ in members]),
        "y": style.floats([place for _, place in members]),
        "text": [style.plain(run) for run, _ in members],
        "marker": {"color": style.GREY, "symbol": "circle-open", "size": 8},
        "hovertemplate": style.hover(("", "<b>%{text}</b>"), ("", f"%{{x:{style.NUMBER}}}")),
    }


def _means(ordered: pd.DataFrame, metric: str, w: Words) -> Trace:
    mean = style.floats(ordered["mean"])
    return {
        "type": "scatter",
        "mode": "markers",
        "name": w("seeds.mean"),
        "x": mean,
        "y": style.floats(np.arange(len(ordered))),
        "text": [
            f"{row.mean:.6g} ({row.low:.6g} – {row.high:.6g})<br>"
            f"{w('seeds.sd')}: {row.sd:.4g}<br>n: {row.n}"
            for row in ordered[["mean", "low", "high", "sd", "n"]].itertuples()
        ],
        "marker": {"color": DOT, "symbol": "diamond", "size": 10},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": style.floats(ordered["high"]) - mean,
            "arrayminus": mean - style.floats(ordered["low"]),
            "thickness": 2,
            "width": 5,
        },
        "hovertemplate": style.hover((metric, "%{text}")),
    }
