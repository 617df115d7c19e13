"""One run: its curves, what it was trained with, what it used, where it came from."""

from __future__ import annotations

import shlex
from functools import partial

import pandas as pd
import streamlit as st

from app import address
from app.charts import curves
from app.charts.style import cut
from app.parts import (
    LIVE_S,
    catalog,
    chart,
    csv,
    current_words,
    digits,
    heading,
    inert,
    made,
    panels,
    study_or_stop,
    trouble,
    visible,
)
from app.sentences import number, span
from app.words import Words
from hpo.results import UserError
from hpo.results.tables import DETAILS, NOTES, SYSTEM, StudyTables

LOG_LINES = 200


def show() -> None:
    """Draw the page."""
    w = current_words()
    runs = address.runs() or address.chosen()[:1]
    if not runs:
        heading(w("page.run"), w)
        st.info(w("run.choose"))
        return
    key, trial = runs[0]
    heading(inert(address.name((key, trial))), w)
    tables = study_or_stop(key, w)
    trouble()
    if trial not in set(tables.trials["number"]):
        st.error(w("run.unknown", trial=trial, study=inert(key)))
        return
    address.link(address.STUDY, inert(key), icon=":material/arrow_back:", study=key)
    is_open = tables.state == "running" and pd.isna(_row(tables, trial)["ended"])
    st.fragment(_top, run_every=LIVE_S if is_open else None)(key, trial, w)
    left, right = st.columns(2)
    with left:
        _parameters(tables, trial, w)
    with right:
        _lineage(tables, trial, w)
    _files(tables, trial, w)
    _texts(tables, trial, w)


def _row(tables: StudyTables, trial: int) -> pd.Series:
    return tables.trials[tables.trials["number"] == trial].iloc[0]


def _top(key: str, trial: int, w: Words) -> None:
    tables = study_or_stop(key, w)
    row = _row(tables, trial)
    columns = st.columns(4)
    columns[0].metric(w("column.state"), w(f"state.{row['state']}"))
    name = inert(tables.objective[0]["metric"]) if tables.objective else w("column.value")
    columns[1].metric(name, number(_plain(row["value"])))
    columns[2].metric(w("column.best_epoch"), f"{_or_dash(row['best_epoch'])}")
    columns[3].metric(w("study.took"), span(float(row["seconds"] or 0), w))
    if row["reason"]:
        st.warning(inert(row["reason"], 500))
    mine = tables.epochs[tables.epochs["trial"] == trial]
    if mine.empty:
        st.info(w("run.no_epochs"))
        return
    metrics = mine[[c for c in mine if not str(c).startswith(SYSTEM)]]
    best = None if pd.isna(row["best_epoch"]) else int(row["best_epoch"])
    side_by_side = panels()
    at = (w.language, tables.source, key, trial, tables.version, side_by_side)
    chart(
        made(lambda: curves.run_curves(metrics, w, best, columns=side_by_side), "run-curves", *at),
        "run-curves",
        w,
    )
    for metric in (goal["metric"] for goal in tables.objective):
        parts = made(partial(curves.parts, mine, metric, w), "parts", metric, *at)
        if parts is not None:
            chart(parts, f"run-parts-{metric.replace('/', '-')}", w)  # a file is called so, too
    _details(mine, best, w)
    if mine.filter(like=SYSTEM).notna().to_numpy().any():
        chart(
            made(lambda: curves.resources(mine, w, side_by_side), "resources", *at),
            "run-resources",
            w,
        )


def _details(epochs: pd.DataFrame, best: int | None, w: Words) -> None:
    """What was reported of folds, members and cost, at the best epoch or else the last."""
    names = [name for name in map(str, epochs) if name.startswith(DETAILS)]
    at_best = epochs[epochs["epoch"] == best] if best is not None else epochs.tail(1)
    values = at_best[names].iloc[0].dropna() if len(at_best) else pd.Series(dtype="float64")
    if values.empty:
        return
    with st.expander(w("run.details")):
        table = pd.DataFrame({"metric": values.index, "value": values.to_numpy()})
        shown = table.set_axis([w("column.metric"), w("column.value")], axis=1)
        st.dataframe(shown, hide_index=True, key="run-details", column_config=digits(shown))
        with st.container(horizontal=True):
            st.caption(inert(w("run.details.how"), 400))
            csv(table, "run-details-values", w)


