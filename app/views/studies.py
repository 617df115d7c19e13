"""Every study, the one that changed last first."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import address
from app.parts import catalog, current_words, heading, inert, trouble
from app.words import Words
from hpo.results.tables import STATES

REFRESH_S = 2.0


def show() -> None:
    """Draw the page."""
    w = current_words()
    heading(w("page.studies"), w)
    trouble()
    wanted = st.text_input(
        w("studies.search"), key="q", bind="query-params", icon=":material/search:"
    )
    st.fragment(_table, run_every=REFRESH_S)(w, wanted or "")


def _table(w: Words, wanted: str) -> None:
    table = catalog().studies()
    if table.empty:
        _nothing_yet(w)
        return
    found = table[_matches(table, wanted)].reset_index(drop=True)
    if found.empty:
        st.info(w("studies.none_match", count=len(table)))
        return
    if not catalog().is_connected:
        st.caption(w("studies.connecting"))
    event = st.dataframe(
        _shown(found, w),
        hide_index=True,
        key="studies",
        on_select="rerun",
        selection_mode="single-cell",
        column_config=_columns(w),
    )
    st.caption(w("studies.how"))
    rows = [row for row, _ in event["selection"]["cells"]]
    if rows and rows[0] < len(found):
        address.go(address.STUDY, study=str(found["key"][rows[0]]))
    with st.container(horizontal=True):
        for key in found["key"].head(8):
            address.link(address.STUDY, inert(key), icon=":material/science:", study=str(key))


def _nothing_yet(w: Words) -> None:
    st.info(w("studies.empty"), icon="🌱")
    st.code("hpo run studies/quickstart.yaml", language=None)


def _matches(table: pd.DataFrame, wanted: str) -> pd.Series:
    """Rows that have every word somewhere in their name, state, metric or source."""
    text = table[["key", "state", "metric", "source"]].agg(" ".join, axis=1).str.casefold()
    fits = pd.Series(True, index=table.index)
    for word in wanted.casefold().split():
        fits &= text.str.contains(word, regex=False)
    return fits


def _shown(table: pd.DataFrame, w: Words) -> pd.DataFrame:
    counts = [
        ", ".join(f"{row[s]} {w(f'state.{s}')}" for s in STATES if row[s])
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(
        {
            "study": table["key"],
            "state": [w(f"state.{state}") for state in table["state"]],
            "trials": counts,
            "metric": table["metric"] + table["goal"].map(_arrow),
            "best": table["best_value"],
            "so_far": table["best_so_far"],
            "used": table["used"] * 100,
            "updated": table["updated"],
            "source": [
                w("source.here") if source == "here" else source for source in table["source"]
            ],
        }
    )


def _arrow(goal: str) -> str:
    return {"maximize": " ↑", "minimize": " ↓"}.get(goal, "")


def _columns(w: Words) -> Any:
    config = st.column_config
    return {
        "study": config.TextColumn(w("term.study"), width="medium"),
        "state": config.TextColumn(w("column.state"), width="small"),
        "trials": config.TextColumn(w("column.trials")),
        "metric": config.TextColumn(w("column.metric")),
        "best": config.NumberColumn(w("column.best"), format="%.4g", width="small"),
        "so_far": config.LineChartColumn(w("column.so_far"), width="small"),
        "used": config.ProgressColumn(w("column.used"), format="%.0f %%", max_value=100),
        "updated": config.DatetimeColumn(w("column.updated"), format="distance"),
        "source": config.TextColumn(w("column.source"), width="small"),
    }
