"""Where a regression is off: predicted against actual, and how the errors are spread."""

from __future__ import annotations

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.panels import at, panels, upright
from app.charts.runs import Tables, together
from app.charts.style import Chart, Trace
from app.words import Words

MOST_PANELS = 4
MOST_ROWS = 4_000  # points a panel, evenly over the rows
BINS = 40


def predicted_actual(tables: Tables, w: Words, target: str = "", columns: int = 2) -> Chart:
    """Predicted values over true ones, a panel a run; a point's ``customdata`` is the row's id.

    Args:
        tables: Run → `hpo.results.evaluation.residuals`; four at most are drawn.
        target: What is predicted, with its unit.
        columns: Panels side by side: 1 on a phone.
    """
    shown = {run: t for run, t in list(tables.items())[:MOST_PANELS] if len(t)}
    table = together(tables)
    actual, predicted = w("errors.actual", target=target), w("errors.predicted", target=target)
    if not shown:
        fig = style.figure(w("errors.scatter"), actual, predicted)
        return Chart(style.note(fig, w("empty.no_rows")), table)
    fig = panels(
        w("errors.scatter"),
        [lines.tail(run, 34) for run in shown],
        columns,
        x=[{"title": actual}] * len(shown),
        y=[{"title": predicted}] * len(shown),
        height=260,
    )
    low, high = _ends(shown)
    left = 0
    for index, rows in enumerate(shown.values()):
        few = rows.iloc[:: -(-len(rows) // MOST_ROWS)]
        left += len(rows) - len(few)
        fig.add_traces(at(index, [_diagonal(low, high), _scatter(few, actual, predicted, w)]))
    return Chart(
        fig,
        table,
        style.said(
            style.left_out(w, left, "errors.thinned"),
            style.left_out(w, len(tables) - len(shown), "caption.more_runs"),
        ),
    )


def residual_histogram(tables: Tables, w: Words, target: str = "") -> Chart:
    """How the residuals (actual − predicted) are spread, a line a run, over the same bins.

    Args:
        tables, target: As in `predicted_actual`; twelve at most are drawn.
    """
    shown = {run: t for run, t in list(tables.items())[: style.MOST_NAMED] if len(t)}
    x_title = w("errors.residual", target=target)
    fig = style.figure(w("errors.histogram"), x_title, w("term.rows"))
    if not shown:
        return Chart(style.note(fig, w("empty.no_rows")), together(tables))
    every = np.concatenate([t["residual"].to_numpy(np.float64) for t in shown.values()])
    every = every[np.isfinite(every)]
    # The far tails in the outermost bins, so that one huge error leaves the rest to be seen.
    low, high = np.quantile(every, (0.005, 0.995)) if len(every) else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    rows = {
        run: np.histogram(np.clip(t["residual"].dropna(), low, high), edges)[0]
        for run, t in shown.items()
    }
    fig.add_traces(
        [_outline(run, i, n, edges, x_title, w) for i, (run, n) in enumerate(rows.items())]
    )
    fig.update_layout(shapes=[upright(0, 0.0, "dot")])
    table = pd.DataFrame({"from": edges[:-1], "to": edges[1:], **rows})
    tails = w("errors.tails") if len(every) and (every.min() < low or every.max() > high) else ""
    more = style.left_out(w, len(tables) - len(shown), "caption.more_runs")
    return Chart(fig, table, style.said(tails, more))


def _ends(tables: Tables) -> tuple[float, float]:
    """The true values' range: what is predicted far outside does not decide the view."""
    targets = np.concatenate([t["target"].to_numpy(np.float64) for t in tables.values()])
    return float(np.nanmin(targets)), float(np.nanmax(targets))


def _diagonal(low: float, high: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "showlegend": False,
        "x": [low, high],
        "y": [low, high],
        "line": {"color": style.GREY, "width": 1.2, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _scatter(rows: pd.DataFrame, actual: str, predicted: str, w: Words) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "showlegend": False,
        "x": style.floats(rows["target"]),
        "y": style.floats(rows["output"]),
        "customdata": rows["id"].to_numpy(np.int32),
        "marker": {"color": style.PALETTE[0], "size": 4, "opacity": 0.5},
        "hovertemplate": style.hover(
            (w("errors.row"), "%{customdata}"),
            (actual, f"%{{x:{style.NUMBER}}}"),
            (predicted, f"%{{y:{style.NUMBER}}}"),
        ),
    }


def _outline(
    run: str, index: int, counts: np.ndarray, edges: np.ndarray, x_title: str, w: Words
) -> Trace:
    look = style.look(index)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": style.plain(run),
        "x": style.floats((edges[:-1] + edges[1:]) / 2),
        "y": counts.astype(np.int32),
        "line": {"color": look.color, "width": 2, "dash": look.dash, "shape": "hvh"},
        "hovertemplate": style.hover(
            ("", f"<b>{style.plain(run)}</b>"),
            (x_title, "%{x:.4~g}"),
            (w("term.rows"), "%{y}"),
        ),
    }
