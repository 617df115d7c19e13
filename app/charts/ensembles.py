"""An ensemble: its members, what each adds, how differently they err, its worth and its cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.matrices import BLUES, cells
from app.charts.style import Chart, Trace
from app.words import Words

MOST_MEMBERS = 40  # in a picture; all are in the CSV
WHOLE, SINGLE, REST = "#d55e00", "#0072b2", style.GREY
BOUNDS = {"disagreement": (0.0, None), "double_fault": (0.0, None)}  # others: in [-1, 1]


def weights(members: pd.DataFrame, metric: str, w: Words) -> Chart:
    """The weight of each member, the heaviest on top; a bar's ``customdata`` is its row.

    Args:
        members: ``run``, ``weight`` (they add up to 1), ``value`` (the member alone).
        metric: What ``value`` is.
    """
    fig = style.figure(w("ensemble.weights"), w("ensemble.weight"), "")
    shown = members.head(MOST_MEMBERS)
    share = style.floats(shown["weight"])
    y = np.arange(len(shown), dtype=np.int32)[::-1].copy()
    fig.add_bar(
        orientation="h",
        x=share,
        y=y,
        customdata=np.arange(len(shown), dtype=np.int32),
        text=[
            f"<b>{style.plain(run)}</b><br>{style.plain(metric)}: {value:.6g}"
            for run, value in zip(shown["run"], shown["value"], strict=True)
        ],
        textposition="none",
        marker={"color": SINGLE},
        hovertemplate=style.hover(("", "%{text}"), (w("ensemble.weight"), "%{x:.3~g}")),
    )
    fig.update_yaxes(
        tickvals=y,
        ticktext=[style.plain(lines.tail(run)) for run in shown["run"]],
        range=[-0.6, len(shown) - 0.4],
    )
    fig.update_xaxes(rangemode="tozero")
    fig.update_layout(height=130 + 24 * len(shown), bargap=0.3)
    more = len(members) - len(shown)
    return Chart(fig, members, style.left_out(w, more, "ensemble.more_members"))


def sizes(table: pd.DataFrame, single: float, metric: str, w: Words) -> Chart:
    """What the heaviest members alone come to, against the best single run.

    Args:
        table: ``members`` and ``value`` (the metric), by size.
        single: The best run alone, chosen by other rows than it is judged on.
        metric: Its name.
    """
    fig = style.figure(w("ensemble.sizes"), w("ensemble.members"), metric)
    x = table["members"].to_numpy(np.int32)
    about = ((w("ensemble.members"), "%{x}"), (metric, f"%{{y:{style.NUMBER}}}"))
    fig.add_traces(
        [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": w("ensemble.heaviest"),
                "x": x,
                "y": style.floats(table["value"]),
                "line": {"color": WHOLE, "width": 2},
                "marker": {"symbol": "diamond", "size": 8},
                "hovertemplate": style.hover(*about),
            },
            {
                "type": "scatter",
                "mode": "lines",
                "name": w("ensemble.single"),
                "x": [int(x.min()), int(x.max())],
                "y": style.floats([single, single]),
                "line": {"color": SINGLE, "width": 1.5, "dash": "dash"},
                "hovertemplate": style.hover((metric, f"%{{y:{style.NUMBER}}}")),
            },
        ]
    )
    fig.update_xaxes(tickvals=x, ticktext=[str(size) for size in x])
    return Chart(fig, table, w("ensemble.sizes.how"))


def diversity(matrix: pd.DataFrame, measure: str, w: Words) -> Chart:
    """How differently each two members err, as a matrix; the heaviest member first.

    Args:
        matrix: From `hpo.results.combined.differing`, of one measure: rows and columns are runs.
        measure: Its name there.
    """
    name = w(f"ensemble.measure.{measure}")
    fig = style.figure(w("ensemble.diversity", measure=name), "", "")
    shown = matrix.iloc[:MOST_MEMBERS, :MOST_MEMBERS]
    names = [lines.tail(str(run), 16) for run in shown.index]
    table = matrix.rename_axis(index="run").reset_index()
    if len(names) < 2:
        return Chart(style.note(fig, w("ensemble.one_member")), table)
    values = shown.to_numpy(np.float64)
    low, high = BOUNDS.get(measure, (-1.0, 1.0))
    highest = max(float(np.nanmax(values, initial=0)), 1e-6) if high is None else high
    fig.add_traces(
        cells(
            values,
            (low, highest),
            BLUES,
            [[f"{value:.2f}" for value in row] for row in values],
            [[_pair(a, b) for b in shown.index] for a in shown.index],
            style.hover(("", "%{customdata}"), (name, "%{z:.3~g}")),
            colorbar=True,
        )
    )
    ticks: dict[str, Any] = {
        "tickvals": list(range(len(names))),
        "ticktext": [style.plain(one) for one in names],
        "showgrid": False,
        "zeroline": False,
    }
    fig.update_xaxes(**ticks, tickangle=-90)
    fig.update_yaxes(**ticks, autorange="reversed")
    fig.update_layout(height=230 + int(np.clip(34 * len(names), 120, 460)))
    more = len(matrix) - len(shown)
    return Chart(
        fig,
        table,
        style.said(
            w(f"ensemble.measure.{measure}.how"), style.left_out(w, more, "ensemble.more_members")
        ),
    )


def _pair(a: object, b: object) -> str:
    return f"{style.plain(lines.tail(str(a)))} · {style.plain(lines.tail(str(b)))}"


def worth_and_cost(
    runs: pd.DataFrame, path: pd.DataFrame, metric: str, cost: str, log: bool, w: Words
) -> Chart:
    """What runs and ensembles are worth against what they cost.

    Args:
        runs: ``run``, ``value``, ``cost``, ``member`` (bool): single runs. A point's
            ``customdata`` is its row.
        path: ``members``, ``value``, ``cost``: the heaviest members alone, then all: the cost of
            an ensemble is the sum of its members'.
        metric, cost: Names of the axes.
        log: Whether the cost's axis is logarithmic.
    """
    fig = style.figure(w("ensemble.cost", metric=style.cut(metric, 28)), cost, metric, height=420)
    runs = runs.reset_index(drop=True).assign(place=np.arange(len(runs)))
    known = runs[np.isfinite(runs["value"]) & np.isfinite(runs["cost"])]
    table = pd.concat(
        [known.drop(columns="place"), path.assign(run=w("page.ensemble"))], ignore_index=True
    )
    if known.empty or path.empty:
        return Chart(style.note(fig, w("ensemble.no_cost")), table)
    traces = [
        _runs(known[known["member"] == member], member, metric, cost, w)
        for member in (False, True)
        if (known["member"] == member).any()
    ]
    fig.add_traces([*traces, _path(path, metric, cost, w)])
    style.axis_type(fig, "x", log, style.floats([*known["cost"], *path["cost"]]))
    if not log:
        fig.update_xaxes(rangemode="tozero")
    return Chart(
        fig,
        table,
        style.said(
            w("ensemble.cost.how"),
            style.left_out(w, len(runs) - len(known), "caption.no_value"),
        ),
    )


def _runs(here: pd.DataFrame, member: bool, metric: str, cost: str, w: Words) -> Trace:
    return {
        "type": "scatter" if len(here) <= style.MOST_SVG else "scattergl",
        "mode": "markers",
        "name": w("ensemble.is_member" if member else "ensemble.not_member"),
        "x": style.floats(here["cost"]),
        "y": style.floats(here["value"]),
        "customdata": here["place"].to_numpy(np.int32),
        "text": [style.plain(run) for run in here["run"]],
        "marker": {
            "color": SINGLE if member else REST,
            "symbol": "circle" if member else "circle-open",
            "size": 8 if member else 6,
        },
        "hovertemplate": style.hover(
            ("", "<b>%{text}</b>"),
            (metric, f"%{{y:{style.NUMBER}}}"),
            (cost, "%{x:.4~g}"),
        ),
    }


def _path(path: pd.DataFrame, metric: str, cost: str, w: Words) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": w("ensemble.heaviest"),
        "x": style.floats(path["cost"]),
        "y": style.floats(path["value"]),
        "text": [f"{w('ensemble.members')}: {size}" for size in path["members"]],
        "line": {"color": WHOLE, "width": 2},
        "marker": {"symbol": "diamond", "size": 9},
        "hovertemplate": style.hover(
            ("", "<b>%{text}</b>"), (metric, f"%{{y:{style.NUMBER}}}"), (cost, "%{x:.4~g}")
        ),
    }
