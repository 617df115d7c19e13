"""Charts that stay in their place: Plotly in a component of our own.

With Streamlit's chart, each new figure is a new element: the old one is taken down with its zoom
and its selection, and the new one drawn twice (docs/decisions/0007-the-app.md).

Guarantees:
- New data, another theme or size are drawn in place: zoom, hidden traces and what is selected stay
  (``plot.js``).
- plotly.js is the one that belongs to the installed plotly; a browser loads it once.
- Caption and CSV button belong to the chart: as elements of Streamlit's they would take the
  browser a third of the chart's time, whenever anything changes.

Not covered: figures without a title and a height; selections in charts that are not cartesian.
"""

from __future__ import annotations

import functools
import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import plotly
import streamlit as st
from plotly.offline import get_plotlyjs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import files
from app.charts.style import Chart, Trace, written

PLOTLY_JS = f"/plotly-{plotly.__version__}.js"
FOREVER = "public, immutable, max-age=31536000"  # another version has another address

Selecting = Literal["points", "box", "lasso"]
Box = dict[str, list[float]]

_component = st.components.v2.component(
    "hpo.plot", js=Path(__file__).with_name("plot.js").read_text(), isolate_styles=False
)


@dataclass(frozen=True)
class Selected:
    """What is selected in a chart.

    Attributes:
        points: The ``customdata`` of its points, or the first of it: numbers, each once.
        boxes: Where they were drawn: ``{"x": [from, to], "y": [from, to]}``, in either order.
    """

    points: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)


@dataclass(frozen=True)
class Labels:
    """What a chart says beside what it draws.

    Attributes:
        csv, csv_help: Of the button that gives its data.
        not_served: In its place, where nobody serves plotly.js (see `app.serve`).
    """

    csv: str
    csv_help: str
    not_served: str


def plot(
    chart: Chart,
    key: str,
    alt: str,
    labels: Labels,
    picture: str = "png",
    select: Sequence[Selecting] = (),
    over: Sequence[Trace] = (),
) -> Selected:
    """Draw a chart with its caption, and its data as CSV.

    Args:
        key: Its name on the page, and of its files.
        alt: What it is, for those who do not see it.
        labels: What stands around it.
        picture: The format in which its picture is downloaded: ``png`` or ``svg``.
        select: Ways to select in it.
        over: Traces to draw over those of the chart, which may have been made before.
    """
    about = {
        "key": key,
        "alt": alt,
        "height": chart.figure.layout.height,
        "caption": chart.caption,
        "labels": asdict(labels),
        "picture": {"format": picture, "filename": key, "scale": 2},
        "select": list(select),
        "source": PLOTLY_JS,
    }
    # As bytes, which Streamlit sends as they are: a dict it would write as JSON three times.
    parts = (json.dumps(about).encode(), chart.json, written(list(over)), _file(chart, key))
    data = b'{"about":%s,"figure":%s,"over":%s,"file":%s}' % parts
    said = _component(
        key=key,
        data=data,
        on_selected_change=lambda: None,
        on_csv_change=functools.partial(_want_file, key),
    ).get("selected")
    return Selected(said["points"], said["boxes"]) if said else Selected()


def _want_file(key: str) -> None:
    st.session_state[f"{key}-file"] = time.time_ns()


def _file(chart: Chart, key: str) -> bytes:
    """The data as CSV, as JSON: only in the run in which somebody asks for it, else ``null``."""
    asked_ns = st.session_state.pop(f"{key}-file", None)
    if asked_ns is None:
        return b"null"
    # With the time, so that who asks twice gets it twice.
    return json.dumps({"csv": files.csv(chart.table), "asked": str(asked_ns)}).encode()


@functools.cache
def _plotly_js() -> tuple[bytes, bytes]:
    """plotly.js as it is, and compressed."""
    script = get_plotlyjs().encode()
    return script, gzip.compress(script, 6)


def _serve(request: Request) -> Response:
    plain, compressed = _plotly_js()
    headers = {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        plain = compressed
    return Response(plain, media_type="text/javascript", headers=headers)


route = Route(PLOTLY_JS, _serve)
prepare = _plotly_js
