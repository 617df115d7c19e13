"""What all charts share: colours, text made safe, numbers made small, the empty chart.

Guarantees:
- Text from runs (names, parameter values, reasons) reaches Plotly escaped: titles and hover texts
  of `figure`, `hover` and `note` are, everything else passes through `plain`.
- Colours contrast at least 3:1 with a white and with Streamlit's dark background, differ for
  colour-blind eyes, and are never the only sign: `look` adds a symbol and a dash pattern.
- Data are float32 or int32 arrays, which Plotly sends as base64; never infinite.

Not covered: fonts and backgrounds, which are the page's theme.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import math
import textwrap
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
from plotly.utils import PlotlyJSONEncoder

from app.words import Words

Trace = dict[str, Any]
Floats = npt.NDArray[np.float32]

# Okabe and Ito's blue, vermillion, green and purple; their orange, sky blue, yellow and black
# vanish on one of the two backgrounds, so the rest was searched for: at least 0.06 apart in OKLab
# as protanopes, deuteranopes and tritanopes see them (Machado et al. 2009).
PALETTE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#9c5700",
    "#a37efa",
    "#7b93d1",
    "#757577",
)
GREY = "#808080"
# 7 and 5 share no factor with 8: colour and symbol repeat together after 56 runs only.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
# A trial's state looks the same in every chart.
STATES = {
    "complete": ("#0072b2", "circle"),
    "pruned": ("#9c5700", "triangle-down"),
    "stopped": ("#757577", "square-open"),
    "running": ("#009e73", "circle-open"),
    "paused": ("#0072b2", "triangle-up-open"),
    "waiting": ("#757577", "diamond-open"),
    "failed": ("#d55e00", "x"),
    "interrupted": ("#cc79a7", "square"),
}

MOST_NAMED = 12  # runs in a legend; with more, hovering says which is which
FEW_COLORS = 4  # of more runs than that
MOST_CHARACTERS = 60  # of a name
TITLE_WIDTH = 44  # characters a line that a phone has room for
HEIGHT = 380  # pixels
NOTE_HEIGHT = 200  # of a chart that is empty
# Pixels that tick labels and an axis title usually need, and a legend of one line.
LEFT, BOTTOM, LEGEND = 80, 70, 28
MARGIN = 8  # around everything else
MOST_SVG = 5_000  # points; more are drawn by WebGL
PLOTLYS_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
NUMBER = ".6~g"  # on hover: what a float32 holds


@dataclass(frozen=True)
class Chart:
    """A figure with what belongs to it.

    Attributes:
        table: What is drawn, neither rounded nor thinned: the CSV.
        caption: What must be said: what was left out, and why. May be empty.
    """

    figure: go.Figure
    table: pd.DataFrame
    caption: str = ""

    def __post_init__(self) -> None:
        _make_room(self.figure)

    @functools.cached_property
    def json(self) -> bytes:
        """The figure as Plotly reads it, made once: what is drawn must not be changed after."""
        return written(self.figure.to_plotly_json())


@dataclass(frozen=True)
class Look:
    """How one of many runs is told from the others."""

    color: str
    symbol: str
    dash: str


def look(index: int, runs: int = 1) -> Look:
    """The look of the run at this place, from 0; the first 56 differ in colour or symbol.

    Args:
        runs: How many there are. Colours do not tell more than `MOST_NAMED` apart, so then there
            are but `FEW_COLORS`: each is a trace, and a browser draws few of them faster.
    """
    colors = PALETTE if runs <= MOST_NAMED else PALETTE[:FEW_COLORS]
    return Look(
        colors[index % len(colors)], SYMBOLS[index % len(SYMBOLS)], DASHES[index % len(DASHES)]
    )


# -- text


def cut(text: object, most: int = MOST_CHARACTERS) -> str:
    """One line without control, format and bidirectional characters, ``most`` characters long."""
    line = " ".join(str(text).split())
    kept = "".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
    return kept if len(kept) <= most else kept[: most - 1].rstrip() + "…"


def plain(text: object, most: int = MOST_CHARACTERS) -> str:
    """`cut`, and inert in Plotly: its markup, its templates (``%{…}``) and MathJax (``$…$``)."""
    return _inert(cut(text, most))


def _inert(text: str) -> str:
    escaped = html.escape(text, quote=False)
    return escaped.replace("$", "&#36;").replace("%{", "&#37;{")


def compact(value: object) -> str:
    """A parameter's value or a measurement in a few characters (not yet `plain`)."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return f"{value:,}" if abs(int(value)) >= 10_000 else str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if math.isfinite(value) else ("–" if math.isnan(value) else "∞")
    return cut(value)


