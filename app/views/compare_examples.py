"""The examples on which two runs disagree: the image, the row or the text itself."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.compared import Compared, predictions
from app.parts import catalog, csv, digits, inert, made
from app.sentences import number
from app.words import Words
from hpo.results import UserError, differences

PAGE = 24
COLUMNS = 6
IMAGE_WIDTH = 96  # pixels


def show(found: Compared, w: Words) -> None:
    """Draw the view."""
    kept = predictions(found)
    if len(kept) < 2:
        st.info(w("examples.need_two"))
        return
    names = list(kept)
    with st.container(horizontal=True):
        a = st.selectbox(w("examples.a"), names, index=0, key="a", bind="query-params")
        b = st.selectbox(w("examples.b"), names, index=1, key="b", bind="query-params")
    table = made(
        lambda: differences.disagreements(kept[a], kept[b]), "disagree", a, b, *found.version
    )
    if not differences.in_common(kept[a], kept[b]):
        st.info(w("examples.nothing_common"))
        return
    if table.empty:
        st.success(w("examples.agree"))
        return
    key = dict(zip(found.names, found.runs, strict=True))[a][0]
    examples = None
    try:
        examples = made(lambda: catalog().examples(key), "examples", *found.version, key)
    except UserError as error:
        st.warning(inert(error, 300))
    st.caption(w("examples.count", count=len(table)))
    if examples is None:
        st.info(w("examples.not_kept"))
        st.dataframe(table, hide_index=True, key="disagreements", column_config=digits(table))
        csv(table, "disagreements", w)
        return
    joined = table.merge(examples, on="id", how="left", suffixes=("", " (data)"))
    if "image" in examples:
        _images(joined, w)
    else:
        st.dataframe(joined, hide_index=True, key="disagreements", column_config=digits(joined))
    csv(joined.drop(columns="image", errors="ignore"), "disagreements", w)


def _images(table: pd.DataFrame, w: Words) -> None:
    pages = max(1, -(-len(table) // PAGE))
    page = st.number_input(w("examples.page", pages=pages), 1, pages, 1, key="page")
    shown = table.iloc[(int(page) - 1) * PAGE :].head(PAGE)
    columns = st.columns(COLUMNS)
    for place, row in enumerate(shown.to_dict("records")):
        with columns[place % COLUMNS], st.container(border=True):
            if isinstance(row["image"], bytes):
                st.image(row["image"], width=IMAGE_WIDTH, alt=w("examples.alt", id=row["id"]))
            else:
                st.caption(w("examples.not_among"))
            st.text(w("examples.truth", target=row["target"]))
            for side in ("a", "b"):
                mark = "✓" if row["right"] == side else "✗"
                confidence = row.get(f"{side}_confidence")
                sure = "" if confidence is None else f" {number(float(confidence))}"
                st.text(f"{mark} {side.upper()}: {row[side]}{sure}")
