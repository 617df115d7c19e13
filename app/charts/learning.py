"""The learning curves of a whole study in one picture: bands, the best, and the rest behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.style import Chart, Trace
from app.words import Words

QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}
MOST_FAINT = 200  # curves behind the bands
BLUE = "0, 114, 178"  # of the palette, as Plotly wants it with an opacity


def bands_table(epochs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """How a metric is spread over the trials at each epoch.

    Args:
        epochs: As in `hpo.results.StudyTables`.

    Returns:
        ``epoch``, ``trials`` that reported the metric there, ``p10``, ``p25``, ``median``,
        ``p75`` and ``p90`` of them.
    """
    return _bands(_matrix(epochs, metric))


def learning_bands(
    epochs: pd.DataFrame,
    trials: pd.DataFrame,
    objective: Sequence[Mapping[str, str]],
    metric: str,
    w: Words,
    best: int = 5,
    log: bool = False,
) -> Chart:
    """Bands of a metric over epochs, the best trials' curves, and up to 200 others behind.

    The others are spread evenly over the ranks, the worst included. A curve's ``customdata`` is
    its trial's number.

    Args:
        epochs, trials, objective: As in `hpo.results.StudyTables`.
        metric: A column of ``epochs``.
        best: How many of the best trials (by the first objective) are drawn each for itself.
        log: Whether the metric's axis is logarithmic.
    """
    matrix = _matrix(epochs, metric)
    table = _bands(matrix)
    title = w("bands.title", metric=style.cut(metric, 28))
    fig = style.figure(title, w("term.epoch"), metric, height=420)
    if table.empty:
        return Chart(style.note(fig, w("empty.no_curves", metric=style.cut(metric, 40))), table)
    values = style.floats(matrix.to_numpy().ravel())
    hidden = lines.above_zero(values)[1] if log else 0
    drawn = matrix.where(matrix > 0).dropna(axis=1, how="all") if log else matrix
    left_out = style.left_out(w, hidden, "caption.not_positive")
    if drawn.empty:
        return Chart(style.note(fig, left_out), table, left_out)
    ranked = _by_rank(trials, objective, drawn)
    rest = ranked[best:]
    places = np.linspace(0, len(rest) - 1, min(MOST_FAINT, len(rest))).astype(int)
    shown = [rest[place] for place in np.unique(places)]
    fig.add_traces(_faint(drawn, shown, metric, w) if shown else [])
    fig.add_traces(_band_traces(table, log, w))
    fig.add_traces([_one(drawn, trial, place, w) for place, trial in enumerate(ranked[:best])])
    style.axis_type(fig, "y", log, values)
    ends = style.floats(pd.concat([drawn.min(), drawn.max()]))  # as in `curves`
    usual = None if log else style.usual_range(ends)
    fig.update_layout(yaxis_range=usual)
    outside = 0 if usual is None else int(((values < usual[0]) | (values > usual[1])).sum())
    few = w("bands.faint", shown=len(shown), all=len(rest)) if len(shown) < len(rest) else ""
    outside_too = style.left_out(w, outside, "caption.outside")
    return Chart(fig, table, style.said(w("bands.caption"), few, left_out, outside_too))


def _matrix(epochs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Epochs × trials, finite values only; epochs and trials without any are left out."""
    if metric not in epochs:
        return pd.DataFrame(dtype="float64")
    column = epochs[["trial", "epoch", metric]]
    column = column[np.isfinite(column[metric])]
    matrix: pd.DataFrame = column.pivot_table(
        index="epoch", columns="trial", values=metric, aggfunc="last"
    )
    return matrix


def _bands(matrix: pd.DataFrame) -> pd.DataFrame:
    if matrix.empty:
        return pd.DataFrame(columns=["epoch", "trials", *QUANTILES])
    spread = matrix.quantile(list(QUANTILES.values()), axis=1).T
    spread.columns = pd.Index(list(QUANTILES))
    spread.insert(0, "trials", matrix.notna().sum(axis=1))
    return spread.reset_index()


