"""Several objectives: which trials no other beats in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from app.charts import style
from app.charts.panels import at, panels
from app.charts.style import STATES, Chart, Trace
from app.words import Words

FRONT = "#d55e00"
Objective = Sequence[Mapping[str, str]]


def on_front(values: npt.NDArray[np.float64], maximize: Sequence[bool]) -> npt.NDArray[np.bool_]:
    """(n,) bool: whether no other row is at least as good in all columns and better in one.

    Args:
        values: (n, objectives) float64, finite.
        maximize: Whether more is better, for each column.
    """
    costs = np.where(np.array(maximize), -values, values)
    front = np.ones(len(costs), bool)
    for i, row in enumerate(costs):
        front[i] = not bool(((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any())
    return front


def front_table(trials: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """The complete trials with all values: ``number``, a column a metric, ``front`` (bool)."""
    names = [goal["metric"] for goal in objective]
    columns = [f"value.{name}" for name in names] if len(names) > 1 else ["value"]
    values = trials[columns].astype("float64")
    known = np.isfinite(values.to_numpy(np.float64)).all(axis=1)
    here = (trials["state"] == "complete") & known
    whole = pd.concat([trials["number"], values.set_axis(names, axis=1)], axis=1)
    table: pd.DataFrame = whole[here].reset_index(drop=True)
    maximize = [goal["goal"] == "maximize" for goal in objective]
    front = on_front(table[names].to_numpy(np.float64), maximize)
    return table.assign(front=front)


def pareto(trials: pd.DataFrame, objective: Objective, w: Words, columns: int = 2) -> Chart:
    """Trials over each pair of objectives, those on the Pareto front marked.

    A point's ``customdata`` is its trial's number. With two objectives a line shows the front.

    Args:
        trials, objective: As in `hpo.results.StudyTables`; two objectives or more.
        columns: Panels side by side with more than two objectives: 1 on a phone.
    """
    table = front_table(trials, objective)
    names = [goal["metric"] for goal in objective]
    title = w("pareto.title")
    if table.empty:
        return Chart(
            style.note(style.figure(title, names[0], names[-1]), w("empty.no_values")), table
        )
    caption = w("pareto.caption", front=int(table["front"].sum()), all=len(table))
    ranges = {name: _usual(table, name) for name in names}
    outside = np.zeros(len(table), bool)
    for name, (low, high) in ranges.items():
        outside |= ~table[name].between(low, high).to_numpy()
    caption = style.said(caption, style.left_out(w, int(outside.sum()), "caption.outside"))
    shown = ranges if outside.any() else dict.fromkeys(names)
    if len(names) == 2:
        x_title, y_title = (_axis_name(goal, w) for goal in objective)
        fig = style.figure(title, x_title, y_title, height=420)
        fig.add_traces([_line(table, objective, w), *_points(table, names[0], names[1], w)])
        fig.update_layout(xaxis_range=shown[names[0]], yaxis_range=shown[names[1]])
        return Chart(fig, table, caption)
    pairs = list(combinations(range(len(names)), 2))
    fig = panels(
        title,
        [""] * len(pairs),
        columns,
        x=[{"title": _axis_name(objective[x], w), "range": shown[names[x]]} for x, _ in pairs],
        y=[{"title": _axis_name(objective[y], w), "range": shown[names[y]]} for _, y in pairs],
    )
    for index, (x, y) in enumerate(pairs):
        fig.add_traces(at(index, _points(table, names[x], names[y], w)))
    return Chart(fig, table, caption)


def _usual(table: pd.DataFrame, name: str) -> tuple[float, float]:
    """What an axis shows: all values, or the usual ones and the front."""
    values = table[name].to_numpy(np.float64)
    low, high = style.usual_range(values) or (values.min(), values.max())
    front = values[table["front"].to_numpy(bool)]
    room = 0.05 * (high - low)
    return min(low, front.min() - room), max(high, front.max() + room)


def _axis_name(goal: Mapping[str, str], w: Words) -> str:
    better = w(f"goal.{goal['goal']}")
    return f"{style.cut(goal['metric'], 30)} ({better})"


def _points(table: pd.DataFrame, x: str, y: str, w: Words) -> list[Trace]:
    traces = []
    for front, key, marker in (
        (False, "pareto.beaten", {"color": STATES["waiting"][0], "symbol": "circle-open"}),
        (True, "pareto.front", {"color": FRONT, "symbol": "diamond"}),
    ):
        here = table[table["front"] == front]
        about = ((w("term.trial"), "%{customdata}"), (x, f"%{{x:{style.NUMBER}}}"))
        traces.append(
            {
                "type": "scatter" if len(here) <= style.MOST_SVG else "scattergl",
                "mode": "markers",
                "name": w(key),
                "legendgroup": key,
                "x": style.floats(here[x]),
                "y": style.floats(here[y]),
                "customdata": here["number"].to_numpy(np.int32),
                "marker": marker | {"size": 8 if front else 6},
                "hovertemplate": style.hover(*about, (y, f"%{{y:{style.NUMBER}}}")),
            }
        )
    return traces


def _line(table: pd.DataFrame, objective: Objective, w: Words) -> dict[str, Any]:
    """Steps between the members: what lies behind the line is beaten."""
    x, y = (goal["metric"] for goal in objective)
    front = table[table["front"]].sort_values([x, y])
    # From left to right, a member rules over what is worse in x until the next one.
    shape = "hv" if objective[0]["goal"] == "minimize" else "vh"
    return {
        "type": "scatter",
        "mode": "lines",
        "showlegend": False,
        "x": style.floats(front[x]),
        "y": style.floats(front[y]),
        "line": {"color": FRONT, "width": 1.5, "shape": shape},
        "hoverinfo": "skip",
    }
