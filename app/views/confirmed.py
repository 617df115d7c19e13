"""What `hpo confirm` found: the best trials on fresh seeds, and the test split."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app.parts import catalog, inert, made
from app.sentences import interval, number
from app.words import Words
from hpo.results import UserError
from hpo.results.tables import StudyTables

Facts = Mapping[str, Any]


def confirmed(tables: StudyTables, w: Words) -> None:
    """Draw it, where the study was confirmed."""
    facts: Facts | None = None
    with contextlib.suppress(UserError):  # a store that cannot be read now: it is said above
        facts = made(
            lambda: catalog().confirmation(tables.key),
            *("confirmation", tables.source, tables.key, tables.version),
        )
    if facts is None:
        return
    st.header(w("confirmed"))
    left, right = st.columns(2)
    with left:
        st.caption(w("confirmed.seeds", seeds=facts["seeds"], metric=inert(facts["metric"])))
        st.dataframe(_trials(facts, w), hide_index=True, key="confirmed-trials")
        for trial in filter(lambda each: _lucky(each, facts), facts["trials"]):
            st.caption(w("confirmed.luck", trial=trial["trial"]))
    if facts["test"] is None:
        return
    with right:
        st.caption(w("confirmed.test", rows=f"{facts['test']['rows']:,}"))
        st.dataframe(_test(facts["test"], w), hide_index=True, key="confirmed-test")
        if facts["looks"] > 1:
            st.caption(w("confirmed.looks", looks=facts["looks"]))


def _trials(facts: Facts, w: Words) -> pd.DataFrame:
    trials = facts["trials"]
    return pd.DataFrame(
        {
            w("column.number"): [each["trial"] for each in trials],
            w("confirmed.searched"): [number(each["searched"]) for each in trials],
            w("confirmed.fresh"): [_with_interval(each["mean"], each) for each in trials],
            w("confirmed.each"): [
                " ".join(map(number, each["values"])) for each in facts["trials"]
            ],
        }
    )


def _test(test: Facts, w: Words) -> pd.DataFrame:
    """A row a metric, the one that counts first."""
    runs = test["runs"]
    metrics = sorted(next(iter(runs.values())), key=lambda name: name != test["metric"])
    return pd.DataFrame(
        {
            w("column.metric"): metrics,
            **{
                run: [_with_interval(of[name]["value"], of[name]) for name in metrics]
                for run, of in runs.items()
            },
        }
    )


def _with_interval(value: float | None, ends: Facts) -> str:
    low, high = (math.nan if ends[end] is None else ends[end] for end in ("low", "high"))
    return f"{number(value)} {interval(low, high)}"


def _lucky(trial: Facts, facts: Facts) -> bool:
    """Whether its value in the search is better than its whole interval."""
    end = trial["high" if facts["goal"] == "maximize" else "low"]
    if end is None or math.isnan(end):
        return False
    beyond = trial["searched"] - end
    return bool(beyond > 0 if facts["goal"] == "maximize" else beyond < 0)
