"""A matrix as coloured cells with what is written in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from app.charts import style
from app.charts.style import Trace

Scale = Sequence[tuple[float, str]]  # places in [0, 1], ascending from 0 to 1, and their colours

MOST_WRITTEN = 12  # rows up to which there is room for texts in the cells
# Opaque, and the same on a light and on a dark page.
BLUES: Scale = ((0, "#e6edf3"), (1, "#0072b2"))
DIFFERENCES: Scale = ((0, "#d55e00"), (0.5, "#ececec"), (1, "#0072b2"))  # worse, same, better
INKS = ("#000000", "#ffffff")  # of which one contrasts 4.5:1 with any colour


def cells(
    z: npt.NDArray[Any],
    bounds: tuple[float, float],
    scale: Scale,
    texts: Sequence[Sequence[str]],
    hovered: Sequence[Sequence[str]],
    template: str,
    colorbar: bool = False,
) -> list[Trace]:
    """The traces of a matrix whose first row is to be on top (a reversed axis).

    Args:
        z: (rows, columns), what gives the colour; NaN: no cell.
        bounds: The values at the ends of `scale`.
        texts: Of each cell: what is written in it where there is room.
        hovered: Of each cell, `app.charts.style.plain`: what `template` has as its customdata.
    """
    low, high = bounds
    heat: Trace = {
        "type": "heatmap",
        "z": style.floats(z.ravel()).reshape(z.shape),
        "zmin": low,
        "zmax": high,
        "colorscale": [list(stop) for stop in scale],
        "showscale": colorbar,
        "colorbar": {"thickness": 10, "outlinewidth": 0, "nticks": 5},
        "text": [list(row) for row in texts],
        "customdata": [list(row) for row in hovered],
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": template,
    }
    return [heat, _written(z, bounds, scale, texts)] if len(z) <= MOST_WRITTEN else [heat]


def _written(
    z: npt.NDArray[Any], bounds: tuple[float, float], scale: Scale, texts: Sequence[Sequence[str]]
) -> Trace:
    """Texts in the ink that contrasts more: Plotly's own grey cannot be read on a medium blue."""
    y, x = np.nonzero(np.isfinite(z))
    share = np.clip((z[y, x] - bounds[0]) / max(bounds[1] - bounds[0], 1e-12), 0, 1)
    ground = np.stack([np.interp(share, *_channel(scale, i)) for i in range(3)], axis=1)
    luminance = np.where(ground <= 0.04045, ground / 12.92, ((ground + 0.055) / 1.055) ** 2.4) @ (
        0.2126,
        0.7152,
        0.0722,
    )
    # Below this WCAG's contrast with white is the larger one.
    inks = [INKS[int(one < 0.179)] for one in luminance]
    return {
        "type": "scatter",
        "mode": "text",
        "x": x.astype(np.int32),
        "y": y.astype(np.int32),
        "text": [texts[int(row)][int(column)] for row, column in zip(y, x, strict=True)],
        "textfont": {"color": inks, "size": 12},
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _channel(scale: Scale, index: int) -> tuple[list[float], list[float]]:
    """A colour's red, green or blue along the scale, in [0, 1]."""
    at = slice(1 + 2 * index, 3 + 2 * index)
    return [place for place, _ in scale], [int(color[at], 16) / 255 for _, color in scale]
