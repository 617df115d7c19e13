"""Metrics over epochs: many runs overlaid, or one run in panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from app.charts import lines, style
from app.charts.lines import Line
from app.charts.panels import at, panels, upright
from app.charts.style import Chart, Trace
from app.words import Words
from hpo.results.tables import DETAILS, PARTS, SYSTEM

Over = Literal["epoch", "time", "samples"]
RAW_BEHIND = 6  # runs up to which the unsmoothed curves are drawn behind
FEW_MEASURED = 50  # values up to which each has a marker
SPLITS = ("train", "val")
COLUMNS: dict[Over, str] = {"epoch": "epoch", "time": "elapsed_s", "samples": "samples"}
_NOTHING = np.zeros(0, np.float32)
UNITS = {
    "_mb": "MB",
    "_gb": "GB",
    "_percent": "%",
    "_celsius": "°C",
    "_watts": "W",
}


def metric_names(columns: Sequence[str]) -> list[str]:
    """``train/loss`` and ``val/loss`` are one metric, ``loss``; in the columns' order, without
    those of the machine and of `hpo.results.tables.DETAILS`.
    """
    facts = ("run", "trial", "epoch", "time_ms", "seconds", "elapsed_s", "samples")
    apart = (SYSTEM, *DETAILS)
    bare = [_bare(c) for c in columns if c not in facts and not c.startswith(apart)]
    return list(dict.fromkeys(bare))


def curves_table(epochs: pd.DataFrame, metric: str, smoothing: float = 0.0) -> pd.DataFrame:
    """One metric of many runs.

    Args:
        epochs: ``run`` (its name), ``epoch``, ``seconds`` (of each epoch), optionally ``samples``
            (seen so far), and metrics as ``train/NAME``, ``val/NAME`` or ``NAME``.
        metric: The metric without its split.
        smoothing: Weight of the past in an exponential moving average, in [0, 1).

    Returns:
        ``run``, ``epoch``, ``elapsed_s`` (of training, since the trial began), ``samples`` if it
        was there, then what there is of ``train``, ``val`` and ``value`` (no split), and with
        smoothing the same as ``train.smoothed``, … Infinite values are missing.
    """
    if epochs.empty:
        return pd.DataFrame(columns=["run", "epoch", "elapsed_s"])
    if "elapsed_s" not in epochs:
        epochs = in_order(epochs)
    names = {f"{split}/{metric}": split for split in SPLITS} | {metric: "value"}
    values = epochs[[name for name in names if name in epochs]].astype("float64")
    values = values.where(np.isfinite(values)).rename(columns=names)
    if smoothing:
        values = pd.concat([values, _smoothed(epochs, values, smoothing)], axis=1)
    kept = ["run", "epoch", *(["samples"] if "samples" in epochs else []), "elapsed_s"]
    return pd.concat([epochs[kept], values], axis=1)


def in_order(epochs: pd.DataFrame) -> pd.DataFrame:
    """Run after run, epoch after epoch, with ``elapsed_s``: what all metrics have in common.

    Args:
        epochs: As in `curves_table`, which does this unless it has been done.
    """
    epochs = epochs.sort_values("epoch", kind="stable")
    epochs = epochs.assign(elapsed_s=epochs.groupby("run")["seconds"].cumsum())
    order = np.argsort(pd.factorize(epochs["run"])[0], kind="stable")
    return epochs.iloc[order].reset_index(drop=True)


def _smoothed(epochs: pd.DataFrame, values: pd.DataFrame, smoothing: float) -> pd.DataFrame:
    """The moving averages of all runs, row for row."""
    steps, step = np.unique(epochs["epoch"], return_inverse=True)
    run, runs = pd.factorize(epochs["run"])
    wide = np.full((values.shape[1], len(steps), len(runs)), np.nan)
    wide[:, step, run] = values.to_numpy().T
    flat = pd.DataFrame(wide.transpose(1, 0, 2).reshape(len(steps), -1))
    averages = lines.smoothed(flat, smoothing).to_numpy().reshape(len(steps), -1, len(runs))
    names = [f"{name}.smoothed" for name in values]
    return pd.DataFrame(averages[step, :, run], columns=names)


def overlay(
    epochs: pd.DataFrame,
    metric: str,
    w: Words,
    over: Over = "epoch",
    smoothing: float = 0.0,
    log_x: bool = False,
    log_y: bool = False,
    runs: Sequence[str] | None = None,
) -> Chart:
    """One metric of up to 200 runs: validation solid, training dashed.

    A point's ``customdata`` is its run's place in ``runs``.

    Args:
        epochs, metric, smoothing: As in `curves_table`.
        over: The horizontal axis: epochs, time in training, or samples seen.
        log_x, log_y: Which axes are logarithmic.
        runs: The runs in the order that gives them their looks; as they appear if None.
    """
    table = curves_table(epochs, metric, smoothing)
    order = list(dict.fromkeys(table["run"]) if runs is None else runs)
    longest = float(table["elapsed_s"].max()) if len(table) and over == "time" else 0.0
    unit_s, unit = style.duration_unit(longest)
    x_title = w(f"curves.over_{over}", unit=w(unit))
    title = style.cut(metric, 40) + (w("curves.smoothed", weight=smoothing) if smoothing else "")
    fig = style.figure(title, x_title, metric, height=400)
    splits = [
        split for split in (*SPLITS, "value") if split in table and table[split].notna().any()
    ]
    if not splits or COLUMNS[over] not in table:
        what = w("empty.no_curves", metric=style.cut(metric, 40))
        return Chart(style.note(fig, what), table)
    divisor = unit_s if over == "time" else 1.0
    drawn, hidden = _lines(table, order, splits, COLUMNS[over], divisor, (log_x, log_y), smoothing)
    hovers = ((x_title, f"%{{x:{style.NUMBER}}}"), (metric, f"%{{y:{style.NUMBER}}}"))
    if smoothing and len(order) <= RAW_BEHIND:
        raw, _ = _lines(table, order, splits, COLUMNS[over], divisor, (log_x, log_y), 0.0)
        fig.add_traces([_behind(line) for line in raw if not line.dashed])
    fig.add_traces(lines.traces(drawn, hovers, len(order)))
    if "train" in splits and "val" in splits:
        fig.add_traces(_split_key(w))
    style.axis_type(fig, "x", log_x, np.concatenate([line.x for line in drawn] or [_NOTHING]))
    style.axis_type(fig, "y", log_y, np.concatenate([line.y for line in drawn] or [_NOTHING]))
    outside = 0 if log_y else _look_at_the_usual(fig, drawn)
    return Chart(
        fig,
        table,
        style.said(
            w("curves.hover_names") if len(order) > style.MOST_NAMED else "",
            style.left_out(w, hidden, "caption.not_positive"),
            style.left_out(w, outside, "caption.outside"),
        ),
    )


def _lines(
    table: pd.DataFrame,
    order: Sequence[str],
    splits: Sequence[str],
    column: str,
    divisor: float,
    log: tuple[bool, bool],
    smoothing: float,
) -> tuple[list[Line], int]:
    """The lines, training ones first, and how many values a log axis hides."""
    groups: dict[Any, Any] = table.groupby("run", sort=False).indices
    x = style.floats(table[column] / divisor)
    x = lines.above_zero(x)[0] if log[0] else x
    drawn, hidden = [], 0
    for split in splits:
        y = style.floats(table[f"{split}.smoothed" if smoothing else split])
        if log[1]:
            y, count = lines.above_zero(y)
            hidden += count
        for index, run in enumerate(order):
            rows = groups.get(run)
            if rows is not None:
                rows = rows[np.isfinite(x[rows])]
                dashed = split == "train" and len(splits) > 1
                drawn.append(Line(run, index, x[rows], y[rows], dashed))
    return [line for line in drawn if np.isfinite(line.y).any()], hidden


def _behind(line: Line) -> Trace:
    x, y = lines.thinned(line.x, line.y, lines.MOST_POINTS)
    return {
        "type": "scatter",
        "mode": "lines",
        "showlegend": False,
        "legendgroup": str(line.index),
        "x": x,
        "y": y,
        "line": {"color": style.look(line.index).color, "width": 1},
        "opacity": 0.3,
        "hoverinfo": "skip",
    }


def _split_key(w: Words) -> list[Trace]:
    """What solid and dashed mean, as entries of the legend."""
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": w(f"curves.{split}"),
            "x": [None],
            "y": [None],
            "line": {"color": style.GREY, "width": 2, "dash": dash},
        }
        for split, dash in (("val", "solid"), ("train", "dash"))
    ]


def _look_at_the_usual(fig: Any, drawn: Sequence[Line]) -> int:
    """Leave runs out of view that went astray; return how many points lie outside.

    Judged by each run's extremes: every run's first epochs are far off, and belong into view.
    """
    ends = [end(line.y) for line in drawn for end in (np.nanmin, np.nanmax)]
    usual = style.usual_range(style.floats(ends))
    if usual is None:
        return 0
    fig.update_layout(yaxis_range=usual)
    return sum(int(((line.y < usual[0]) | (line.y > usual[1])).sum()) for line in drawn)


# -- one run


def run_curves(
    epochs: pd.DataFrame,
    w: Words,
    best_epoch: int | None = None,
    smoothing: float = 0.0,
    columns: int = 2,
) -> Chart:
    """All metrics of one run, a panel each, training and validation together.

    Args:
        epochs: Of one trial, as in `hpo.results.StudyTables`.
        best_epoch: Marked, if known.
        smoothing: As in `curves_table`.
        columns: Panels side by side: 1 on a phone.
    """
    epochs = epochs.sort_values("epoch", kind="stable")
    metrics = [m for m in metric_names([str(c) for c in epochs]) if _reported(epochs, m)]
    facts = [c for c in ("epoch", "time_ms", "seconds") if c in epochs]
    names = [name for metric in metrics for name in _columns_of(epochs, metric)]
    table = epochs[[*facts, *names]]
    if not metrics:
        fig = style.figure(w("run.curves"), w("term.epoch"), w("term.value"))
        return Chart(style.note(fig, w("empty.no_epochs")), table)
    count = len(metrics)
    fig = panels(
        w("run.curves"), metrics, columns, x=[{"title": w("term.epoch")}] * count, y=[{}] * count
    )
    smooth = lines.smoothed(epochs[names].where(np.isfinite(epochs[names])), smoothing)
    for index, metric in enumerate(metrics):
        fig.add_traces(_run_traces(epochs["epoch"], smooth, metric, index, w))
    if best_epoch is None:
        return Chart(_one_entry_each(fig), table)
    fig.update_layout(shapes=[upright(index, best_epoch, "dot") for index in range(count)])
    return Chart(_one_entry_each(fig), table, w("run.best_epoch", epoch=best_epoch))


def parts(epochs: pd.DataFrame, metric: str, w: Words) -> Chart | None:
    """One metric of one run in each fold and repeat, with their mean; None where it has no such.

    Args:
        epochs: Of one trial, as in `hpo.results.StudyTables`.
        metric: Its full name, ``val/loss``.
    """
    epochs = epochs.sort_values("epoch", kind="stable")
    found = [c for c in map(str, epochs) if c.startswith(PARTS) and c.endswith(f"/{metric}")]
    found = [column for column in found if epochs[column].notna().any()]
    if not found or metric not in epochs:
        return None
    names = [metric, *found]
    fig = style.figure(w("run.parts", metric=style.cut(metric, 28)), w("term.epoch"), metric)
    x = style.floats(epochs["epoch"])
    hovers = ((w("term.epoch"), "%{x}"), (metric, f"%{{y:{style.NUMBER}}}"))
    drawn = [
        Line(name.removesuffix(f"/{metric}"), place, x, style.floats(epochs[name]))
        for place, name in enumerate(found, 1)
    ]
    mean = Line(w("run.parts.mean"), 0, x, style.floats(epochs[metric]))
    fig.add_traces(lines.traces(drawn, hovers, len(drawn)))
    fig.add_traces(lines.traces([mean], hovers, 1))
    fig.data[-1].line.width = 4
    return Chart(fig, epochs[["epoch", *names]])


def resources(epochs: pd.DataFrame, w: Words, columns: int = 2) -> Chart:
    """What one run used of its machine, a panel for each ``system/…`` metric.

    Args:
        epochs: Of one trial, as in `hpo.results.StudyTables`.
        columns: Panels side by side: 1 on a phone.
    """
    epochs = epochs.sort_values("epoch", kind="stable")
    names = [str(c) for c in epochs if str(c).startswith("system/")]
    names = [name for name in names if np.isfinite(epochs[name].astype("float64")).any()]
    elapsed = epochs["seconds"].cumsum()
    table = epochs[["epoch", *names]].assign(elapsed_s=elapsed)
    unit_s, unit = style.duration_unit(float(elapsed.max()) if len(epochs) else 0.0)
    x_title = w("curves.over_time", unit=w(unit))
    if not names:
        fig = style.figure(w("run.resources"), x_title, "")
        return Chart(style.note(fig, w("empty.no_resources")), table)
    fig = panels(
        w("run.resources"),
        [_with_unit(name) for name in names],
        columns,
        x=[{"title": x_title}] * len(names),
        y=[{"rangemode": "tozero"}] * len(names),
    )
    x = style.floats(elapsed / unit_s)
    for index, name in enumerate(names):
        hovers = ((x_title, "%{x:.3~g}"), (name, f"%{{y:{style.NUMBER}}} {unit_of(name)}"))
        y = style.floats(epochs[name])
        known = np.isfinite(y)  # they are measured every second or so, not in every epoch
        line = lines.thinned(x[known], y[known], lines.MOST_POINTS)
        mode = "lines+markers" if known.sum() <= FEW_MEASURED else "lines"
        trace: Trace = {"type": "scatter", "mode": mode, "x": line[0], "y": line[1]}
        trace |= {"line": {"color": style.look(index).color, "width": 2}, "showlegend": False}
        fig.add_traces(at(index, [trace | {"hovertemplate": style.hover(*hovers)}]))
    return Chart(fig, table)


def unit_of(name: str) -> str:
    """The unit that the end of a metric's name says, or nothing."""
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")


