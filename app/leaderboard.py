"""The trials of a study as a table to sort, filter, choose columns of, and pick runs from."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.charts.style import cut
from app.parts import csv, offer
from app.words import Words
from hpo.results.tables import STATES, StudyTables

MOST_ROWS = 1000  # the browser gets no more; all are in the CSV
FIRST = ("rank", "number", "state", "value", "best_epoch", "seconds")
LAST = ("reason",)


def leaderboard(tables: StudyTables, w: Words) -> None:
    """Draw it; the runs whose rows are chosen may be compared."""
    st.subheader(w("leaderboard"))
    table = ranked(tables)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        present = [state for state in STATES if (table["state"] == state).any()]
        states = st.pills(
            w("column.state"),
            present,
            default=present,
            selection_mode="multi",
            format_func=lambda state: w(f"state.{state}"),
            key="states",
        )
        where = st.text_input(w("leaderboard.where"), key="where", bind="query-params")
        names = [str(column) for column in table]
        chosen = st.multiselect(
            w("leaderboard.columns"),
            names,
            default=first_columns(tables, names),
            format_func=cut,
            key="columns",
        )
    found = table[table["state"].isin(states or [])]
    if where:
        try:
            found = found.query(where)
        except Exception as error:  # whatever pandas' expression parser meets
            st.warning(w("leaderboard.bad_where", why=cut(str(error), 200)))
    found = found.reset_index(drop=True)
    event = st.dataframe(
        for_people(found.head(MOST_ROWS)[chosen], w),
        hide_index=True,
        key="leaderboard",
        on_select="rerun",
        selection_mode="multi-row",
        column_config={
            name: st.column_config.Column(title(name, w), pinned=name in ("rank", "number"))
            for name in chosen
        },
    )
    with st.container(horizontal=True):
        shown = min(len(found), MOST_ROWS)
        st.caption(w("leaderboard.shown", shown=shown, of=len(table)))
        csv(found, f"{tables.key}-trials", w)
    rows = [row for row in event["selection"]["rows"] if row < len(found)]
    offer([(tables.key, int(found["number"][row])) for row in rows], "leaderboard", w)


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
    known = {"rank", "number", "state", "value", "best_epoch", "seconds", "reason"}
    return w(f"column.{name}") if name in known else cut(name.removeprefix("value."))
