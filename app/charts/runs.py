"""Tables of many runs: put together for the CSV, and what their charts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from app.charts import style
from app.charts.style import Trace

Tables = Mapping[str, pd.DataFrame]  # a run's name → its table


def together(tables: Tables, bands: Tables | None = None) -> pd.DataFrame:
    """One table with ``run`` as its first column; rows of bands have ``kind`` ``band``."""
    parts = [*tables.items()]
    parts += [(run, band.assign(kind="band")) for run, band in (bands or {}).items()]
    if not parts:
        return pd.DataFrame(columns=["run"])
    whole = pd.concat([part for _, part in parts], ignore_index=True)
    runs = np.array([run for run, _ in parts], object)
    rows = [len(part) for _, part in parts]
    whole.insert(0, "run", pd.Series(runs.repeat(rows), dtype="str"))
    return whole


def chance_line(x: Sequence[float], y: Sequence[float], name: str) -> Trace:
    """What curves are held against, last in the legend."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": style.GREY, "width": 1, "dash": "dot"},
        "legendrank": 2000,
        "hoverinfo": "skip",
    }
