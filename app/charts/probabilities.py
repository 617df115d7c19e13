"""What probabilities are worth: calibration, and how they part a class from the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.panels import at, panels, upright
from app.charts.runs import Tables, chance_line, together
from app.charts.style import Chart, Trace
from app.words import Words

MOST_BARS = 4  # runs whose error bars can be told apart
MOST_HISTOGRAMS = 4
UNIT = {"range": [-0.01, 1.01]}


def calibration(tables: Tables, w: Words) -> Chart:
    """How often what was said with a probability was right; below, how many rows there were.

    Args:
        tables: From `hpo.results.evaluation.calibration`; twelve runs at most are drawn.
    """
    shown = dict(list(tables.items())[: style.MOST_NAMED])
    table = together(tables)
    if not any(len(t) for t in shown.values()):
        fig = style.figure(w("calibration.title"), w("calibration.said"), w("calibration.right"))
        return Chart(style.note(fig, w("empty.no_rows")), table)
    fig = panels(
        w("calibration.title"),
        ["", ""],
        1,
        x=[UNIT | {"showticklabels": False}, UNIT | {"title": w("calibration.said")}],
        y=[{"title": w("calibration.right"), "range": [-0.02, 1.03]}, {"title": w("term.rows")}],
    )
    fig.update_layout(yaxis_domain=[0.34, 1], yaxis2_domain=[0, 0.27], xaxis_matches="x2")
    fig.update_layout(yaxis2_rangemode="tozero", height=460)
    fig.add_traces([chance_line([0, 1], [0, 1], w("calibration.perfect"))])
    for index, (run, bins) in enumerate(shown.items()):
        curve, counts = _calibration_traces(run, index, bins, len(shown), w)
        fig.add_traces([*at(0, [curve]), *at(1, [counts])])
    return Chart(fig, table, style.left_out(w, len(tables) - len(shown), "caption.more_runs"))


def score_histograms(
    tables: Tables, w: Words, of: str, threshold: float | None = None, columns: int = 2
) -> Chart:
    """Rows by their probability of one class, those that are of it and those that are not.

    Args:
        tables: From `hpo.results.evaluation.score_histogram`; four runs at most are drawn.
        of: The class's name.
        threshold: Drawn as a line, if given.
        columns: Panels side by side: 1 on a phone.
    """
    shown = {run: t for run, t in list(tables.items())[:MOST_HISTOGRAMS] if len(t)}
    table = together(tables)
    title = style.titled(w("histograms.title"), of)
    if not shown:
        fig = style.figure(title, w("histograms.score"), w("term.rows"))
        return Chart(style.note(fig, w("empty.no_rows")), table)
    count = len(shown)
    fig = panels(
        title,
        [lines.tail(run, 34) for run in shown],
        columns,
        x=[{"title": w("histograms.score"), "range": [0, 1]}] * count,
        y=[{"title": w("histograms.share")}] * count,
    )
    for index, counts in enumerate(shown.values()):
        fig.add_traces(at(index, _histogram(counts, w)))
    if threshold is not None:
        fig.update_layout(shapes=[upright(index, threshold, "dash") for index in range(count)])
    fig.update_layout(barmode="overlay", bargap=0)
    return Chart(fig, table, style.left_out(w, len(tables) - len(shown), "caption.more_runs"))


def _calibration_traces(
    run: str, index: int, bins: pd.DataFrame, runs: int, w: Words
) -> tuple[Trace, Trace]:
    look = style.look(index)
    x, y = style.floats(bins["confidence"]), style.floats(bins["accuracy"])
    middle = style.floats((bins["from"] + bins["to"]) / 2)
    counts = bins["count"].to_numpy(np.int32)
    name = ("", f"<b>{style.plain(run)}</b>")
    curve: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": style.plain(run),
        "legendgroup": str(index),
        "x": x,
        "y": y,
        "customdata": counts,
        "line": {"color": look.color, "width": 2, "dash": look.dash},
        "marker": {"symbol": look.symbol, "size": 8},
        "hovertemplate": style.hover(
            name,
            (w("calibration.said"), f"%{{x:{style.NUMBER}}}"),
            (w("calibration.right"), f"%{{y:{style.NUMBER}}}"),
            (w("term.rows"), "%{customdata}"),
        ),
    }
    if runs <= MOST_BARS:
        curve["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": style.floats(bins["high"]) - y,
            "arrayminus": y - style.floats(bins["low"]),
            "thickness": 1,
            "width": 3,
        }
    below = {
        "type": "scatter",
        "mode": "lines",
        "showlegend": False,
        "legendgroup": str(index),
        "x": middle,
        "y": counts,
        "line": {"color": look.color, "width": 2, "dash": look.dash, "shape": "hvh"},
        "hovertemplate": style.hover(
            name, (w("calibration.said"), "%{x:.3~g}"), (w("term.rows"), "%{y}")
        ),
    }
    return curve, below


def _histogram(counts: pd.DataFrame, w: Words) -> list[Trace]:
    """Shares of each group, since one is often far larger than the other."""
    middle = style.floats((counts["from"] + counts["to"]) / 2)
    ends = zip(counts["from"], counts["to"], strict=True)
    edges = [f"{low:.2f}–{high:.2f}" for low, high in ends]
    return [
        {
            "type": "bar",
            "name": w(f"histograms.{column}"),
            "legendgroup": column,
            "x": middle,
            "y": style.floats(100 * counts[column] / max(counts[column].sum(), 1)),
            "customdata": counts[column].to_numpy(np.int32),
            "text": edges,
            "textposition": "none",
            "opacity": 0.7,
            "marker": {"color": color, "pattern": style.pattern(shape)},
            "hovertemplate": style.hover(
                ("", f"<b>{w(f'histograms.{column}')}</b>"),
                (w("histograms.score"), "%{text}"),
                (w("histograms.share"), "%{y:.3~g}"),
                (w("term.rows"), "%{customdata}"),
            ),
        }
        for column, color, shape in (
            ("negatives", style.PALETTE[1], "/"),
            ("positives", style.PALETTE[0], ""),
        )
    ]
