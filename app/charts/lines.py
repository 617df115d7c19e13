"""Many points as few: smoothing, thinning that keeps peaks, many lines as one trace."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tsdownsample import MinMaxLTTBDownsampler

from app.charts import style
from app.charts.style import MOST_NAMED, Floats, Trace, floats

MOST_POINTS = 1_000  # a curve has no more than so many
MOST_IN_ALL = 20_000  # points of a figure, as far as `LEAST_POINTS` allows
MOST_WITH_NAMES = 6_000  # where each point carries its run's name
LEAST_POINTS = 50


def points_each(curves: int, in_all: int = MOST_IN_ALL) -> int:
    """How many points each of so many curves may have."""
    return int(np.clip(in_all // max(curves, 1), LEAST_POINTS, MOST_POINTS))


def thinned(x: Floats, y: Floats, most: int) -> tuple[Floats, Floats]:
    """At most about ``most`` of a line's points, with its peaks and its ends (MinMaxLTTB).

    Where the line is thinned its gaps close; a line with fewer points is returned as it is.
    """
    if len(x) <= most:
        return x, y
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    if len(x) <= most:
        return x, y
    highest, lowest = int(y.argmax()), int(y.argmin())  # MinMaxLTTB may miss one of them
    sampler = MinMaxLTTBDownsampler()  # type: ignore[no-untyped-call]
    chosen = sampler.downsample(x, y, n_out=most)
    chosen = np.union1d(chosen, [highest, lowest]).astype(np.int64)
    return x[chosen], y[chosen]


def smoothed(values: pd.DataFrame, weight: float) -> pd.DataFrame:
    """Exponential moving averages of each column, without the bias toward its start.

    Args:
        values: A row a step; NaN where nothing was measured, and then also in the result.
        weight: Of the past, in [0, 1); 0 changes nothing.
    """
    if not 0 < weight < 1:
        return values
    # `adjust` divides by the sum of the weights so far: the debiasing of Adam (Kingma, Ba 2015).
    return values.ewm(alpha=1 - weight, adjust=True, ignore_na=True).mean().where(values.notna())


def joined(parts: Sequence[npt.NDArray[Any]]) -> Floats:
    """Many lines as one trace's coordinates: a NaN after each lifts the pen."""
    lines = np.full(sum(len(part) + 1 for part in parts), np.nan, np.float32)
    start = 0
    for part in parts:
        lines[start : start + len(part)] = floats(part)
        start += len(part) + 1
    return lines


def above_zero(values: Floats) -> tuple[Floats, int]:
    """What a log axis can show, the rest NaN; and how many that were."""
    with np.errstate(invalid="ignore"):
        hidden = values <= 0
    return np.where(hidden, np.float32(np.nan), values), int(hidden.sum())


@dataclass(frozen=True)
class Line:
    """One run's line in a picture of many.

    Attributes:
        run: Its name, as text from outside.
        index: Its place among the runs, from 0, which gives it its look.
        x, y: (n,) float32.
        dashed: Of two lines of one run, the lighter one.
    """

    run: str
    index: int
    x: Floats
    y: Floats
    dashed: bool = False


def traces(
    drawn: Sequence[Line],
    hovers: Sequence[tuple[str, str]],
    runs: int,
    shape: str = "linear",
    names: Mapping[int, str] | None = None,
    dashes: bool = False,
) -> list[Trace]:
    """A trace for each line; of more than `MOST_NAMED` runs one for each colour.

    Hovering names the run; ``customdata``, or its first column, is the run's index. Each line
    needs a finite value.

    Args:
        hovers: As `app.charts.style.hover` takes them.
        runs: How many runs are drawn.
        shape: Plotly's, between points.
        names: What the legend says of a run, by index, if not its name.
        dashes: Whether dash patterns tell runs apart, in place of markers.
    """
    if runs > MOST_NAMED:
        return _by_color(drawn, hovers, shape, runs)
    most = points_each(len(drawn))
    made = []
    for line in drawn:
        look = style.look(line.index)
        x, y = thinned(line.x, line.y, most)
        name = (names or {}).get(line.index, line.run)
        dash = "dash" if line.dashed else (look.dash if dashes else "solid")
        made.append(
            {
                "type": "scatter",
                "mode": "lines" if line.dashed or dashes else "lines+markers",
                "name": style.plain(name),
                "legendgroup": str(line.index),
                "showlegend": not line.dashed,
                "x": x,
                "y": y,
                "customdata": np.full(len(x), line.index, np.int32),
                "line": {
                    "color": look.color,
                    "width": 1.4 if line.dashed else 2,
                    "dash": dash,
                    "shape": shape,
                },
                "marker": {"symbol": look.symbol, "size": 7, "maxdisplayed": 6},
                "hovertemplate": style.hover(("", f"<b>{style.plain(line.run)}</b>"), *hovers),
            }
        )
    return made


