"""What holds for every chart: titles, axis names, hover, inert names, empty forms, sizes."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from chart_tables import CHARTS, NOTHING

from app.charts.style import Chart
from app.words import LANGUAGES, Language, words

ALWAYS = (  # one of each kind
    '<a href="javascript:alert(1)">click</a>',
    "$\\href{javascript:alert(1)}{x}$",
    "%{customdata.constructor} %{x}",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\N{POP DIRECTIONAL FORMATTING}\0\x1b[31m",
    "n" * 5_000,
)
IN_TURN = (  # three of them for each chart
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><iframe src=javascript:alert(1)>',
    "<b>bold</b><br><i>it</i><sup>2</sup>",
    "<extra>gone</extra>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&amp;amp; &#60;b&#62;",
    "$$\\frac{1}{0}$$",
    "**bold** _it_ [link](javascript:alert(1)) `code`",
    "![x](https://example.com/x.png)",
    "{curly} {0} %s %(x)s",
    "\N{PILE OF POO}\N{ZERO WIDTH JOINER}\N{FAMILY} é ß 中文 ﷽",
    "line\nbreak\r\n\ttab",
    "'; DROP TABLE runs; --\\",
)
OURS = re.compile(r"</?b>|<br>|<extra></extra>")  # the markup that the charts write themselves
FIELDS = re.compile(r"%\{(x|y|z|text|customdata(\[\d\])?)(:[^{}]*)?\}")
TEMPLATES = ("hovertemplate", "texttemplate")


def texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a figure with the key it stands under, but for Plotly's own template."""
    if isinstance(node, dict):
        for name, inner in node.items():
            if name not in ("template", "bdata"):
                yield from texts(inner, name)
    elif isinstance(node, list):
        for inner in node:
            yield from texts(inner, key)
    elif isinstance(node, str):
        yield key, node


def spec_of(chart: Chart) -> dict[str, Any]:
    """As a browser gets it."""
    found: dict[str, Any] = json.loads(chart.figure.to_json())
    return found


@pytest.mark.parametrize("name", CHARTS)
def test_hostile_names_are_inert(name: str) -> None:
    turn = list(CHARTS).index(name)
    for hostile in (*ALWAYS, *IN_TURN[turn % 5 :: 5]):
        for key, text in texts(spec_of(CHARTS[name](words("en"), hostile))):
            bare = OURS.sub("", text)
            if key in TEMPLATES:
                bare = FIELDS.sub("", bare)
            assert not set("<>$") & set(bare), (hostile, key, text)
            assert "%{" not in bare, (hostile, key, text)
            kinds = {unicodedata.category(letter) for letter in bare}
            assert not kinds & {"Cc", "Cf", "Cs"}, (hostile, key, text)
            assert len(text) < 2_000, (hostile, key, len(text))


@pytest.mark.parametrize("name", CHARTS)
def test_has_a_title_axis_names_hover_and_a_table(name: str) -> None:
    for language in LANGUAGES:
        chart = CHARTS[name](words(language), "metric")
        layout = chart.figure.layout
        assert layout.title.text
        axes = list(chart.figure.select_xaxes())
        unnamed = [a for a in axes if a.visible is None and a.showticklabels is None]
        unnamed = [axis for axis in unnamed if not axis.title.text]
        assert not unnamed or len(layout.annotations) >= len(axes)  # or a heading names it
        assert len(chart.table)
        assert len(chart.table.columns) == len(set(chart.table.columns))
        drawn = [t for t in chart.figure.data if t.x is None or t.x[0] is not None]
        hovers = [trace for trace in drawn if trace.hoverinfo != "skip"]
        assert hovers
        assert all(trace.hovertemplate for trace in hovers)


@pytest.mark.parametrize("name", CHARTS)
def test_leaves_font_colour_and_background_to_the_theme(name: str) -> None:
    layout = CHARTS[name](words("en"), "metric").figure.layout
    assert layout.paper_bgcolor is None
    assert layout.plot_bgcolor is None
    assert layout.font.color is None
    assert layout.uirevision


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("language", LANGUAGES)
def test_without_data_says_so(name: str, language: Language) -> None:
    chart = NOTHING[name](words(language))
    assert chart.figure.layout.title.text
    assert not chart.figure.data
    (annotation,) = chart.figure.layout.annotations
    assert len(annotation.text) > 4
    spec_of(chart)


@pytest.mark.parametrize("name", CHARTS)
def test_has_no_infinite_number(name: str) -> None:
    for trace in CHARTS[name](words("en"), "metric").figure.data:
        for values in (trace[letter] for letter in ("x", "y", "z", "base") if letter in trace):
            numbers = np.ravel(np.asarray(values))
            if numbers.dtype.kind == "f":
                assert not np.isinf(numbers).any()
