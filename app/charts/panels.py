"""Several small charts in one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from app.charts import style
from app.charts.style import Trace

GAP = 84  # pixels between two rows: a title, tick labels, an axis title
HEIGHT = 220  # pixels of a panel


def panels(
    title: str,
    titles: Sequence[str],
    columns: int,
    x: Sequence[dict[str, Any]],
    y: Sequence[dict[str, Any]],
    height: int = HEIGHT,
    shared_y: bool = False,
    gap: int | None = None,
) -> Any:
    """A figure of ``len(titles)`` panels in rows of ``columns``, still without traces.

    Args:
        title: The whole figure's; made inert here.
        titles: The panels'; likewise.
        x, y: What each panel's axes are to have, as Plotly's layout does; their ``title`` is
            text from outside and made inert here. A y title is left out but in the first column.
        height: Of a panel, in pixels.
        shared_y: Whether all panels have one vertical axis.
        gap: Pixels between two rows; what titles and tick labels of one line need if None.
    """
    columns = max(1, min(columns, len(titles)))
    rows = math.ceil(len(titles) / columns)
    fig = style.figure(title, "", "")
    if gap is None:
        gap = GAP if any(axis.get("title") for axis in x) else GAP - 26
    inner = rows * height + (rows - 1) * gap
    top = int(fig.layout.margin.t) + 24
    between = (0.05 if shared_y else 0.14) if columns > 1 else 0.0
    width = (1 - (columns - 1) * between) / columns
    layout: dict[str, Any] = {"height": inner + top + 56, "margin": {"t": top}, "annotations": []}
    for index, name in enumerate(titles):
        row, column = divmod(index, columns)
        left = column * (width + between)
        high = 1 - row * (height + gap) / inner
        low = max(high - height / inner, 0.0)
        across: dict[str, Any] = {"domain": [left, left + width], "anchor": _axis("y", index)}
        upward: dict[str, Any] = {"domain": [low, high], "anchor": _axis("x", index)}
        if shared_y and index:
            upward["matches"] = "y"
            upward["showticklabels"] = column == 0
        label = "" if column else y[index].get("title", "")
        layout[_key("x", index)] = x[index] | across | _named(x[index].get("title", ""))
        layout[_key("y", index)] = y[index] | upward | _named(label)
        layout["annotations"].append(_heading(name, left + width / 2, high))
    fig.update_layout(layout)
    return fig


def at(index: int, traces: Sequence[Trace]) -> list[Trace]:
    """The traces, put into a panel; those of later panels are left out of the legend, where the
    first one's of the same ``legendgroup`` stand for them."""
    where: Trace = {"xaxis": _axis("x", index), "yaxis": _axis("y", index)}
    hidden: Trace = {"showlegend": False} if index else {}
    return [trace | where | hidden for trace in traces]


def upright(index: int, x: float, dash: str) -> dict[str, Any]:
    """A vertical line through a panel, as a shape."""
    line = {"color": style.GREY, "width": 1.5, "dash": dash}
    ends = {"x0": x, "x1": x, "y0": 0, "y1": 1}
    where = {"xref": _axis("x", index), "yref": f"{_axis('y', index)} domain"}
    return {"type": "line", "line": line, **ends, **where}


def _axis(letter: str, index: int) -> str:
    return f"{letter}{index + 1 if index else ''}"


def _key(letter: str, index: int) -> str:
    return f"{letter}axis{index + 1 if index else ''}"


def _named(title: str) -> dict[str, Any]:
    return {"title": {"text": style.plain(title, 40) or None}, "automargin": True}


def _heading(name: str, x: float, y: float) -> dict[str, Any]:
    where = {"x": x, "y": y, "xref": "paper", "yref": "paper"}
    anchors = {"xanchor": "center", "yanchor": "bottom", "showarrow": False}
    return {"text": style.plain(name, 34), "font": {"size": 13}, **where, **anchors}
