"""Parallel coordinates from Cartesian traces, so that a drawn box selects trials.

Plotly hands back boxes in Cartesian traces only. The parameters stand side by side at
x = 0, 1, 2, …, the objective last; each is scaled to [0, 1], or stands below at `NOT_SET` where a
trial did not have it. `brushed` turns the boxes that a person drew into trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.axes import NOT_SET, Axis, Positions, Search, parameter_axis, value_axis
from app.charts.style import Chart, Trace
from app.words import Words

MOST_AXES = 10
# From the worst quarter to the best tenth; the best are drawn last and thickest.
CLASSES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
COLORS = ("#808080", "#7b93d1", "#0072b2", "#009e73", "#d55e00")
WIDTHS = (0.8, 0.8, 1.0, 1.3, 2.2)  # pixels
OPACITIES = (0.4, 0.5, 0.6, 0.8, 1.0)
NAME_ROOM = 56  # pixels above the axes, for their names
PINK = style.PALETTE[3]  # of boxes: no class of lines has it
MANY = 150  # trials from which on lines are thinner and fainter
MOST_MARKED = 200  # trials with a marker on each axis; with more, on the objective's only


def parallel_axes(
    trials: pd.DataFrame,
    search: Search,
    objective: Sequence[Mapping[str, str]],
    paths: Sequence[str] | None = None,
) -> list[Axis]:
    """The axes, the objective's last.

    Args:
        trials, search, objective: As in `hpo.results.StudyTables`.
        paths: Which parameters, in which order; the first ten searched ones if None.
    """
    known = [c.removeprefix("params.") for c in map(str, trials) if c.startswith("params.")]
    chosen = [p for p in (known if paths is None else paths) if p in known][:MOST_AXES]
    axes = [parameter_axis(path, search, trials[f"params.{path}"]) for path in chosen]
    metric = objective[0]["metric"] if objective else "value"
    return [*axes, value_axis(metric, style.floats(_drawn(trials)["value"]))]


def parallel(
    trials: pd.DataFrame,
    axes: Sequence[Axis],
    objective: Sequence[Mapping[str, str]],
    w: Words,
) -> Chart:
    """Trials as lines over their parameters, coloured by the rank of their value.

    A marker's ``customdata`` is its trial's number.

    Args:
        trials, objective: As in `hpo.results.StudyTables`; trials without a value are left out.
        axes: From `parallel_axes`.
    """
    drawn = _drawn(trials)
    columns = [f"params.{axis.path}" for axis in axes[:-1]]
    table = drawn[["number", "state", "value", *columns]]
    fig = style.figure(w("parallel.title"), "", "", height=440)
    if table.empty:
        return Chart(style.note(fig, w("empty.no_values")), table)
    places = _places(drawn, axes)
    maximize = bool(objective) and objective[0]["goal"] == "maximize"
    fig.add_traces(_class_traces(drawn, places, maximize, w))
    fig.add_traces([_markers(drawn, places, axes, w)])
    _draw_axes(fig, axes, w, bool(np.isnan(places).any()))
    line = {"color": PINK, "width": 2, "dash": "dot"}
    fig.update_layout(dragmode="select", newselection={"line": line})
    left = len(trials) - len(drawn)
    away = np.abs(axes[-1].positions(drawn["value"]) - 0.5) - 0.5
    beyond = int((away > 1e-6).sum())  # of float32
    return Chart(
        fig,
        table,
        style.said(
            w("parallel.caption"),
            style.left_out(w, beyond, "parallel.beyond"),
            style.left_out(w, left, "caption.no_value"),
        ),
    )


def brushed(
    boxes: Sequence[Mapping[str, Any]], trials: pd.DataFrame, axes: Sequence[Axis]
) -> list[int]:
    """The trials that go through the boxes, in the table's order; all of them without a box.

    A box constrains each axis that lies within its width. Boxes on one axis add to each other;
    between axes, all have to hold.

    Args:
        boxes: ``{"x": (from, to), "y": (from, to)}``, the ends in either order.
        trials, axes: What `parallel` was given.
    """
    drawn = _drawn(trials)
    places = _places(drawn, axes)
    places[np.isnan(places)] = NOT_SET
    within = np.ones(len(drawn), bool)
    for x, place in enumerate(places.T):
        spans = [sorted(box["y"]) for box in boxes if min(box["x"]) <= x <= max(box["x"])]
        if spans:
            within &= np.any([(low <= place) & (place <= high) for low, high in spans], axis=0)
    return [int(number) for number in drawn["number"][within]]


def _drawn(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[np.isfinite(trials["value"].astype("float64"))]


def _places(drawn: pd.DataFrame, axes: Sequence[Axis]) -> Positions:
    """(trials, axes) in [0, 1], NaN where a parameter was not set; values beyond their axis are at
    its end."""
    columns = [axis.positions(drawn[f"params.{axis.path}"]) for axis in axes[:-1]]
    values = np.clip(axes[-1].positions(drawn["value"]), 0, 1)
    return np.stack([*columns, values], axis=1)


def _class_traces(drawn: pd.DataFrame, places: Positions, maximize: bool, w: Words) -> list[Trace]:
    value = drawn["value"].to_numpy(np.float64)
    goodness = pd.Series(value if maximize else -value).rank(pct=True).to_numpy()
    filled = np.where(np.isnan(places), NOT_SET, places)
    x = np.arange(places.shape[1])
    thin = min(1.0, MANY / len(drawn))
    traces = []
    for i, (low, high) in enumerate(zip(CLASSES[:-1], CLASSES[1:], strict=True)):
        here = (goodness > low) & (goodness <= high)
        if not here.any():
            continue
        ends = [style.compact(float(end)) for end in (value[here].min(), value[here].max())]
        share = w("parallel.best", percent=round(100 * (1 - low)))
        if low == 0:
            share = w("parallel.worst", percent=round(100 * high))
        elif high < 1:
            share = w("parallel.next", percent=round(100 * (high - low)))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": style.plain(f"{share}: {ends[0]} … {ends[1]}"),
                "x": lines.joined([x] * int(here.sum())),
                "y": lines.joined(list(filled[here])),
                "line": {"color": COLORS[i], "width": WIDTHS[i] * max(thin, 0.5)},
                "opacity": OPACITIES[i] * max(thin, 0.7 if high == 1 else 0.35),
                "hoverinfo": "skip",
            }
        )
    return traces


def _markers(drawn: pd.DataFrame, places: Positions, axes: Sequence[Axis], w: Words) -> Trace:
    """What hovers, clicks and boxes find: on every axis, or on the last one of many trials."""
    first = 0 if len(drawn) <= MOST_MARKED else len(axes) - 1
    values = [*(drawn[f"params.{axis.path}"] for axis in axes[:-1]), drawn["value"]]
    texts = [
        f"{style.plain(axis.path)}: {style.plain(_text(value, w))}"
        for axis, column in list(zip(axes, values, strict=True))[first:]
        for value in column
    ]
    y = np.where(np.isnan(places), NOT_SET, places)[:, first:].T.ravel()
    return {
        "type": "scatter",
        "mode": "markers",
        "showlegend": False,
        "x": style.floats(np.repeat(np.arange(first, len(axes)), len(drawn))),
        "y": style.floats(y),
        "customdata": np.tile(drawn["number"].to_numpy(np.int32), len(axes) - first),
        "text": texts,
        "marker": {"size": 5, "color": style.GREY, "opacity": 1.0 if first == 0 else 0.6},
        "hovertemplate": style.hover((w("term.trial"), "%{customdata}"), ("", "%{text}")),
    }


def _text(value: object, w: Words) -> str:
    return w("parallel.not_set") if pd.isna(value) else style.compact(value)  # type: ignore[call-overload]


def _draw_axes(fig: Any, axes: Sequence[Axis], w: Words, some_not_set: bool) -> None:
    """A vertical line, ticks and a name for each axis."""
    grey = {"color": style.GREY, "width": 1}
    ends = {"y0": 0, "y1": 1}
    shapes = [
        {"type": "line", "x0": x, "x1": x, **ends, "line": grey, "layer": "below"}
        for x in range(len(axes))
    ]
    ticks = [
        _tick(x, place, text)
        for x, axis in enumerate(axes)
        for place, text in zip(*axis.ticks(), strict=True)
    ]
    if some_not_set:
        ticks.append(_tick(0, NOT_SET, style.plain(w("parallel.not_set"))))
    names = [_name(x, text) for x, text in enumerate(_short_names(axes))]
    fig.update_layout(shapes=shapes, annotations=[*ticks, *names])
    top = int(fig.layout.margin.t) + NAME_ROOM
    fig.update_layout(margin={"l": 52, "r": NAME_ROOM + 8, "t": top})
    fig.update_xaxes(visible=False, range=[-0.08, len(axes) - 0.92])
    low = NOT_SET - 0.06 if some_not_set else -0.06
    fig.update_yaxes(visible=False, range=[low, 1.03])


def _tick(x: int, place: float, text: str) -> dict[str, Any]:
    """A label left of its axis, on a ground of its own: lines run beneath it."""
    where = {"x": x, "y": place, "xanchor": "right", "xshift": -3, "showarrow": False}
    font = {"size": 10, "color": "#ffffff"}
    return where | {"text": text, "font": font, "bgcolor": "rgba(90, 90, 90, 0.85)"}


def _name(x: int, text: str) -> dict[str, Any]:
    """An axis's name, aslant above it: room for many on a phone."""
    where = {"x": x, "y": 1, "yref": "y domain", "xanchor": "left", "yanchor": "bottom"}
    slant = {"textangle": -32, "font": {"size": 12}, "showarrow": False, "xshift": -6}
    return where | slant | {"text": style.plain(text, 14)}


def _short_names(axes: Sequence[Axis]) -> list[str]:
    """The last part of each path; the whole path where two would be the same."""
    last = [axis.path.replace("/", ".").rpartition(".")[2] for axis in axes]
    pairs = zip(last, axes, strict=True)
    return [name if last.count(name) == 1 else axis.path for name, axis in pairs]