def _by_color(
    drawn: Sequence[Line], hovers: Sequence[tuple[str, str]], shape: str, runs: int
) -> list[Trace]:
    """So many lines that hovering must name them: a browser draws few traces far faster."""
    most = points_each(len(drawn), MOST_WITH_NAMES)
    made = []
    for dashed in (True, False):  # what is dashed lies below
        for (color, name), group in _groups(drawn, dashed, runs).items():
            shown = [thinned(line.x, line.y, most) for line in group]
            lengths = [len(x) + 1 for x, _ in shown]
            about = np.array([(line.index, hover_name(line.run)[1]) for line in group])
            about = about.astype(np.min_scalar_type(about.max()))
            made.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "showlegend": False,
                    "x": joined([x for x, _ in shown]),
                    "y": joined([y for _, y in shown]),
                    "customdata": np.repeat(about, lengths, axis=0),
                    "line": {"color": color, "width": 1, "shape": shape}
                    | ({"dash": "dot"} if dashed else {}),
                    "opacity": 0.4 if dashed else 0.7,
                    "hovertemplate": style.hover(("", f"<b>{name}</b>"), *hovers),
                }
            )
    dots = [line for line in drawn if not line.dashed and np.isfinite(line.y).sum() == 1]
    return [*made, _dots(dots, hovers, runs)] if dots else made


def _groups(drawn: Sequence[Line], dashed: bool, runs: int) -> dict[tuple[str, str], list[Line]]:
    """The lines that one trace can draw: those of one colour and one study. What is dashed lies
    behind so many others, in grey.
    """
    found: dict[tuple[str, str], list[Line]] = {}
    for line in drawn:
        if line.dashed == dashed:
            color = style.GREY if dashed else style.look(line.index, runs).color
            found.setdefault((color, hover_name(line.run)[0]), []).append(line)
    return found


@functools.lru_cache(maxsize=1024)
def hover_name(run: str) -> tuple[str, int]:
    """A run's name on hover as a template of its study's, and the run's number in it.

    A number takes a quarter of a name's bytes, and no time to be made safe.
    """
    study, _, number = run.rpartition("/")
    if study and number.isascii() and number.isdigit() and len(number) < 10:
        return f"{style.plain(tail(study))}/%{{customdata[1]}}", int(number)
    return _short(run), 0


def _dots(drawn: Sequence[Line], hovers: Sequence[tuple[str, str]], runs: int) -> Trace:
    """A marker for each line that is a single point."""
    places = [(line, int(np.flatnonzero(np.isfinite(line.y))[0])) for line in drawn]
    return {
        "type": "scatter",
        "mode": "markers",
        "showlegend": False,
        "x": floats([line.x[place] for line, place in places]),
        "y": floats([line.y[place] for line, place in places]),
        "customdata": np.array([line.index for line in drawn], np.int32),
        "text": [_short(line.run) for line in drawn],
        "marker": {"size": 5, "color": [style.look(line.index, runs).color for line in drawn]},
        "hovertemplate": style.hover(("", "<b>%{text}</b>"), *hovers),
    }


@functools.lru_cache(maxsize=1024)
def _short(run: str) -> str:
    return style.plain(tail(run))


def tail(run: str, most: int = 24) -> str:
    """A run's name cut in its middle: the end, which has its number, stays."""
    name = style.cut(run, 400)
    return name if len(name) <= most else f"{name[: most - 10]}…{name[-9:]}"
