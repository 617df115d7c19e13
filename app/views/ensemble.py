"""Several runs as one: an ensemble that `hpo ensemble` recorded, or one of the runs one chose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import address
from app.charts import comparisons, ensembles
from app.compared import Compared, compared, metrics, predictions, predictions_of, unlike
from app.parts import (
    catalog,
    chart,
    csv,
    current_words,
    digits,
    heading,
    inert,
    made,
    offer,
    study_or_stop,
    trouble,
)
from app.picking import pick
from app.sentences import interval, number, p_value, signed
from app.words import Words
from hpo.results import UserError
from hpo.results.combined import combine, differing
from hpo.results.predicted import Predicted
from hpo.results.tables import COST, StudyTables

FIRST_RUNS = 20  # of a study without an ensemble
AGAINST = {"best in fold": "single", "best in fold, calibrated": "calibrated"}
SECONDS = "seconds"  # of training: the cost that every trial has


def show() -> None:
    """Draw the page."""
    w = current_words()
    runs, key = address.runs(), address.study()
    if not runs and not key:
        runs = address.chosen()
    heading(w("page.ensemble"), w)
    trouble()
    if key and not runs:
        _recorded(key, w)
    else:
        _chosen(runs, w)


# -- one that was recorded


def _recorded(key: str, w: Words) -> None:
    tables = study_or_stop(key, w)
    address.link(address.STUDY, inert(key), icon=":material/arrow_back:", study=key)
    try:
        there = catalog().ensembles(key)
    except UserError as error:
        st.warning(inert(error, 300))
        return
    if not there:
        _none_recorded(tables, w)
        return
    names = {str(facts["ensemble"]): facts for facts in reversed(there)}
    facts = names[
        address.choice_of_many(
            "ensemble", list(names), lambda one: _title(names[one], w), w("page.ensemble")
        )
    ]
    runs = [(key, int(trial)) for trial in tables.complete()["number"]]
    named = _named(facts, key)
    st.caption(
        w(
            "ensemble.recorded",
            members=len(facts["members"]),
            trials=facts["trials"],
            rows=facts["rows"],
            folds=facts["folds"],
        )
    )
    members = [(key, int(member["trial"])) for member in facts["members"]]
    said = {address.name(run): predictions_of(tables, run[1]) for run in members}
    at = ("ensemble", tables.source, key, facts["ensemble"], facts["time_ms"])
    found = compared(runs)
    _draw(named, found, {name: p for name, p in said.items() if p is not None}, at, w)


def _none_recorded(tables: StudyTables, w: Words) -> None:
    st.info(w("ensemble.none"))
    st.code(f"hpo ensemble {tables.key}", language=None)
    link_to_best(tables, w)


def link_to_best(tables: StudyTables, w: Words) -> None:
    """The way to what its best trials would be together, if there are two."""
    best = [(tables.key, int(trial)) for trial in tables.complete()["number"].head(FIRST_RUNS)]
    if len(best) > 1:
        label = w("ensemble.of_best", count=len(best))
        address.link(address.ENSEMBLE, label, ":material/hub:", runs=address.join(best))


def _title(facts: Mapping[str, Any], w: Words) -> str:
    calibrated = w("ensemble.calibrated") if facts["calibrated"] else ""
    when = pd.to_datetime(facts["time_ms"], unit="ms", utc=True).strftime("%Y-%m-%d %H:%M UTC")
    return f"{facts['ensemble']} · {w('ensemble.method.' + facts['method'])}{calibrated} · {when}"


def _named(facts: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The same with runs' names in place of trials, as `hpo.results.combined.combine` has it."""

    def named(one: Mapping[str, Any]) -> dict[str, Any]:
        trial = one["trial"]
        return {**one, "run": None if trial is None else address.name((key, int(trial)))}

    return {
        **facts,
        "members": [named(member) for member in facts["members"]],
        "against": [named(other) for other in facts["against"]],
    }


# -- one of the runs that were chosen


def _chosen(runs: list[address.Run], w: Words) -> None:
    pick(runs, w)
    found = compared(runs) if runs else None
    if found is None:
        st.info(w("ensemble.choose") if not runs else w("compare.none_there"))
        address.link(address.STUDIES, w("page.studies"), icon=":material/list:")
        return
    if found.missing:
        st.warning(w("compare.missing", runs=inert(", ".join(found.missing[:5]), 300)))
    if other := unlike(found):
        st.warning(w("compare.unlike", runs=inert(", ".join(other[:5]), 300), count=len(other)))
    kept = predictions(found)
    if len(kept) < 2:
        st.info(w("ensemble.need_two"))
        return
    metric = address.choice_of_many("metric", metrics(found), str, w("ensemble.judged_by"))
    at = ("ensemble", metric, tuple(kept), *found.version)
    try:
        with st.spinner(w("ensemble.building", count=len(kept))):
            facts = made(lambda: combine(kept, metric), *at)
    except UserError as error:
        st.warning(inert(error, 300))
        return
    left = sum(facts["left_out"].values())
    st.caption(
        " ".join(
            [
                w(
                    "ensemble.computed",
                    method=w(f"ensemble.method.{facts['method']}"),
                    calibrated=w("ensemble.calibrated") if facts["calibrated"] else "",
                    members=len(facts["members"]),
                    runs=facts["trials"],
                    rows=facts["rows"],
                    folds=facts["folds"],
                ),
                w("ensemble.left_out", count=left) if left else "",
                w("ensemble.not_recorded"),
            ]
        )
    )
    _draw(facts, found, kept, at, w)


# -- both


