"""The trials of a study as a table for people: order, columns, headings. Without Streamlit."""

from __future__ import annotations

import pandas as pd

from app.charts.style import cut
from app.words import Words
from hpo.results.tables import StudyTables

FIRST = ("rank", "number", "state", "value", "best_epoch", "seconds")
LAST = ("reason",)


def ranked(tables: StudyTables) -> pd.DataFrame:
    """The trials, complete ones first, the best first; ``rank`` counts the complete ones."""
    table = tables.trials
    order = table.assign(open=table["state"] != "complete").sort_values(
        ["open", "value"], ascending=[True, not tables.maximize], kind="stable"
    )
    rank = pd.Series(range(1, len(order) + 1), order.index, dtype="Int64")
    rank = rank.where(~order["open"])
    return order.drop(columns="open").assign(rank=rank).reset_index(drop=True)


def first_columns(tables: StudyTables, names: list[str]) -> list[str]:
    """The columns that a person looks for first."""
    several = [name for name in names if name.startswith("value.")]
    params = [name for name in names if name.startswith("params.")]
    first = [name for name in FIRST if name != "value" or not several]
    reason = list(LAST) if tables.trials["reason"].astype(bool).any() else []
    wanted = [*first[:3], *(several or []), *first[3:], *params, *reason]
    return [name for name in wanted if name in names]


def for_people(table: pd.DataFrame, w: Words) -> pd.DataFrame:
    """Text cut to a line; states in the language that is shown."""
    shown = table.copy()
    for name in shown:
        if name == "state":
            shown[name] = [w(f"state.{state}") for state in shown[name]]
        elif shown[name].dtype == "object" or isinstance(shown[name].dtype, pd.StringDtype):
            shown[name] = [None if pd.isna(v) else cut(v, 200) for v in shown[name]]
    return shown


def title(name: str, w: Words) -> str:
    """A column's heading."""
    if name.startswith("params."):
        return cut(name.removeprefix("params.").removeprefix("train."))
    known = {*FIRST, *LAST, "worker", "last_epoch"}
    return w(f"column.{name}") if name in known else cut(name.removeprefix("value."))
