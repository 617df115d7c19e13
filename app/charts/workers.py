"""Who trained what when: a row for each worker, with the trials that it trained together in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from app.charts import style
from app.charts.style import STATES, Chart, Trace
from app.words import Words

PATTERNS = {"complete": "", "pruned": "/", "failed": "x", "interrupted": "\\", "stopped": "."}
MOST_BARS = 3_000  # drawn as bars; beyond, the shortest ones are left out
BAR = 0.6  # of a row's height
ROW = 34  # pixels of a worker that trains one trial at a time
LANE, MOST_ROW = 7, 240  # pixels that each further one adds, up to a height
MOST_LANES = 64  # beside each other; more lie on top of them


def timeline_table(spans: pd.DataFrame, now_ms: float) -> pd.DataFrame:
    """The spans in seconds since the first began.

    Args:
        spans: As in `hpo.results.StudyTables`.
        now_ms: Until when spans that are still open are drawn: ``updated_ms`` or the clock.

    Returns:
        ``worker``, ``trial``, ``attempt``, ``state``, ``start_s``, ``end_s``, ``seconds``;
        ``lane``: its place among those that its worker trained at the time, from 0; ``lanes``: how
        many these were, halfway through it.
    """
    table = spans[["worker", "trial", "attempt", "state"]].copy()
    first = spans["start_ms"].min() if len(spans) else 0
    end_ms = spans["end_ms"].astype("float64").fillna(now_ms)
    table["start_s"] = (spans["start_ms"] - first) / 1000
    table["end_s"] = np.maximum((end_ms - first) / 1000, table["start_s"])
    table["seconds"] = table["end_s"] - table["start_s"]
    table["lane"], table["lanes"] = 0, 1
    for _, rows in table.groupby("worker"):
        table.loc[rows.index, "lane"] = _lanes(rows)
        start, end = np.sort(rows["start_s"]), np.sort(rows["end_s"])
        halfway = (rows["start_s"] + rows["end_s"]) / 2
        began = np.searchsorted(start, halfway, side="right")
        together = began - np.searchsorted(end, halfway, side="right")
        table.loc[rows.index, "lanes"] = np.maximum(together, 1)
    return table


def _lanes(spans: pd.DataFrame) -> pd.Series:
    """Each span in the first lane that is free when it begins."""
    free_s: list[float] = []  # when each lane is free
    found = {}
    ordered = spans.sort_values(["start_s", "trial"])
    ends = ordered["end_s"].to_numpy(np.float64)
    for index, start_s, end_s in zip(ordered.index, ordered["start_s"], ends, strict=True):
        free = (lane for lane, until_s in enumerate(free_s) if until_s <= start_s)
        lane = next(free, len(free_s))
        free_s[lane : lane + 1] = [float(end_s)]
        found[index] = lane % MOST_LANES
    return pd.Series(found, dtype="int64")


def trained_s(table: pd.DataFrame) -> pd.Series:
    """Seconds in which each worker trained something, by worker.

    Args:
        table: From `timeline_table`. A worker's spans that overlap count once.
    """
    found = {}
    for worker, spans in table.sort_values("start_s").groupby("worker"):
        reached = spans["end_s"].cummax()
        start = np.maximum(spans["start_s"], reached.shift(fill_value=0.0))
        found[worker] = float((reached - start).clip(lower=0).sum())
    return pd.Series(found, dtype="float64")


def idle_shares(table: pd.DataFrame) -> pd.Series:
    """The share of the whole time in which each worker trained nothing, in [0, 1], by worker.

    Args:
        table: From `timeline_table`.
    """
    whole = float(table["end_s"].max() - table["start_s"].min()) if len(table) else 0.0
    trained = trained_s(table)
    return (1 - trained / whole).clip(lower=0.0) if whole > 0 else trained * 0.0


def timeline(spans: pd.DataFrame, now_ms: float, w: Words) -> Chart:
    """Bars of what each worker trained, with its idle share; ``customdata`` is the trial's number.

    Trials that trained together are thinner bars in the worker's row, which is higher for them.

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
    shares: dict[object, float] = idle.to_dict()
    places = _places(table, list(shares))
    drawn = table.nlargest(MOST_BARS, "seconds") if len(table) > MOST_BARS else table
    fig.add_traces([_bars(drawn, state, places, unit_s, w) for state in _states(drawn)])
    high = sum(row.height for row in places.values())
    fig.update_yaxes(
        tickvals=[row.middle for row in places.values()],
        ticktext=[
            style.plain(w("timeline.row", worker=worker, idle=f"{shares[worker]:.0%}"))
            for worker in places
        ],
        range=[-0.1 * ROW, high + 0.1 * ROW],
        showgrid=False,
        zeroline=False,
    )
    fig.update_xaxes(rangemode="tozero")
    fig.update_layout(barmode="overlay", height=150 + high)
    return Chart(fig, table, style.left_out(w, len(table) - len(drawn), "timeline.short"))


@dataclass(frozen=True)
class _Row:
    """Where a worker's bars lie: `low` and `height` in pixels from the bottom."""

    low: int
    height: int
    lanes: int

    @property
    def middle(self) -> float:
        return self.low + self.height / 2

    @property
    def thickness(self) -> float:
        return (self.height - (1 - BAR) * ROW) / self.lanes

    def place(self, lane: float) -> float:
        """The middle of a lane, the first on top."""
        return self.low + self.height - (1 - BAR) / 2 * ROW - (lane + 0.5) * self.thickness


def _places(table: pd.DataFrame, workers: Sequence[object]) -> dict[object, _Row]:
    """The first worker on top."""
    most: dict[object, int] = (table.groupby("worker")["lane"].max() + 1).to_dict()
    found, low = {}, 0
    for worker in reversed(workers):
        lanes = int(most[worker])
        height = min(ROW + LANE * (lanes - 1), MOST_ROW)
        found[worker] = _Row(low, height, lanes)
        low += height
    return found


def _states(table: pd.DataFrame) -> list[str]:
    found = set(table["state"])
    return [state for state in STATES if state in found]


def _bars(
    table: pd.DataFrame, state: str, places: Mapping[object, _Row], unit_s: float, w: Words
) -> Trace:
    here = table[table["state"] == state]
    rows = [places[worker] for worker in here["worker"]]
    color = STATES[state][0]
    return {
        "type": "bar",
        "orientation": "h",
        "name": w(f"state.{state}"),
        # Plotly does not pack this one: seven digits are shorter than a float32 written out.
        "base": [float(f"{start:.7g}") for start in here["start_s"] / unit_s],
        "x": style.floats(here["seconds"] / unit_s),
        "y": style.floats([row.place(lane) for row, lane in zip(rows, here["lane"], strict=True)]),
        "customdata": here["trial"].to_numpy(np.int32),
        "text": [
            f"{seconds:.4g} s"
            + (f"<br>{w('timeline.together', count=lanes)}" if lanes > 1 else "")
            for seconds, lanes in zip(here["seconds"], here["lanes"], strict=True)
        ],
        "textposition": "none",
        "width": style.floats([row.thickness for row in rows]),
        "marker": {
            "color": color,
            "pattern": style.pattern(PATTERNS.get(state, "")),
            "line": {
                "width": 0.5 if max(row.lanes for row in rows) == 1 else 0.2,
                "color": "rgba(128, 128, 128, 0.6)",
            },
        },
        "hovertemplate": style.hover(
            (w("term.trial"), "%{customdata}"), (w("timeline.took"), "%{text}")
        ),
    }
