"""Which runs a page is about: add the best of a study or those that are typed, take some out."""

from __future__ import annotations

import contextlib

import streamlit as st

from app import address
from app.parts import catalog
from app.words import Words


def pick(runs: list[address.Run], w: Words) -> None:
    """A button that opens what adds runs to those in the address, and takes them out."""
    with st.popover(w("compare.runs", count=len(runs)), icon=":material/checklist:"):
        studies = list(catalog().studies()["key"])
        if studies:
            st.selectbox(w("term.study"), studies, key="pick-study")
            st.number_input(w("compare.best_of"), 1, address.MOST_RUNS, 5, key="pick-best")
            # What buttons do here, they do before the page runs, so that it runs once.
            st.button(w("compare.add_best"), key="pick-add", on_click=_add_best, args=(runs,))
        st.text_input(w("compare.type"), key="pick-typed")
        st.button(w("compare.type.add"), key="pick-typed-add", on_click=_add_typed, args=(runs,))
        names = list(map(address.name, runs))
        if st.multiselect(w("compare.take_out"), names, key="pick-out"):
            st.button(
                w("compare.take_out.go"), key="pick-out-go", on_click=_take_out, args=(runs,)
            )


def _add_best(runs: list[address.Run]) -> None:
    key, count = st.session_state["pick-study"], int(st.session_state["pick-best"])
    with contextlib.suppress(Exception):  # it cannot be read now: its own page says why
        best = catalog().study(key).complete()["number"].head(count)
        _set([*runs, *((key, int(number)) for number in best)])


def _add_typed(runs: list[address.Run]) -> None:
    typed = st.session_state["pick-typed"].split(",")
    _set([*runs, *filter(None, map(address.parse, typed))])


def _take_out(runs: list[address.Run]) -> None:
    out = st.session_state["pick-out"]
    _set([run for run in runs if address.name(run) not in out])


def _set(runs: list[address.Run]) -> None:
    kept = list(dict.fromkeys(runs))[: address.MOST_RUNS]
    st.session_state["chosen"] = kept
    address.set_runs(kept)