def _draw(
    facts: Mapping[str, Any],
    found: Compared | None,
    said: Mapping[str, Predicted],
    at: Sequence[Any],
    w: Words,
) -> None:
    """Everything about an ensemble.

    Args:
        found: The single runs beside which it is shown.
        said: Predictions of its members, as far as they are known.
        at: Names the ensemble, see `app.parts.made`.
    """
    _verdict(facts, w)
    members = pd.DataFrame(facts["members"])
    metric, maximize = facts["metric"], facts["goal"] == "maximize"
    heaviest = members.sort_values("weight", ascending=False, kind="stable", ignore_index=True)
    left, right = st.columns(2)
    with left:
        worth = comparisons.metric_intervals(_worth(facts, w), metric, maximize, w)
        chart(replace(worth, caption=w("ensemble.worth.how")), "ensemble-worth", w)
    with right:
        by_size, single = pd.DataFrame(facts["sizes"]), float(facts["against"][0]["value"])
        chart(ensembles.sizes(by_size, single, metric, w), "ensemble-sizes", w)
    left, right = st.columns(2)
    with left:
        chart(ensembles.weights(heaviest, metric, w), "ensemble-weights", w)
    with right:
        _diversity({run: said[run] for run in heaviest["run"] if run in said}, at, w)
    if found is not None:
        _cost(facts, members, found, w)
    _members(facts, heaviest, w)


def _verdict(facts: Mapping[str, Any], w: Words) -> None:
    other = facts["against"][0]
    box = st.success if other["verdict"] == "better" else st.info
    bounds = interval(other["gain_low"], other["gain_high"], signed)
    box(
        w(
            f"ensemble.verdict.{other['verdict'].replace(' ', '_')}",
            metric=inert(facts["metric"]),
            value=number(float(facts["estimate"]["value"])),
            single=number(float(other["value"])),
            gain=signed(float(other["difference"])),
            interval=inert(bounds),
            p=inert(p_value(float(other["p"])) or "–"),
        )
    )


def _worth(facts: Mapping[str, Any], w: Words) -> pd.DataFrame:
    """``run``, ``value``, ``low``, ``high``: the ensemble, and what it is held against."""
    rows = [{"run": w("page.ensemble"), **facts["estimate"]}]
    for other in facts["against"]:
        name = other["run"] or w(f"ensemble.against.{AGAINST[other['what']]}")
        rows.append({"run": name, **{end: other[end] for end in ("value", "low", "high")}})
    return pd.DataFrame(rows)


def _diversity(said: Mapping[str, Predicted], at: Sequence[Any], w: Words) -> None:
    tables = made(lambda: differing(said), "differing", *at, len(said))
    if not tables:
        st.info(w("ensemble.one_member") if said else w("errors.none"))
        return
    measure = address.choice(
        "diversity",
        list(tables),
        lambda name: w(f"ensemble.measure.{name}"),
        w("ensemble.measure"),
        hidden=False,
    )
    chart(ensembles.diversity(tables[measure], measure, w), "ensemble-diversity", w)


def _cost(facts: Mapping[str, Any], members: pd.DataFrame, found: Compared, w: Words) -> None:
    """The metric as each study recorded it, of all runs, against what it costs to use them all."""
    trials = found.trials()
    costs = [c for c in map(str, trials) if c.startswith(COST) and trials[c].notna().any()]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        cost = address.choice_of_many(
            "cost", [*costs, SECONDS], lambda name: _cost_name(name, w), w("ensemble.cost.of")
        )
        log = st.toggle(w("log_axis"), key="log", bind="query-params")
    of_run = trials[cost].astype("float64")
    value = dict(zip(members["run"], members["value"], strict=True))
    recorded = _recorded_metric(facts["metric"], trials)
    singles = pd.DataFrame(
        {
            "run": trials.index,
            "value": [value.get(run, recorded.get(run, math.nan)) for run in trials.index],
            "cost": of_run.to_numpy(),
            "member": trials.index.isin(members["run"]),
        }
    )
    order = of_run.reindex(members["run"]).to_numpy(np.float64).cumsum()
    path = pd.DataFrame(facts["sizes"])
    path = path[path["members"] <= len(order)]
    path = path.assign(cost=[order[size - 1] for size in path["members"]])
    name = _cost_name(cost, w)
    chart(ensembles.worth_and_cost(singles, path, facts["metric"], name, log, w), "cost", w)


def _recorded_metric(metric: str, trials: pd.DataFrame) -> dict[str, float]:
    """Run → the metric that was recorded under this name on the validation split."""
    column = next((name for name in (f"val/{metric}", metric) if name in trials), None)
    return {} if column is None else {str(r): float(v) for r, v in trials[column].items()}


def _cost_name(cost: str, w: Words) -> str:
    return w("ensemble.cost.seconds") if cost == SECONDS else cost.removeprefix(COST)


def _members(facts: Mapping[str, Any], members: pd.DataFrame, w: Words) -> None:
    st.header(w("ensemble.members"))
    names = {
        "run": w("column.run"),
        "weight": w("ensemble.weight"),
        "temperature": w("ensemble.temperature"),
        "value": facts["metric"],
        **{measure: w(f"ensemble.measure.{measure}") for measure in facts["diversity"]},
    }
    shown = members[[name for name in names if name in members]].dropna(axis=1, how="all")
    titled = shown.rename(columns=names)
    event = st.dataframe(
        titled,
        hide_index=True,
        key="members",
        column_config=digits(titled),
        on_select="rerun",
        selection_mode="multi-row",
    )
    with st.container(horizontal=True):
        st.caption(w("ensemble.members.how"))
        csv(shown, "ensemble-members", w)
    rows = [row for row in event["selection"]["rows"] if row < len(members)]
    runs = [address.parse(str(members["run"][row])) for row in rows]
    offer([run for run in runs if run is not None], "members", w)
