"""What the parameters did: slices, a contour of two, importances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from app.charts import style
from app.charts.axes import NOT_SET, Axis, Search, parameter_axis
from app.charts.panels import at, panels
from app.charts.style import STATES, Chart, Trace
from app.words import Words

LEAST_COMPLETE = 10  # trials, for a contour without the pruned ones
LEAST_FOR_CONTOUR = 6  # different places; fewer say nothing of what lies between
GRID = 40
Places = npt.NDArray[np.float64]  # (trials, 2) in [0, 1]
FITTED = ("complete", "pruned")  # states whose values are worth a point


def _points(trials: pd.DataFrame) -> pd.DataFrame:
    value = trials["value"].astype("float64")
    return trials[trials["state"].isin(FITTED) & np.isfinite(value)]


def slices(
    trials: pd.DataFrame,
    search: Search,
    objective: Sequence[Mapping[str, str]],
    w: Words,
    paths: Sequence[str] | None = None,
    columns: int = 2,
) -> Chart:
    """The value against each parameter; a point's ``customdata`` is its trial's number.

    Args:
        trials, search, objective: As in `hpo.results.StudyTables`.
        paths: Which parameters; all that were searched if None.
        columns: Panels side by side: 1 on a phone.
    """
    known = [c.removeprefix("params.") for c in map(str, trials) if c.startswith("params.")]
    chosen = [path for path in (known if paths is None else paths) if path in known]
    metric = objective[0]["metric"] if objective else "value"
    drawn = _points(trials)
    table = drawn[["number", "state", "value", *(f"params.{path}" for path in chosen)]]
    title = w("slices.title", metric=style.cut(metric, 28))
    if table.empty or not chosen:
        fig = style.figure(title, w("term.parameter"), metric)
        return Chart(style.note(fig, w("empty.no_values")), table)
    value = style.floats(table["value"])
    usual = style.usual_range(value)
    axes = [parameter_axis(path, search, trials[f"params.{path}"]) for path in chosen]
    fig = panels(
        title,
        chosen,
        columns,
        x=[_x_axis(axis, bool(table[f"params.{axis.path}"].notna().all()), w) for axis in axes],
        y=[{"title": metric, "range": usual, "nticks": 5}] * len(axes),
        shared_y=True,
    )
    for index, axis in enumerate(axes):
        fig.add_traces(at(index, _slice(table, axis, metric, w)))
    outside = 0 if usual is None else int(((value < usual[0]) | (value > usual[1])).sum())
    return Chart(fig, table, style.left_out(w, outside, "caption.outside"))


def _slice(table: pd.DataFrame, axis: Axis, metric: str, w: Words) -> list[Trace]:
    values = table[f"params.{axis.path}"]
    x = axis.positions(values)
    x[np.isnan(x)] = NOT_SET
    if axis.scale == "choice":  # side by side rather than on top of each other
        x = x + 0.08 / max(len(axis.choices) - 1, 1) * _spread(table["number"])
    traces = []
    for state in FITTED:
        here = (table["state"] == state).to_numpy()
        color, symbol = STATES[state]
        shown = zip(values[here], strict=True)
        about = ((w("term.trial"), "%{customdata}"), (axis.path, "%{text}"))
        traces.append(
            {
                "type": "scatter" if len(table) <= style.MOST_SVG else "scattergl",
                "mode": "markers",
                "name": w(f"state.{state}"),
                "legendgroup": state,
                "x": style.floats(x[here]),
                "y": style.floats(table.loc[here, "value"]),
                "customdata": table.loc[here, "number"].to_numpy(np.int32),
                "text": [
                    w("parallel.not_set") if pd.isna(v) else style.plain(style.compact(v))
                    for (v,) in shown
                ],
                "marker": {"color": color, "symbol": symbol, "size": 6, "opacity": 0.75},
                "hovertemplate": style.hover(*about, (metric, f"%{{y:{style.NUMBER}}}")),
            }
        )
    return traces


def _spread(numbers: pd.Series) -> npt.NDArray[np.float64]:
    """The same for the same trial, evenly in [-1, 1]: multiples of the golden ratio."""
    return 2 * (numbers.to_numpy(np.float64) * 0.6180339887 % 1) - 1


def _x_axis(axis: Axis, all_set: bool, w: Words) -> dict[str, Any]:
    places, texts = axis.ticks(4)
    if not all_set:
        places, texts = [NOT_SET, *places], [style.plain(w("parallel.not_set")), *texts]
    low = -0.1 if all_set else NOT_SET - 0.1
    return {"tickvals": places, "ticktext": texts, "range": [low, 1.1], "zeroline": False}


def contour(
    trials: pd.DataFrame,
    search: Search,
    objective: Sequence[Mapping[str, str]],
    w: Words,
    x: str,
    y: str,
) -> Chart:
    """The value over two parameters: means of the trials nearby, blank where there are none.

    Of pruned trials only if too few are complete: they had less time to become good.

    Args:
        trials, search, objective: As in `hpo.results.StudyTables`.
        x, y: The parameters' paths.
    """
    metric = objective[0]["metric"] if objective else "value"
    fig = style.figure(w("contour.title", metric=style.cut(metric, 28)), x, y, height=420)
    drawn = _points(trials)
    columns = ["number", "state", "value", f"params.{x}", f"params.{y}"]
    there = set(columns) <= set(drawn)
    table = drawn[columns].dropna() if there else pd.DataFrame(columns=columns)
    complete = table[table["state"] == "complete"]
    all_complete = len(complete) >= LEAST_COMPLETE
    table = complete if all_complete else table
    if table.empty:
        return Chart(style.note(fig, w("empty.no_both")), table)
    axes = [parameter_axis(path, search, trials[f"params.{path}"]) for path in (x, y)]
    places = np.stack([axis.positions(table[f"params.{axis.path}"]) for axis in axes], axis=1)
    enough = len(np.unique(places, axis=0)) >= LEAST_FOR_CONTOUR
    if enough:
        fig.add_traces([_surface(axes, places, table["value"])])
    fig.add_traces([_dots(table, places, axes, metric, w)])
    for axis, update in zip(axes, (fig.update_xaxes, fig.update_yaxes), strict=True):
        ticks, texts = axis.ticks()
        edge = 0.05 if axis.scale != "choice" else 0.7 / max(len(axis.choices) - 1, 1)
        update(tickvals=ticks, ticktext=texts, range=[-edge, 1 + edge], zeroline=False)
    if not enough:
        return Chart(fig, table, w("contour.too_few"))
    return Chart(fig, table, w("contour.caption" if all_complete else "contour.with_pruned"))


def _surface(axes: Sequence[Axis], places: Places, value: pd.Series) -> Trace:
    """Means weighted by a Gaussian of the distance (Nadaraya, Watson 1964): unlike an
    interpolation they do not follow the noise of single trials."""
    reach = float(np.clip(0.25 * len(places) ** (-1 / 6), 0.05, 0.2))
    grids, kernels, nearest = [], [], []
    for axis, at_ in zip(axes, places.T, strict=True):
        if axis.scale == "choice":
            grid = np.array([axis.place(i) for i in range(len(axis.choices))])
            kernel = (np.abs(grid[:, None] - at_) < 1e-9).astype(np.float64)
            near = np.where(kernel > 0, 0.0, np.inf)
        else:
            grid = np.linspace(0, 1, GRID)
            near = ((grid[:, None] - at_) / reach) ** 2
            kernel = np.exp(-near / 2)
        grids.append(grid)
        kernels.append(kernel)
        nearest.append(near)
    weights = kernels[0] @ kernels[1].T  # (x, y)
    sums = (kernels[0] * value.to_numpy(np.float64)) @ kernels[1].T
    gap = (nearest[0][:, None, :] + nearest[1][None, :, :]).min(axis=2)
    known = gap < 1.5  # about within reach of a trial
    z = np.where(known, sums / np.where(known, weights, 1), np.nan).T
    usual = style.usual_range(style.floats(value))
    bounds = {} if usual is None else {"zmin": usual[0], "zmax": usual[1]}
    numeric = all(axis.scale != "choice" for axis in axes)
    white = {"width": 0.5, "color": "rgba(255, 255, 255, 0.5)"}
    kind: Trace = (
        {"type": "contour", "ncontours": 12, "line": white}
        if numeric
        else {"type": "heatmap", "ygap": 2}
    )
    return kind | {
        "x": style.floats(grids[0]),
        "y": style.floats(grids[1]),
        "z": style.floats(z.ravel()).reshape(z.shape),
        "colorscale": "Cividis",
        "colorbar": {"thickness": 10, "outlinewidth": 0, "nticks": 5},
        "hoverinfo": "skip",
        **bounds,
    }


def _dots(
    table: pd.DataFrame,
    places: Places,
    axes: Sequence[Axis],
    metric: str,
    w: Words,
) -> Trace:
    rows = zip(*(table[f"params.{axis.path}"] for axis in axes), table["value"], strict=True)
    texts = [
        "<br>".join(
            f"{style.plain(name)}: {style.plain(style.compact(cell))}"
            for name, cell in zip((axes[0].path, axes[1].path), (a, b), strict=True)
        )
        + f"<br>{style.plain(metric)}: {value:.6g}"
        for a, b, value in rows
    ]
    return {
        "type": "scatter" if len(table) <= style.MOST_SVG else "scattergl",
        "mode": "markers",
        "showlegend": False,
        "x": style.floats(places[:, 0]),
        "y": style.floats(places[:, 1]),
        "customdata": table["number"].to_numpy(np.int32),
        "text": texts,
        "marker": {"color": "#ffffff", "size": 6, "line": {"color": "#333333", "width": 1.2}},
        "hovertemplate": style.hover((w("term.trial"), "%{customdata}"), ("", "%{text}")),
    }


def importances(table: pd.DataFrame, w: Words, caution: str = "") -> Chart:
    """How much of the value's spread each parameter explains, as bars.

    Args:
        table: ``param`` and ``importance`` in [0, 1].
        caution: What to say of their reliability, if anything.
    """
    fig = style.figure(w("importances.title"), w("importances.share"), "")
    if table.empty:
        return Chart(style.note(fig, caution or w("empty.no_importances")), table, caution)
    ranked = table.sort_values("importance", kind="stable")
    share = style.floats(ranked["importance"])
    names = [style.plain(path, 26) for path in ranked["param"]]
    fig.add_traces(
        [
            {
                "type": "bar",
                "orientation": "h",
                "x": share,
                "y": np.arange(len(names), dtype=np.int32),
                "text": [f"{value:.2f}" for value in share],
                "textposition": "outside",
                "cliponaxis": False,
                "customdata": [style.plain(path) for path in ranked["param"]],
                "marker": {"color": style.PALETTE[0]},
                "hovertemplate": style.hover(
                    ("", "%{customdata}"), ("", f"%{{x:{style.NUMBER}}}")
                ),
            }
        ]
    )
    top = float(np.nanmax(share)) if np.isfinite(share).any() else 1.0
    fig.update_xaxes(range=[0, max(top, 0.01) * 1.15])
    fig.update_yaxes(tickvals=list(range(len(names))), ticktext=names)
    fig.update_layout(height=130 + 30 * len(names))
    return Chart(fig, table, caution)