def _by_rank(
    trials: pd.DataFrame, objective: Sequence[Mapping[str, str]], matrix: pd.DataFrame
) -> list[int]:
    """The trials of the matrix, the best first, those without a value last."""
    maximize = bool(objective) and objective[0]["goal"] == "maximize"
    value = trials.set_index("number")["value"].reindex(matrix.columns)
    order = value.sort_values(ascending=not maximize, kind="stable", na_position="last")
    return [int(number) for number in order.index]


def _faint(matrix: pd.DataFrame, shown: Sequence[int], metric: str, w: Words) -> list[Trace]:
    """The curves as one trace, and a marker where each ends, to be clicked."""
    epoch = style.floats(matrix.index)
    curves = [
        lines.thinned(epoch, style.floats(matrix[trial]), lines.points_each(len(shown)))
        for trial in shown
    ]
    hovers = (
        (w("term.trial"), "%{customdata}"),
        (w("term.epoch"), "%{x}"),
        (metric, f"%{{y:{style.NUMBER}}}"),
    )
    lengths = [len(x) + 1 for x, _ in curves]
    ends = [int(np.flatnonzero(np.isfinite(y))[-1]) for _, y in curves]
    both: Trace = {
        "type": "scatter",
        "name": w("bands.rest"),
        "legendgroup": "rest",
        "opacity": 0.3,
        "hovertemplate": style.hover(*hovers),
    }
    return [
        both
        | {
            "mode": "lines",
            "x": lines.joined([x for x, _ in curves]),
            "y": lines.joined([y for _, y in curves]),
            "customdata": np.repeat(np.array(shown, np.int32), lengths),
            "line": {"color": style.GREY, "width": 1},
        },
        both
        | {
            "mode": "markers",
            "showlegend": False,
            "x": style.floats([x[end] for (x, _), end in zip(curves, ends, strict=True)]),
            "y": style.floats([y[end] for (_, y), end in zip(curves, ends, strict=True)]),
            "customdata": np.array(shown, np.int32),
            "marker": {"color": style.GREY, "size": 4},
        },
    ]


def _band_traces(table: pd.DataFrame, log: bool, w: Words) -> list[Trace]:
    epoch = style.floats(table["epoch"])
    edges = {name: style.floats(table[name]) for name in QUANTILES}
    if log:
        edges = {name: lines.above_zero(edge)[0] for name, edge in edges.items()}
    traces = []
    for low, high, alpha, key in (
        ("p10", "p90", 0.15, "bands.80"),
        ("p25", "p75", 0.25, "bands.50"),
    ):
        bottom, top = edges[low], edges[high]
        there = np.isfinite(bottom) & np.isfinite(top)
        outline = np.concatenate([top[there], bottom[there][::-1]])
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": w(key),
                "x": np.concatenate([epoch[there], epoch[there][::-1]]),
                "y": outline,
                "fill": "toself",
                "fillcolor": f"rgba({BLUE}, {alpha})",
                "line": {"width": 0},
                "hoverinfo": "skip",
            }
        )
    hovers: list[tuple[str, Any]] = [
        (w("term.epoch"), "%{x}"),
        (w("bands.median"), f"%{{y:{style.NUMBER}}}"),
        (w("bands.trials"), "%{customdata}"),
    ]
    return [
        *traces,
        {
            "type": "scatter",
            "mode": "lines",
            "name": w("bands.median"),
            "x": epoch,
            "y": edges["median"],
            "customdata": table["trials"].to_numpy(np.int32, na_value=0),
            "line": {"color": f"rgb({BLUE})", "width": 2.5, "dash": "dash"},
            "hovertemplate": style.hover(*hovers),
        },
    ]


def _one(matrix: pd.DataFrame, trial: int, place: int, w: Words) -> Trace:
    epoch = style.floats(matrix.index)
    x, y = lines.thinned(epoch, style.floats(matrix[trial]), lines.MOST_POINTS)
    there = np.isfinite(y)
    look = style.look(place + 1)  # blue is the bands'
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": w("bands.best", trial=trial),
        "x": x[there],
        "y": y[there],
        "customdata": np.full(int(there.sum()), trial, np.int32),
        "line": {"color": look.color, "width": 2},
        "marker": {"symbol": look.symbol, "size": 7, "maxdisplayed": 8},
        "hovertemplate": style.hover((w("term.epoch"), "%{x}"), (w("term.value"), "%{y:.6~g}")),
    }
