"""The trials of a study as a table to sort, filter, choose columns of, and pick runs from."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.charts.style import cut
from app.parts import csv, inert, offer
from app.trial_table import first_columns, for_people, ranked, title
from app.words import Words
from hpo.results.filtering import filtered
from hpo.results.tables import STATES, StudyTables

MOST_ROWS = 1000  # the browser gets no more; all are in the CSV


def leaderboard(tables: StudyTables, w: Words) -> None:
    """Draw it; the runs whose rows are chosen may be compared."""
    st.header(w("leaderboard"))
    table = ranked(tables)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        present = [state for state in STATES if (table["state"] == state).any()]
        states = st.pills(
            w("leaderboard.states"),
            present,
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
    found = table[table["state"].isin(states or present)]
    if where:
        try:
            found = filtered(found, where)
        except ValueError as error:
            st.warning(w("leaderboard.bad_where", why=inert(error, 200)))
    found = _held(found.reset_index(drop=True), tables.key, states, where, chosen)
    event = st.dataframe(
        for_people(found.head(MOST_ROWS)[chosen], w),
        hide_index=True,
        placeholder="",
        key="leaderboard",
        on_select="rerun",
        selection_mode="multi-row",
        column_config=columns(found[chosen], w),
    )
    with st.container(horizontal=True):
        shown = min(len(found), MOST_ROWS)
        st.caption(w("leaderboard.shown", shown=shown, of=len(table)))
        csv(found, f"{tables.key}-trials", w)
    rows = [row for row in event["selection"]["rows"] if row < len(found)]
    offer([(tables.key, int(found["number"][row])) for row in rows], "leaderboard", w)


def columns(table: pd.DataFrame, w: Words) -> dict[str, Any]:
    """Headings, and four digits of what is no whole number."""
    found = {}
    for name in map(str, table):
        label, pinned = title(name, w), name in ("rank", "number")
        found[name] = (
            st.column_config.NumberColumn(label, pinned=pinned, format="%.4g")
            if pd.api.types.is_float_dtype(table[name])
            else st.column_config.Column(label, pinned=pinned)
        )
    return found


def _held(table: pd.DataFrame, *options: object) -> pd.DataFrame:
    """The table as it was, while rows of it are chosen: they are known by their place only.

    Args:
        options: Another of these, and the new table is shown at once.
    """
    before: object
    held: pd.DataFrame | None
    before, held = st.session_state.get("leaderboard-held", (None, None))
    selected = (
        st.session_state["leaderboard"]["selection"] if "leaderboard" in st.session_state else {}
    )
    if held is None or before != options or not selected.get("rows"):
        st.session_state["leaderboard-held"] = (options, table)
        return table
    return held
