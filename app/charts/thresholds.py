"""What scores say of one class: ROC, precision-recall, histograms, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.lines import Line
from app.charts.panels import at, panels, upright
from app.charts.style import Chart, Trace
from app.words import Words
from hpo.results.intervals import Estimate

Tables = Mapping[str, pd.DataFrame]  # a run's name → its table
MOST_BANDS = 4  # runs whose bands can be told apart
MOST_HISTOGRAMS = 4
UNIT = {"range": [-0.01, 1.01]}


def roc(
    curves: Tables,
    w: Words,
    of: str = "",
    areas: Mapping[str, Estimate] | None = None,
    bands: Tables | None = None,
    points: pd.DataFrame | None = None,
) -> Chart:
    """ROC curves; ``customdata`` is the run's place in ``curves``.

    Args:
        curves: From `hpo.results.ranking.roc`, up to 200 runs.
        of: What is ranked: a class's name, or the kind of average.
        areas: Areas under the curves, for the legend.
        bands: From `hpo.results.ranking.roc_band`; drawn of up to four runs.
        points: From `hpo.results.evaluation.operating_points`: ``run``, ``fpr``, ``tpr`` and what
            else is to be said on hover.
    """
    fig = style.figure(_title(w("roc.title"), of), w("roc.fpr"), w("roc.tpr"), height=440)
    drawn = _curves(curves, "fpr", "tpr")
    table = _together(curves, bands if len(curves) <= MOST_BANDS else None)
    if not drawn:
        return Chart(style.note(fig, w("empty.no_curve_of_class")), table)
    fig.add_traces([_chance([0, 1], [0, 1], w)])
    if bands and len(curves) <= MOST_BANDS:
        fig.add_traces(_bands(curves, bands))
    hovers = (
        (w("roc.fpr"), f"%{{x:{style.NUMBER}}}"),
        (w("roc.tpr"), f"%{{y:{style.NUMBER}}}"),
    )
    names = _names(list(curves), areas, w("roc.auc"))
    fig.add_traces(lines.traces(drawn, hovers, len(curves), names=names, dashes=True))
    fig.add_traces(_points(points, curves, "fpr", "tpr", w))
    fig.update_xaxes(range=[-0.01, 1.01], constrain="domain")
    fig.update_yaxes(range=[-0.01, 1.02])
    return Chart(fig, table, _hover_names(curves, w))


def precision_recall(
    curves: Tables,
    w: Words,
    of: str = "",
    areas: Mapping[str, Estimate] | None = None,
    points: pd.DataFrame | None = None,
    chance: float | None = None,
) -> Chart:
    """Precision-recall staircases; ``customdata`` is the run's place in ``curves``.

    Args:
        curves: From `hpo.results.ranking.precision_recall`, up to 200 runs.
        of, areas, points: As in `roc`; the areas are average precisions.
        chance: The share of positives: what guessing comes to.
    """
    title = _title(w("pr.title"), of)
    fig = style.figure(title, w("pr.recall"), w("pr.precision"), height=440)
    drawn = _curves(curves, "recall", "precision")
    table = _together(curves, None)
    if not drawn:
        return Chart(style.note(fig, w("empty.no_curve_of_class")), table)
    if chance is not None:
        fig.add_traces([_chance([0, 1], [chance, chance], w)])
    hovers = (
        (w("pr.recall"), f"%{{x:{style.NUMBER}}}"),
        (w("pr.precision"), f"%{{y:{style.NUMBER}}}"),
    )
    names = _names(list(curves), areas, w("pr.ap"))
    fig.add_traces(lines.traces(drawn, hovers, len(curves), "vh", names=names, dashes=True))
    fig.add_traces(_points(points, curves, "recall", "precision", w))
    fig.update_xaxes(range=[-0.01, 1.01])
    fig.update_yaxes(range=[-0.01, 1.02])
    return Chart(fig, table, _hover_names(curves, w))


def calibration(tables: Tables, w: Words) -> Chart:
    """How often what was said with a probability was right; below, how many rows there were.

    Args:
        tables: From `hpo.results.evaluation.calibration`; twelve runs at most are drawn.
    """
    shown = dict(list(tables.items())[: style.MOST_NAMED])
    table = _together(tables, None)
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
    fig.add_traces([_chance([0, 1], [0, 1], w, "calibration.perfect")])
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
    table = _together(tables, None)
    title = _title(w("histograms.title"), of)
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


# -- parts


def _title(title: str, of: str) -> str:
    return f"{title} · {style.cut(of, 30)}" if of else title


def _curves(curves: Tables, x: str, y: str) -> list[Line]:
    drawn = [
        Line(run, index, style.floats(table[x]), style.floats(table[y]))
        for index, (run, table) in enumerate(curves.items())
    ]
    return [line for line in drawn if len(line.x)]


def _together(tables: Tables, bands: Tables | None) -> pd.DataFrame:
    """One table with ``run`` as its first column."""
    parts = [table.assign(run=run) for run, table in tables.items()]
    parts += [band.assign(run=run, kind="band") for run, band in (bands or {}).items()]
    if not parts:
        return pd.DataFrame(columns=["run"])
    whole = pd.concat(parts, ignore_index=True)
    return whole[["run", *(column for column in whole if column != "run")]]


def _names(runs: list[str], areas: Mapping[str, Estimate] | None, word: str) -> dict[int, str]:
    """What the legend says: the run, its area and the area's interval."""
    found = {}
    for index, run in enumerate(runs):
        area = (areas or {}).get(run)
        if area is not None and np.isfinite(area.value):
            known = np.isfinite(area.low) and np.isfinite(area.high)
            within = f" ({area.low:.3f}–{area.high:.3f})" if known else ""
            found[index] = f"{lines.tail(run)} · {word} {area.value:.3f}{within}"
    return found


