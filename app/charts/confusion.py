"""Which classes are taken for which: confusion matrices, their difference, each class's score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from app.charts import lines, style
from app.charts.matrices import BLUES, DIFFERENCES, cells
from app.charts.panels import at, panels
from app.charts.runs import Tables, together
from app.charts.style import Chart, Trace
from app.words import Words

Counts = npt.NDArray[np.int64]
MOST_MATRICES = 4
MOST_CLASSES = 40  # rows that a screen has room for: of more, those with the most errors
LABEL = 14  # characters of a class's name


def confusions(
    matrices: Mapping[str, Counts], classes: Sequence[str], w: Words, columns: int = 2
) -> Chart:
    """Confusion matrices side by side; the colour is the share of the row.

    Args:
        matrices: Run → (C, C) counts, the row the truth, from `hpo.results.evaluation.confusion`;
            four at most are drawn.
        classes: The C names.
        columns: Matrices side by side: 1 on a phone.
    """
    shown = dict(list(matrices.items())[:MOST_MATRICES])
    table = _cells(matrices, classes)
    if not shown or not len(classes):
        fig = style.figure(w("confusion.title"), w("confusion.said"), w("confusion.truth"))
        return Chart(style.note(fig, w("empty.no_rows")), table)
    kept = _most_confused(list(shown.values()))
    x, y = _class_axes(classes, kept, w)
    fig = panels(
        w("confusion.title"),
        [lines.tail(run, 34) for run in shown],
        columns,
        x=[x] * len(shown),
        y=[y] * len(shown),
        height=_side(len(kept)),
        gap=90 + 7 * max(len(style.cut(classes[i], LABEL)) for i in kept),
    )
    for index, counts in enumerate(shown.values()):
        fig.add_traces(at(index, _matrix(counts, classes, kept, w)))
    return Chart(
        fig,
        table,
        style.said(
            w("confusion.caption"),
            style.left_out(w, len(classes) - len(kept), "confusion.left_out"),
            style.left_out(w, len(matrices) - len(shown), "caption.more_runs"),
        ),
    )


def confusion_difference(
    a: tuple[str, Counts], b: tuple[str, Counts], classes: Sequence[str], w: Words
) -> Chart:
    """Where the first run says something more often than the second, in counts.

    Blue is better: more on the diagonal, fewer beside it.

    Args:
        a, b: Each a run's name and its counts, as in `confusions`; of the same rows.
        classes: The C names.
    """
    table = _cells(dict([a, b]), classes)
    title = w("confusion.difference", a=lines.tail(a[0]), b=lines.tail(b[0]))
    height = _side(min(len(classes), MOST_CLASSES)) + 170
    fig = style.figure(title, "", "", height)
    if not len(classes):
        return Chart(style.note(fig, w("empty.no_rows")), table)
    kept = _most_confused([np.abs(a[1] - b[1])])
    delta = (a[1] - b[1])[np.ix_(kept, kept)]
    better = np.where(np.eye(len(kept), dtype=bool), delta, -delta)
    most = max(int(np.abs(delta).max(initial=0)), 1)
    texts = [[f"{n:+d}" if n else "" for n in row] for row in delta]
    about = style.hover(("", "%{customdata}"), ("", "%{text}"))
    hovered = _hovered(classes, kept, w)
    fig.add_traces(cells(better, (-most, most), DIFFERENCES, texts, hovered, about))
    x, y = _class_axes(classes, kept, w)
    fig.update_layout(xaxis=x, yaxis=y)
    left = style.left_out(w, len(classes) - len(kept), "confusion.left_out")
    return Chart(fig, table, style.said(w("confusion.better"), left))


def class_metrics(tables: Tables, metric: str, w: Words) -> Chart:
    """One metric of each class, with 95 % intervals, the runs beside each other.

    Args:
        tables: Run → `hpo.results.evaluation.per_class`; twelve at most are drawn.
        metric: ``precision``, ``recall``, ``f1`` or ``auc``.
    """
    shown = dict(list(tables.items())[: style.MOST_NAMED])
    table = together(tables)
    fig = style.figure(
        w("classes.title", metric=w(f"classes.{metric}")), w(f"classes.{metric}"), ""
    )
    if table.empty:
        return Chart(style.note(fig, w("empty.no_rows")), table)
    names = list(dict.fromkeys(table["class"]))
    worst = table.groupby("class", sort=False)[metric].min().sort_values(kind="stable").index
    kept = set(worst[:MOST_CLASSES]) if len(names) > MOST_CLASSES else set(names)
    rows = {name: i for i, name in enumerate(reversed([n for n in names if n in kept]))}
    fig.add_traces(
        [
            _dots(run, index, part[part["class"].isin(kept)], metric, rows, len(shown), w)
            for index, (run, part) in enumerate(shown.items())
        ]
    )
    fig.update_yaxes(
        tickvals=list(rows.values()),
        ticktext=[style.plain(name, 24) for name in rows],
        range=[-0.6, len(rows) - 0.4],
        zeroline=False,
    )
    room = max(22, 8 * len(shown) + 8)
    fig.update_layout(height=150 + room * len(rows))
    return Chart(
        fig,
        table,
        style.said(
            style.left_out(w, len(names) - len(rows), "classes.left_out"),
            style.left_out(w, len(tables) - len(shown), "caption.more_runs"),
        ),
    )


# -- parts


def _side(classes: int) -> int:
    """Pixels a matrix of so many classes is high."""
    return int(np.clip(36 * classes, 200, 460))


def _most_confused(matrices: Sequence[Counts]) -> list[int]:
    """The classes to draw, in their own order: all, or those with the most errors."""
    total = np.sum(matrices, axis=0)
    if len(total) <= MOST_CLASSES:
        return list(range(len(total)))
    wrong = total.sum(0) + total.sum(1) - 2 * np.diag(total)
    return sorted(int(i) for i in np.argsort(-wrong, kind="stable")[:MOST_CLASSES])


def _cells(matrices: Mapping[str, Counts], classes: Sequence[str]) -> pd.DataFrame:
    """``run``, ``truth``, ``said``, ``count``, a row for each cell."""
    names = np.array([str(name) for name in classes], object)
    parts = [
        pd.DataFrame(
            {
                "run": run,
                "truth": np.repeat(names, len(names)),
                "said": np.tile(names, len(names)),
                "count": counts.ravel(),
            }
        )
        for run, counts in matrices.items()
    ]
    if not parts:
        return pd.DataFrame(columns=["run", "truth", "said", "count"])
    return pd.concat(parts, ignore_index=True)


def _matrix(counts: Counts, classes: Sequence[str], kept: Sequence[int], w: Words) -> list[Trace]:
    whole = counts.sum(axis=1, keepdims=True)
    share = (100 * counts / np.where(whole > 0, whole, 1))[np.ix_(kept, kept)]
    texts = [[str(n) if n else "" for n in row] for row in counts[np.ix_(kept, kept)]]
    about = style.hover(
        ("", "%{customdata}"), (w("term.rows"), "%{text}"), (w("confusion.share"), "%{z:.3~g} %")
    )
    return cells(share, (0, 100), BLUES, texts, _hovered(classes, kept, w), about)


def _hovered(classes: Sequence[str], kept: Sequence[int], w: Words) -> list[list[str]]:
    names = [style.plain(classes[i], 30) for i in kept]
    return [
        [f"{w('confusion.truth')}: {truth}<br>{w('confusion.said')}: {said}" for said in names]
        for truth in names
    ]


def _class_axes(
    classes: Sequence[str], kept: Sequence[int], w: Words
) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [style.plain(classes[i], LABEL) for i in kept]
    ticks = {"tickvals": list(range(len(kept))), "ticktext": names}
    both: dict[str, Any] = ticks | {"showgrid": False, "zeroline": False}
    x, y = both | {"title": w("confusion.said")}, both | {"title": w("confusion.truth")}
    return x | {"tickangle": -90 if len(kept) > 5 else 0}, y | {"autorange": "reversed"}


def _dots(
    run: str,
    index: int,
    table: pd.DataFrame,
    metric: str,
    rows: Mapping[str, int],
    runs: int,
    w: Words,
) -> Trace:
    look = style.look(index)
    x = style.floats(table[metric])
    shift = 0.0 if runs == 1 else 0.36 - 0.72 * index / (runs - 1)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": style.plain(run),
        "x": x,
        "y": style.floats(table["class"].map(rows) + shift),
        "customdata": np.full(len(table), index, np.int32),
        "text": [
            f"{style.plain(row['class'], 40)}<br>{row[metric]:.4g} "
            f"({row[f'{metric}_low']:.4g}–{row[f'{metric}_high']:.4g})"
            f"<br>{w('term.rows')}: {row['support']}"
            for row in table.to_dict("records")
        ],
        "marker": {"color": look.color, "symbol": look.symbol, "size": 8},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": style.floats(table[f"{metric}_high"]) - x,
            "arrayminus": x - style.floats(table[f"{metric}_low"]),
            "thickness": 1.2,
            "width": 0,
        },
        "hovertemplate": style.hover(("", f"<b>{style.plain(run)}</b>"), ("", "%{text}")),
    }