def _parameters(tables: StudyTables, trial: int, w: Words) -> None:
    st.header(w("run.parameters"))
    row = _row(tables, trial)
    searched = {p for p in tables.search if not pd.isna(row.get(f"params.{p}"))}
    config = tables.configs.get(trial, {})
    table = pd.DataFrame(
        {
            w("run.setting"): [cut(path, 80) for path in config],
            w("column.value"): [cut(value, 120) for value in config.values()],
            w("run.searched"): ["●" if path in searched else "" for path in config],
        }
    ).sort_values(w("run.searched"), ascending=False, kind="stable")
    st.dataframe(table, hide_index=True, key="run-parameters")
    csv(pd.DataFrame(list(config.items()), columns=["setting", "value"]), "run-parameters", w)


def _lineage(tables: StudyTables, trial: int, w: Words) -> None:
    st.header(w("run.lineage"))
    row, git = _row(tables, trial), tables.provenance.get("git") or {}
    commit = git.get("commit")
    dirty = w("run.dirty") if git.get("dirty") else ""
    facts = {
        w("run.commit"): f"{commit} {dirty}" if commit else w("run.no_git"),
        w("run.data"): tables.dataset.get("source", ""),
        w("run.fingerprint"): tables.dataset.get("fingerprint", ""),
        w("run.seed"): _or_dash(row["seed"]),
        w("run.worker"): f"{_or_dash(row['worker'])} ({tables.device_name})",
        w("run.attempts"): _or_dash(row["attempts"]),
        w("run.memory"): number(_plain(row["peak_memory_mb"])),
        w("run.mlflow"): row["run_id"] if isinstance(row["run_id"], str) else w("run.not_sent"),
    }
    notes = tables.notes.get(trial, {})
    facts |= {w(f"run.note.{name}"): notes[name] for name in NOTES if name in notes}
    table = pd.DataFrame({"": list(facts), " ": [cut(v, 120) for v in facts.values()]})
    st.dataframe(table, hide_index=True, key="run-lineage")
    st.caption(w("run.reproduce"))
    st.code(f"hpo reproduce {shlex.quote(tables.key)} {trial}", language=None)


def _files(tables: StudyTables, trial: int, w: Words) -> None:
    try:
        files = catalog().artifacts(tables.key, trial)
    except UserError as error:
        st.warning(inert(error, 300))
        return
    if not files:
        return
    if "predictions.npz" in files:
        run = address.name((tables.key, trial))
        icon = ":material/query_stats:"
        address.link(address.COMPARE, w("run.predictions"), icon, runs=run, view="errors")
    st.header(w("run.files"))
    with st.container(horizontal=True):
        for name, size in files.items():
            st.download_button(
                f"{inert(name, 60)} ({size / 1000:,.1f} kB)",
                data=partial(catalog().artifact, tables.key, trial, name),
                file_name=name,
                key=f"file-{name}",
                on_click="ignore",
                icon=":material/download:",
            )


def _texts(tables: StudyTables, trial: int, w: Words) -> None:
    """What was kept as text; shown as it is, never as markup."""
    diff = (tables.provenance.get("git") or {}).get("diff") or _text(tables.key, None, "git.diff")
    packages = tables.provenance.get("packages") or {}
    versions = "\n".join(f"{name}=={version}" for name, version in sorted(packages.items()))
    found = {
        "run.traceback": _text(tables.key, trial, "traceback.txt"),
        "run.log": _tail(_text(tables.key, trial, "log.txt")),
        "run.diff": diff,
        "run.packages": versions or _text(tables.key, None, "versions.txt"),
        "run.file": tables.file,
    }
    for key, text in found.items():
        if text:
            with st.expander(w(key), expanded=key == "run.traceback"):
                st.code(visible(text), language=None)


def _text(key: str, trial: int | None, name: str) -> str | None:
    try:
        return catalog().text(key, trial, name)
    except UserError:  # that MLflow cannot be read was said above
        return None


def _tail(text: str | None) -> str | None:
    return text and "\n".join(text.splitlines()[-LOG_LINES:])


def _plain(value: object) -> object:
    return None if pd.isna(value) else float(value)  # type: ignore[call-overload,arg-type]


def _or_dash(value: object) -> object:
    return "–" if pd.isna(value) else value  # type: ignore[call-overload]