def _chance(x: list[float], y: list[float], w: Words, key: str = "roc.chance") -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": w(key),
        "x": x,
        "y": y,
        "line": {"color": style.GREY, "width": 1, "dash": "dot"},
        "legendrank": 2000,
        "hoverinfo": "skip",
    }


def _bands(curves: Tables, bands: Tables) -> list[Trace]:
    traces = []
    for index, run in enumerate(curves):
        band = bands.get(run)
        if band is None or band.empty:
            continue
        x, low, high = (style.floats(band[column]) for column in ("fpr", "low", "high"))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "showlegend": False,
                "legendgroup": str(index),
                "x": np.concatenate([x, x[::-1]]),
                "y": np.concatenate([high, low[::-1]]),
                "fill": "toself",
                "line": {"width": 0, "color": style.look(index).color},
                "opacity": 0.2,
                "hoverinfo": "skip",
            }
        )
    return traces


def _points(points: pd.DataFrame | None, curves: Tables, x: str, y: str, w: Words) -> list[Trace]:
    """Where each run works at the threshold, a marker each, as one trace."""
    if points is None or points.empty:
        return []
    index = {run: i for i, run in enumerate(curves)}
    here = points[points["run"].isin(index)]
    looks = [style.look(index[run]) for run in here["run"]]
    said = [column for column in ("tpr", "fpr", "precision", "f1", "accuracy") if column in here]
    texts = [
        "<br>".join(
            [f"<b>{style.plain(row['run'])}</b>"]
            + [f"{w(f'point.{column}')}: {row[column]:.4g}" for column in said]
        )
        for row in here.to_dict("records")
    ]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": w("roc.point"),
            "legendrank": 1999,
            "x": style.floats(here[x]),
            "y": style.floats(here[y]),
            "customdata": np.array([index[run] for run in here["run"]], np.int32),
            "text": texts,
            "marker": {
                "color": [look.color for look in looks],
                "symbol": [look.symbol for look in looks],
                "size": 11 if len(here) <= style.MOST_NAMED else 7,
                "line": {"width": 1.5, "color": style.GREY},
            },
            "hovertemplate": style.hover(("", "%{text}")),
        }
    ]


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
    if runs <= MOST_BANDS:
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


def _hover_names(curves: Tables, w: Words) -> str:
    return w("curves.hover_names") if len(curves) > style.MOST_NAMED else ""
