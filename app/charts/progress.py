"""How a study went: each trial's value, and the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.style import STATES, Chart, Floats, Trace
from app.words import Words
from hpo.results.tables import OVER

LOWEST = 0.025  # of the plot's height: where the ticks of failed trials stand


By = Literal["trial", "time"]
Hovers = Sequence[tuple[str, str]]


def history_table(
    trials: pd.DataFrame,
    objective: Sequence[Mapping[str, str]],
    by: By = "trial",
    index: int = 0,
    epochs: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Each trial's value and the best so far.

    Args:
        trials, objective: As in `hpo.results.StudyTables`.
        by: The order: of the trials' numbers, or of their ends.
        index: Which objective.
        epochs: The same; says when a trial that is not over was last heard of.

    Returns:
        ``number``, ``state``, ``reason``, ``started``, ``ended`` (as in ``trials``),
        ``elapsed_s`` from when the study's first trial began until this one ended, or else was
        last heard of; ``value`` (the objective's; the best so far of a trial that is not over),
        and ``best_so_far`` over complete trials.
    """
    column = f"value.{objective[index]['metric']}" if len(objective) > 1 else "value"
    table = trials[["number", "state", "reason", "started", "ended"]].copy()
    table["value"] = trials[column].astype("float64").where(np.isfinite(trials[column]))
    ends = table["ended"].fillna(_last_heard(table, epochs)).fillna(table["started"])
    table.insert(5, "elapsed_s", (ends - table["started"].min()).dt.total_seconds())
    order = ["number"] if by == "trial" else ["elapsed_s", "number"]
    table = table.sort_values(order, kind="stable", ignore_index=True)
    done = table["value"].where(table["state"] == "complete")
    maximize = objective[index]["goal"] == "maximize"
    best = done.cummax() if maximize else done.cummin()
    return table.assign(best_so_far=best.ffill())


def _last_heard(table: pd.DataFrame, epochs: pd.DataFrame | None) -> pd.Series:
    """When each trial that is not over reported its last epoch. (Its seconds do not tell: of a
    trial that shares its worker they are its share of the time.)"""
    is_open = table["ended"].isna()
    if epochs is None or not is_open.any():
        return pd.Series(pd.NaT, table.index, table["ended"].dtype)
    going = epochs[epochs["trial"].isin(table["number"][is_open])]
    last_ms = table["number"].map(going.groupby("trial")["time_ms"].max())
    last = pd.to_datetime(last_ms.astype("Int64"), unit="ms", utc=True)
    return last.astype(table["ended"].dtype)


def history(
    trials: pd.DataFrame,
    objective: Sequence[Mapping[str, str]],
    w: Words,
    by: By = "trial",
    log: bool = False,
    index: int = 0,
    epochs: pd.DataFrame | None = None,
) -> Chart:
    """Values over trials or over time, with the best so far as a line.

    A point's ``customdata`` is its trial's number. A pruned, running or stopped trial stands at
    the best it had; one that has no value is a tick at the bottom.

    Args:
        trials, objective: As in `hpo.results.StudyTables`.
        by: What the horizontal axis is.
        log: Whether the values' axis is logarithmic.
        index: Which objective.
        epochs: As in `history_table`.
    """
    table = history_table(trials, objective, by, index, epochs)
    metric = objective[index]["metric"]
    unit_s, unit = style.duration_unit(float(table["elapsed_s"].max()) if len(table) else 0.0)
    over = w("history.by_trial") if by == "trial" else w("history.by_time")
    x_title = w("term.trial") if by == "trial" else w("history.elapsed", unit=w(unit))
    fig = style.figure(f"{style.cut(metric, 28)} {over}", x_title, metric)
    if table.empty:
        return Chart(style.note(fig, w("empty.no_trials")), table)
    x = style.floats(table["number"] if by == "trial" else table["elapsed_s"] / unit_s)
    y, hidden = style.floats(table["value"]), 0
    best = style.floats(table["best_so_far"])
    if log:
        (y, hidden), (best, _) = lines.above_zero(y), lines.above_zero(best)
    hovers = [(w("term.trial"), "%{customdata}"), (metric, f"%{{y:{style.NUMBER}}}")]
    if by == "time":
        hovers.append((x_title, "%{x:.3~g}"))
    fig.add_traces([*_points(table, x, y, w, hovers), _best(x, best, w)])
    fig.add_traces(_ticks(table, x, w))
    fig.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False})
    fig.layout.yaxis2.fixedrange = True
    style.axis_type(fig, "y", log, y)
    outside = 0 if log else _look_at_the_usual(fig, y, best)
    return Chart(
        fig,
        table,
        style.said(
            style.left_out(w, hidden, "caption.not_positive"),
            style.left_out(w, outside, "caption.outside"),
        ),
    )


def _points(table: pd.DataFrame, x: Floats, y: Floats, w: Words, hovers: Hovers) -> list[Trace]:
    traces = []
    for state, (color, symbol) in STATES.items():
        here = (table["state"] == state).to_numpy() & np.isfinite(y)
        if here.any():
            hover = style.hover(("", f"<b>{w(f'state.{state}')}</b>"), *hovers)
            traces.append(_markers(table, here, x, y, w, state) | {"hovertemplate": hover})
            traces[-1]["marker"] = {"color": color, "symbol": symbol, "size": 7, "opacity": 0.85}
    return traces


def _ticks(table: pd.DataFrame, x: Floats, w: Words) -> list[Trace]:
    """Trials over without a value, at the bottom whatever the zoom, with the reason."""
    here = (table["value"].isna() & table["state"].isin(OVER)).to_numpy()
    if not here.any():
        return []
    reasons = [style.plain(reason or "–", 90) for reason in table.loc[here, "reason"].fillna("")]
    trace = _markers(table, here, x, np.full(len(x), LOWEST, np.float32), w, "failed")
    about = ((w("term.trial"), "%{customdata}"), (w("history.no_value"), "%{text}"))
    return [
        trace
        | {"yaxis": "y2", "text": reasons, "hovertemplate": style.hover(*about)}
        | {"marker": {"symbol": "line-ns-open", "size": 11, "color": STATES["failed"][0]}}
        | {"name": w("history.no_value")}
    ]


def _markers(table: pd.DataFrame, here: Any, x: Floats, y: Floats, w: Words, state: str) -> Trace:
    return {
        "type": "scatter" if here.sum() <= style.MOST_SVG else "scattergl",
        "mode": "markers",
        "name": w(f"state.{state}"),
        "x": x[here],
        "y": y[here],
        "customdata": table.loc[here, "number"].to_numpy(np.int32),
    }


def _best(x: Floats, best: Floats, w: Words) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": w("history.best_so_far"),
        "x": x,
        "y": best,
        "line": {"color": STATES["complete"][0], "width": 2, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _look_at_the_usual(fig: Any, y: Floats, best: Floats) -> int:
    """Show the usual values and the best one; return how many lie outside."""
    usual = style.usual_range(y)
    known = best[np.isfinite(best)]
    if usual is None or not len(known):
        return 0
    room = 0.05 * (usual[1] - usual[0])
    low, high = min(usual[0], float(known[-1]) - room), max(usual[1], float(known[-1]) + room)
    fig.update_layout(yaxis_range=[low, high])
    return int(((y < low) | (y > high)).sum())
