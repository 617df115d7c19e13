"""How scores rank: ROC and precision-recall curves, and where a threshold puts a run on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.lines import Line
from app.charts.runs import Tables, chance_line, together
from app.charts.style import Chart, Trace
from app.words import Words
from hpo.results.intervals import Estimate

MOST_BANDS = 4  # runs whose bands can be told apart


def roc(
    curves: Tables,
    w: Words,
    of: str = "",
    areas: Mapping[str, Estimate] | None = None,
    bands: Tables | None = None,
) -> Chart:
    """ROC curves; ``customdata`` is the run's place in ``curves``.

    Args:
        curves: From `hpo.results.ranking.roc`, up to 200 runs.
        of: What is ranked: a class's name, or the kind of average.
        areas: Areas under the curves, for the legend.
        bands: From `hpo.results.ranking.roc_band`; drawn of up to four runs.
    """
    fig = style.figure(style.titled(w("roc.title"), of), w("roc.fpr"), w("roc.tpr"), height=440)
    drawn = _curves(curves, "fpr", "tpr")
    table = together(curves, bands if len(curves) <= MOST_BANDS else None)
    if not drawn:
        return Chart(style.note(fig, w("empty.no_curve_of_class")), table)
    fig.add_traces([chance_line([0, 1], [0, 1], w("roc.chance"))])
    if bands and len(curves) <= MOST_BANDS:
        fig.add_traces(_bands(curves, bands))
    hovers = (
        (w("roc.fpr"), f"%{{x:{style.NUMBER}}}"),
        (w("roc.tpr"), f"%{{y:{style.NUMBER}}}"),
    )
    names = _names(list(curves), areas, w("roc.auc"))
    fig.add_traces(lines.traces(drawn, hovers, len(curves), names=names, dashes=True))
    fig.update_xaxes(range=[-0.01, 1.01], constrain="domain")
    fig.update_yaxes(range=[-0.01, 1.02])
    return Chart(fig, table, _hover_names(curves, w))


def precision_recall(
    curves: Tables,
    w: Words,
    of: str = "",
    areas: Mapping[str, Estimate] | None = None,
    chance: float | None = None,
) -> Chart:
    """Precision-recall staircases; ``customdata`` is the run's place in ``curves``.

    Args:
        curves: From `hpo.results.ranking.precision_recall`, up to 200 runs.
        of, areas: As in `roc`; the areas are average precisions.
        chance: The share of positives: what guessing comes to.
    """
    title = style.titled(w("pr.title"), of)
    fig = style.figure(title, w("pr.recall"), w("pr.precision"), height=440)
    drawn = _curves(curves, "recall", "precision")
    table = together(curves, None)
    if not drawn:
        return Chart(style.note(fig, w("empty.no_curve_of_class")), table)
    if chance is not None:
        fig.add_traces([chance_line([0, 1], [chance, chance], w("roc.chance"))])
    hovers = (
        (w("pr.recall"), f"%{{x:{style.NUMBER}}}"),
        (w("pr.precision"), f"%{{y:{style.NUMBER}}}"),
    )
    names = _names(list(curves), areas, w("pr.ap"))
    fig.add_traces(lines.traces(drawn, hovers, len(curves), "vh", names=names, dashes=True))
    fig.update_xaxes(range=[-0.01, 1.01])
    fig.update_yaxes(range=[-0.01, 1.02])
    return Chart(fig, table, _hover_names(curves, w))


def points(there: pd.DataFrame, runs: Sequence[str], x: str, y: str, w: Words) -> list[Trace]:
    """Where each run works at a threshold, a marker each, as one trace over its curves.

    Args:
        there: From `hpo.results.evaluation.operating_points`: ``run``, `x`, `y` and what else is
            to be said on hover.
        runs: As in the curves, whose looks and ``customdata`` the markers have.
        x, y: ``fpr`` and ``tpr``, or ``recall`` and ``precision``.
    """
    index = {run: i for i, run in enumerate(runs)}
    here = there[there["run"].isin(index)]
    if here.empty:
        return []
    looks = [style.look(index[run], len(runs)) for run in here["run"]]
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


# -- parts


def _curves(curves: Tables, x: str, y: str) -> list[Line]:
    drawn = [
        Line(run, index, style.floats(table[x]), style.floats(table[y]))
        for index, (run, table) in enumerate(curves.items())
    ]
    return [line for line in drawn if np.isfinite(line.y).any()]


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


def _hover_names(curves: Tables, w: Words) -> str:
    return w("curves.hover_names") if len(curves) > style.MOST_NAMED else ""
