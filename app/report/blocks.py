"""What a report is made of, and how text from runs becomes harmless in it.

The template escapes every plain string; only what is `Markup` goes in as it is, and all of that is
made here.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from app.charts.style import Chart, compact, cut

MARKDOWN = "*`"
TITLE_LINE = 22  # pixels that `app.charts.style.figure` leaves for each


@dataclass(frozen=True)
class Tile:
    """A number that is seen at once; `more` stands below it."""

    label: str
    value: str
    more: Sequence[str] = ()


@dataclass(frozen=True)
class Said:
    """Sentences; `mood` is ``good``, ``plain``, ``warning`` or ``small``."""

    sentences: Sequence[Markup | str]
    mood: str = "plain"
    kind: str = field(default="said", init=False)


@dataclass(frozen=True)
class Cell:
    """What a table shows; a number is set to the right and sorted as one."""

    text: str
    sort: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells below their headings; `note` stands below. Two halves stand side by side."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    sortable: bool = False
    half: bool = False
    kind: str = field(default="table", init=False)

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        columns = range(len(self.headings))
        return [any(row[column].sort is not None for row in self.rows) for column in columns]


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    rows: Sequence[tuple[str, str]]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Listing:
    """A text as it is, folded away."""

    title: str
    text: str
    kind: str = field(default="listing", init=False)


@dataclass(frozen=True)
class Download:
    """A file within the file."""

    label: str
    name: str
    data_uri: str
    kind: str = field(default="download", init=False)


@dataclass(frozen=True)
class Figure:
    """A chart; `spec` is its JSON for the page's script, inert within a ``script`` element. Two
    halves stand side by side where there is room."""

    name: str
    title: str
    caption: str
    height: int
    spec: Markup
    half: bool = False
    kind: str = field(default="figure", init=False)


Block = Said | Table | Facts | Listing | Download | Figure


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; `key` is its place in the address."""

    key: str
    title: str
    blocks: Sequence[Block]


# -- text


def safe(text: object) -> str:
    """Text from a run, harmless in HTML and for `marked`, and with a direction of its own."""
    escaped = html.escape(cut(text, 120))
    for sign in MARKDOWN:
        escaped = escaped.replace(sign, f"&#{ord(sign)};")
    return f"<bdi>{escaped}</bdi>"


def marked(sentence: str) -> Markup:
    """A sentence of `app.sentences`, with what it emphasizes as HTML; its names are `safe`."""
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", sentence)
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", bold))


def lines(text: str) -> str:
    """A text of many lines without control, format and bidirectional characters."""
    kept = (c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return "".join(kept)


def file_name(study: str) -> str:
    """A study's key as the beginning of a file's name."""
    return re.sub(r"[^\w.~-]", "_", study).lstrip(".")[:100] or "study"


def cell(value: object) -> Cell:
    """A value of a table."""
    if value is None or value is pd.NA or value != value:
        return Cell("")
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return Cell(compact(value), float(value))
    return Cell(compact(value))


# -- charts


def figure(
    name: str,
    chart: Chart,
    narrow: Chart | None = None,
    caption: str | None = None,
    half: bool = False,
) -> Figure:
    """A chart as a block.

    Args:
        name: Of the file that it is saved as.
        narrow: The same chart laid out for a phone, where that is another layout.
        caption: In place of the chart's own.
        half: Whether it may stand beside another one.
    """
    spec = _spec(chart) | {"name": name}
    text = chart.figure.layout.title.text or ""
    if narrow is not None:
        spec["narrow"] = _spec(narrow)["layout"]
    code = json.dumps(spec, separators=(",", ":"), allow_nan=False)
    return Figure(
        name,
        html.unescape(text.replace("<br>", " ")),
        chart.caption if caption is None else caption,
        spec["layout"]["height"],
        Markup(code.replace("<", "\\u003c")),
        half,
    )


def _spec(chart: Chart) -> dict[str, Any]:
    """What Plotly draws, without what the page has itself: theme and title, which stand apart.

    And without WebGL, which makes its functions from strings: the page's policy forbids it.
    """
    spec: dict[str, Any] = json.loads(chart.figure.to_json())
    layout = spec["layout"]
    del layout["template"]
    spec["title"] = layout.pop("title")
    spec["room"] = room = TITLE_LINE * (spec["title"]["text"].count("<br>") + 1)
    layout["margin"]["t"] -= room
    layout["height"] -= room
    for trace in spec["data"]:
        trace["type"] = trace["type"].removesuffix("gl")
    return spec
