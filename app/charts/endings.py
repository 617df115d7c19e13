"""How trials ended: what the pruner let go on, and why trials failed."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from app.charts import style
from app.charts.style import STATES, Chart
from app.words import Words

MOST_NAMED_RUNGS = 12  # bars that stand side by side whatever their epochs' distance
MOST_CAUSES = 12


def rungs_table(trials: pd.DataFrame) -> pd.DataFrame:
    """What became of the trials at each epoch at which some were pruned.

    Args:
        trials: As in `hpo.results.StudyTables`.

    Returns:
        ``epoch``; ``reached``: trials that trained it; of them ``pruned`` there, ``ended`` there
        otherwise (complete, failed, stopped, still training), and ``went_on``.
    """
    last = trials["last_epoch"].astype("float64").fillna(0).to_numpy()
    pruned = (trials["state"] == "pruned").to_numpy()
    epochs = np.unique(last[pruned])
    rows = [
        (int(e), int((last >= e).sum()), int((pruned & (last == e)).sum()), int((last > e).sum()))
        for e in epochs
    ]
    table = pd.DataFrame(rows, columns=["epoch", "reached", "pruned", "went_on"])
    table.insert(3, "ended", table["reached"] - table["pruned"] - table["went_on"])
    return table


def rungs(trials: pd.DataFrame, w: Words) -> Chart:
    """How many trials went on and how many were pruned, at each epoch with pruning.

    Args:
        trials: As in `hpo.results.StudyTables`.
    """
    table = rungs_table(trials)
    fig = style.figure(w("rungs.title"), w("term.epoch"), w("rungs.trials"))
    if table.empty:
        return Chart(style.note(fig, w("empty.nothing_pruned")), table)
    named = len(table) <= MOST_NAMED_RUNGS
    x = [str(e) for e in table["epoch"]] if named else style.floats(table["epoch"])
    parts = (
        ("went_on", "#0072b2", ""),
        ("pruned", STATES["pruned"][0], "/"),
        ("ended", style.GREY, "."),
    )
    for part, color, pattern in parts:
        if not table[part].any():
            continue
        share = style.floats(100 * table[part] / table["reached"])
        about = (
            (w("term.epoch"), "%{x}"),
            (w(f"rungs.{part}"), "%{y} (%{customdata:.3~g} %)"),
        )
        fig.add_bar(
            x=x,
            y=table[part].to_numpy(np.int32),
            customdata=share,
            name=w(f"rungs.{part}"),
            marker={"color": color, "pattern": style.pattern(pattern)},
            text=[str(n) if n else "" for n in table[part]] if named else None,
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            hovertemplate=style.hover(*about),
        )
    fig.update_layout(barmode="stack", bargap=0.25)
    if named:
        fig.update_xaxes(type="category")
    return Chart(fig, table)


def cause(reason: object) -> str:
    """What failures have in common: the first line, its numbers and addresses left out."""
    line = next((part for part in str(reason or "").splitlines() if part.strip()), "")
    line = re.sub(r"0x[0-9a-fA-F]+|\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", "…", line)
    return style.cut(line, 160) or "–"


def failures_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Failed trials by cause, the most frequent first: ``cause``, ``trials`` and ``numbers``."""
    failed = trials[trials["state"] == "failed"]
    groups = failed.groupby(failed["reason"].map(cause), sort=False)["number"]
    rows = [(str(name), len(n), ", ".join(str(i) for i in n)) for name, n in groups]
    table = pd.DataFrame(rows, columns=["cause", "trials", "numbers"])
    return table.sort_values("trials", ascending=False, kind="stable", ignore_index=True)


def failures(trials: pd.DataFrame, w: Words) -> Chart:
    """How often trials failed for each cause; the first trial of it is its ``customdata``.

    Args:
        trials: As in `hpo.results.StudyTables`.
    """
    table = failures_table(trials)
    fig = style.figure(w("failures.title"), w("rungs.trials"), "")
    if table.empty:
        return Chart(style.note(fig, w("empty.nothing_failed")), table)
    top = table.head(MOST_CAUSES)[::-1]
    texts = [
        f"{style.plain(row.cause, 100)}<br>{style.plain(w('term.trial'))} "
        f"{style.plain(row.numbers, 60)}"
        for row in top.itertuples()
    ]
    y = np.arange(len(top), dtype=np.int32)
    fig.add_bar(
        orientation="h",
        x=top["trials"].to_numpy(np.int32),
        y=y,
        customdata=[int(n.split(",")[0]) for n in top["numbers"]],
        text=texts,
        textposition="none",
        width=0.36,
        marker={"color": STATES["failed"][0], "pattern": style.pattern("x")},
        hovertemplate=style.hover(("", "%{text}"), (w("rungs.trials"), "%{x}")),
    )
    for place, row in zip(y, top.itertuples(), strict=True):  # above its bar: room on a phone
        label = {"text": style.plain(f"{row.trials} × {row.cause}", 52), "font": {"size": 12}}
        fig.add_annotation(
            **label, x=0, y=place, yshift=17, xanchor="left", showarrow=False, align="left"
        )
    fig.update_yaxes(visible=False, range=[-0.5, len(top) - 0.2])
    fig.update_xaxes(rangemode="tozero")
    fig.update_layout(height=120 + 48 * len(top))
    more = len(table) - len(top)
    return Chart(fig, table, style.left_out(w, more, "failures.more"))