def titled(title: str, of: str) -> str:
    """A chart's title with what it is of, if anything."""
    return f"{title} · {cut(of, 30)}" if of else title


def hover(*lines: tuple[str, str]) -> str:
    """A hover template: a line for each (label, Plotly field), e.g. ``("epoch", "%{x}")``.

    Fields are used as they are; labels are made `plain`.
    """
    shown = [f"{_inert(cut(label))}: {field}" if label else field for label, field in lines]
    return "<br>".join(shown) + "<extra></extra>"


# -- numbers


def floats(values: Iterable[Any] | pd.Series | npt.NDArray[Any]) -> Floats:
    """As float32; what is missing, infinite or beyond float32 is NaN, which Plotly leaves out."""
    if isinstance(values, pd.Series) and isinstance(values.dtype, np.dtype):
        values = values.to_numpy()
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        wide = values  # of many short lines, the way through pandas is most of the time
    else:
        values = values if isinstance(values, np.ndarray | pd.Series) else list(values)
        numbers = pd.to_numeric(pd.Series(values), errors="coerce")
        wide = numbers.to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        narrow: Floats = wide.astype(np.float32)
    narrow[~np.isfinite(narrow)] = np.nan
    return narrow


def usual_range(values: Floats) -> tuple[float, float] | None:
    """What an axis shows where a few values are so far off that they would flatten the rest.

    Returns:
        Bounds with the middle 80 % of the finite values and some room; None where everything can
        be shown, which is when all lie within five times those 80 %.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(finite) < 10:
        return None
    low, high = np.quantile(finite, (0.1, 0.9))
    if finite.max() - finite.min() <= 5 * (high - low) or high == low:
        return None
    room = 0.5 * (high - low)
    return float(max(finite.min(), low - room)), float(min(finite.max(), high + room))


def duration_unit(longest_s: float) -> tuple[float, str]:
    """The unit in which an axis up to ``longest_s`` is read best: its seconds, its word's key."""
    for seconds, key in ((86_400.0, "unit.days"), (3_600.0, "unit.hours"), (60.0, "unit.minutes")):
        if longest_s > 3 * seconds:
            return seconds, key
    return 1.0, "unit.seconds"


def written(drawn: Any) -> bytes:
    """Traces or a figure as JSON, arrays as base64, six times as fast as Plotly's encoder."""
    try:
        return json.dumps(drawn, default=_array, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):  # a list with NaN or times, which are not numbers in JSON
        return bytes(json.dumps(drawn, cls=PlotlyJSONEncoder), "utf-8")


def _array(value: Any) -> Any:
    """An array of numbers as Plotly reads it."""
    if isinstance(value, np.ndarray) and value.dtype.str[1:] in PLOTLYS_TYPES:
        flat = {"bdata": base64.b64encode(value.tobytes()).decode(), "dtype": value.dtype.str[1:]}
        return flat | ({"shape": ", ".join(map(str, value.shape))} if value.ndim > 1 else {})
    return PlotlyJSONEncoder().default(value)


# -- the figure


