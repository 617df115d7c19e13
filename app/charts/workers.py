"""Who trained what when: a row for each worker."""

from __future__ import annotations

import numpy as np
import pandas as pd

from app.charts import style
from app.charts.style import STATES, Chart, Trace
from app.words import Words

PATTERNS = {"complete": "", "pruned": "/", "failed": "x", "interrupted": "\\", "stopped": "."}
MOST_BARS = 3_000  # drawn as bars; beyond, the shortest ones are left out
BAR = 0.6  # of a row's height


def timeline_table(spans: pd.DataFrame, now_ms: float) -> pd.DataFrame:
    """The spans in seconds since the first began.

    Args:
        spans: As in `hpo.results.StudyTables`.
        now_ms: Until when spans that are still open are drawn: ``updated_ms`` or the clock.

    Returns:
        ``worker``, ``trial``, ``attempt``, ``state``, ``start_s``, ``end_s``, ``seconds``.
    """
    table = spans[["worker", "trial", "attempt", "state"]].copy()
    first = spans["start_ms"].min() if len(spans) else 0
    end_ms = spans["end_ms"].astype("float64").fillna(now_ms)
    table["start_s"] = (spans["start_ms"] - first) / 1000
    table["end_s"] = np.maximum((end_ms - first) / 1000, table["start_s"])
    table["seconds"] = table["end_s"] - table["start_s"]
    return table


def idle_shares(table: pd.DataFrame) -> pd.Series:
    """The share of the whole time in which each worker trained nothing, in [0, 1], by worker.

    Args:
        table: From `timeline_table`. A worker's spans that overlap count once.
    """
    whole = float(table["end_s"].max() - table["start_s"].min()) if len(table) else 0.0
    shares = {}
    for worker, spans in table.sort_values("start_s").groupby("worker"):
        reached = spans["end_s"].cummax()
        start = np.maximum(spans["start_s"], reached.shift(fill_value=0.0))
        busy = float((reached - start).clip(lower=0).sum())
        shares[worker] = max(0.0, 1 - busy / whole) if whole > 0 else 0.0
    return pd.Series(shares, dtype="float64")


def timeline(spans: pd.DataFrame, now_ms: float, w: Words) -> Chart:
    """Bars of what each worker trained, with its idle share; ``customdata`` is the trial's number.

    Args:
        spans: As in `hpo.results.StudyTables`.
        now_ms: Until when spans that are still open are drawn.
    """
    table = timeline_table(spans, now_ms)
    unit_s, unit = style.duration_unit(float(table["end_s"].max()) if len(table) else 0.0)
    fig = style.figure(w("timeline.title"), w("history.elapsed", unit=w(unit)), "")
    if table.empty:
        return Chart(style.note(fig, w("empty.no_trials")), table)
    idle = idle_shares(table)
    rows = {worker: row for row, worker in enumerate(reversed(list(idle.index)))}
    drawn = table.nlargest(MOST_BARS, "seconds") if len(table) > MOST_BARS else table
    fig.add_traces([_bars(drawn, state, rows, unit_s, w) for state in _states(drawn)])
    fig.update_yaxes(
        tickvals=list(rows.values()),
        ticktext=[
            style.plain(w("timeline.row", worker=worker, idle=f"{idle[worker]:.0%}"))
            for worker in rows
        ],
        range=[-0.6, len(rows) - 0.4],
        showgrid=False,
        zeroline=False,
    )
    fig.update_xaxes(rangemode="tozero")
    fig.update_layout(barmode="overlay", height=150 + 34 * len(rows))
    return Chart(fig, table, style.left_out(w, len(table) - len(drawn), "timeline.short"))


def _states(table: pd.DataFrame) -> list[str]:
    found = set(table["state"])
    return [state for state in STATES if state in found]


def _bars(
    table: pd.DataFrame, state: str, rows: dict[object, int], unit_s: float, w: Words
) -> Trace:
    here = table[table["state"] == state]
    color = STATES[state][0]
    return {
        "type": "bar",
        "orientation": "h",
        "name": w(f"state.{state}"),
        # Plotly does not pack this one: seven digits are shorter than a float32 written out.
        "base": [float(f"{start:.7g}") for start in here["start_s"] / unit_s],
        "x": style.floats(here["seconds"] / unit_s),
        "y": here["worker"].map(rows).to_numpy(np.int32),
        "customdata": here["trial"].to_numpy(np.int32),
        "text": [f"{seconds:.4g} s" for seconds in here["seconds"]],
        "textposition": "none",
        "width": BAR,
        "marker": {
            "color": color,
            "pattern": style.pattern(PATTERNS.get(state, "")),
            "line": {"width": 0.5, "color": "rgba(128, 128, 128, 0.6)"},
        },
        "hovertemplate": style.hover(
            (w("term.trial"), "%{customdata}"), (w("timeline.took"), "%{text}")
        ),
    }