def _with_unit(name: str) -> str:
    unit = unit_of(name)
    return name.removeprefix("system/") + (f" ({unit})" if unit else "")


def _bare(column: str) -> str:
    split, slash, rest = column.partition("/")
    return rest if slash and split in SPLITS else column


def _columns_of(epochs: pd.DataFrame, metric: str) -> list[str]:
    return [c for c in (*(f"{split}/{metric}" for split in SPLITS), metric) if c in epochs]


def _reported(epochs: pd.DataFrame, metric: str) -> bool:
    found = epochs[_columns_of(epochs, metric)].astype("float64")
    return bool(np.isfinite(found.to_numpy()).any())


def _run_traces(
    epoch: pd.Series, values: pd.DataFrame, metric: str, index: int, w: Words
) -> list[Trace]:
    traces = []
    for name in _columns_of(values, metric):
        split = name.partition("/")[0] if name != metric else "value"
        look = style.look(1 if split == "train" else 0)
        x, y = lines.thinned(style.floats(epoch), style.floats(values[name]), lines.MOST_POINTS)
        hovers = ((w("term.epoch"), "%{x}"), (name, f"%{{y:{style.NUMBER}}}"))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines" if np.isfinite(y).sum() > 1 else "markers",
                "name": w(f"curves.{split}") if split in SPLITS else w("term.value"),
                "legendgroup": split,
                "x": x,
                "y": y,
                "line": {
                    "color": look.color,
                    "width": 1.5 if split == "train" else 2,
                    "dash": "dash" if split == "train" else "solid",
                },
                "hovertemplate": style.hover(*hovers),
            }
        )
    return at(index, traces)


def _one_entry_each(fig: Any) -> Any:
    """A legend entry for each group, not for each panel."""
    seen: set[str] = set()
    for trace in fig.data:
        trace.showlegend = trace.legendgroup not in seen
        seen.add(trace.legendgroup)
    return fig