def pattern(shape: str) -> dict[str, Any]:
    """A bar's pattern on its colour: a sign that is not the colour."""
    return {"shape": shape, "fillmode": "overlay", "fgcolor": "white", "fgopacity": 0.3}


def figure(title: str, x_title: str, y_title: str, height: int = HEIGHT) -> go.Figure:
    """A figure without traces; the three texts are made inert here, the title wrapped.

    Zoom and hidden traces survive new data (``uirevision``).
    """
    lines = textwrap.wrap(cut(title, 3 * TITLE_WIDTH), TITLE_WIDTH) or [""]
    return go.Figure(
        layout={
            "title": {"text": "<br>".join(_inert(line) for line in lines), "x": 0, "y": 0.99}
            | {"xanchor": "left", "yanchor": "top", "yref": "container"}
            | {"pad": {"t": 0 if len(lines) == 1 else 12}},  # Plotly anchors the first line
            "height": height,
            "margin": {"l": MARGIN, "r": 12, "t": 24 + 22 * len(lines), "b": MARGIN},
            "xaxis": {"title": {"text": _inert(cut(x_title))}, "automargin": True},
            "yaxis": {"title": {"text": _inert(cut(y_title))}, "automargin": True},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container"}
            | {"yanchor": "bottom"},
            "hovermode": "closest",
            "hoverlabel": {"namelength": -1, "align": "left"},
            "dragmode": "zoom",
            "uirevision": "kept",
            "template": "none",  # the page's theme is added where it is drawn
        }
    )


def _make_room(fig: go.Figure) -> None:
    """Give the axes the room that they will ask for.

    Labels that outgrow the margins get more (``automargin``), but then Plotly draws all twice,
    which is half of the time a chart takes.
    """
    layout = fig.layout
    if layout.margin.l == MARGIN and layout.yaxis.title.text and _has_numbers(fig):
        layout.margin.l = LEFT
    if layout.margin.b == MARGIN and layout.xaxis.title.text and len(fig.data):
        named = [trace for trace in fig.data if trace.name and trace.showlegend is not False]
        has_legend = named and len(fig.data) > 1 and layout.showlegend is not False
        layout.margin.b = BOTTOM + (LEGEND if has_legend else 0)


def _has_numbers(fig: go.Figure) -> bool:
    """Whether the vertical axis shows numbers, so that its labels are short."""
    up = [trace.y for trace in fig.data if getattr(trace, "y", None) is not None]
    texts = fig.layout.yaxis.ticktext is not None or fig.layout.yaxis.type == "category"
    return bool(up) and not texts and np.asarray(up[0]).dtype.kind in "fiu"


def note(fig: go.Figure, text: str) -> go.Figure:
    """Say in the middle of an empty figure why it is empty."""
    lines = textwrap.wrap(cut(text, 240), TITLE_WIDTH)
    fig.add_annotation(
        text="<br>".join(_inert(line) for line in lines),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 15},
    )
    fig.update_layout(height=NOTE_HEIGHT)
    fig.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, range=[0, 1])
    fig.update_yaxes(showticklabels=False, showgrid=False, zeroline=False, range=[0, 1])
    return fig


def axis_type(fig: go.Figure, letter: str, log: bool, values: Floats) -> None:
    """Make an axis, ``"x"`` or ``"y"``, logarithmic: powers of ten are named, with 2 and 5
    between them where these values span few powers."""
    if log:
        positive = values[values > 0]
        few = len(positive) > 0 and float(positive.max()) / float(positive.min()) < 300
        axis = {"type": "log", "dtick": "D2" if few else 1, "tickformat": "~g"}
        fig.update_layout({f"{letter}axis": axis})


def said(*sentences: str) -> str:
    """A caption of those sentences that are not empty."""
    return " ".join(sentence for sentence in sentences if sentence).replace("。 ", "。")


def left_out(w: Words, count: int, key: str) -> str:
    """``w(key, count=count)``, or nothing for none."""
    return w(key, count=count) if count else ""
