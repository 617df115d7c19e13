"""The parts of a report that are charts; those without data are left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pandas as pd

from app.charts import (
    confusion,
    curves,
    endings,
    errors,
    fronts,
    learning,
    matrices,
    parallel,
    parameters,
    progress,
    thresholds,
    workers,
)
from app.charts.style import Chart, said
from app.report.blocks import Block, Figure, Said, Section, Table, cell, figure, file_name
from app.report.subject import Subject
from app.words import Words
from hpo.results import evaluation, ranking
from hpo.results.rows import class_names
from hpo.results.tables import StudyTables

MOST_SLICES = 8  # parameters
MOST_DRAWN = 2_000  # trials for each parameter: a browser is slow with many more


def history(about: Subject, w: Words) -> Section | None:
    """How the values came, and with several objectives how they are traded."""
    tables = about.tables
    if tables.trials.empty or not tables.objective:
        return None
    blocks = []
    if about.several and about.best:
        wide, narrow = (
            fronts.pareto(tables.trials, tables.objective, w, columns) for columns in (2, 1)
        )
        blocks.append(_figure(about, "front", wide, narrow))
    for index in range(len(tables.objective)):
        found = progress.history(
            tables.trials, tables.objective, w, index=index, epochs=tables.epochs
        )
        blocks.append(_figure(about, f"history-{index}" if index else "history", found))
    return Section("history", w("report.history"), blocks)


def search(about: Subject, w: Words) -> Section | None:
    """What the parameters did."""
    tables = about.tables
    if not tables.search or not tables.trials["value"].notna().any():
        return None
    drawn = _evenly(tables)
    note = ""
    if len(drawn) < len(tables.trials):
        note = w("report.thinned", shown=len(drawn), of=len(tables.trials))
    blocks, found = [], about.importances
    paths = list(tables.search)
    if found is not None:
        caution = w("importances.few", trials=found.trials) if found.few else ""
        chart = parameters.importances(found.table, w, caution)
        blocks.append(_figure(about, "importances", chart))
        ranked = [path for path in found.table["param"] if path in paths]
        paths = ranked + [path for path in paths if path not in ranked]
    axes = parallel.parallel_axes(drawn, tables.search, tables.objective)
    lines = parallel.parallel(drawn, axes, tables.objective, w)
    lines.figure.update_layout(dragmode="zoom")
    # What the chart says of boxes is true only where a page looks at them.
    caption = lines.caption.replace(w("parallel.caption"), "").strip()
    blocks.append(_figure(about, "parallel", lines, caption=said(caption, note)))
    wide, narrow = (
        parameters.slices(drawn, tables.search, tables.objective, w, paths[:MOST_SLICES], columns)
        for columns in (2, 1)
    )
    blocks.append(_figure(about, "slices", wide, narrow, said(wide.caption, note)))
    return Section("parameters", w("study.view.parameters"), blocks)


def _evenly(tables: StudyTables) -> pd.DataFrame:
    """The trials, of many only some, evenly over the ranks, the best one among them."""
    order = tables.trials.sort_values("value", ascending=not tables.maximize, kind="stable")
    order = order.dropna(subset="value")
    step = -(-len(order) // MOST_DRAWN)
    return tables.trials if step <= 1 else order.iloc[::step].sort_index()


def learned(about: Subject, w: Words) -> Section | None:
    """Curves: of all trials as bands, of the best ones overlaid."""
    tables = about.tables
    if not tables.metrics:
        return None
    metric = about.metric if about.metric in tables.metrics else tables.metrics[0]
    value = tables.trials["value"].where(tables.trials["state"] == "complete")
    bands = learning.learning_bands(
        tables.epochs,
        tables.trials.assign(value=value),  # so that its best ones are the report's, too
        tables.objective,
        metric,
        w,
        len(about.best),
    )
    blocks: list[Block] = [_figure(about, "bands", bands)]
    if tables.missing_curves:
        blocks.append(Said([w("report.lacking", count=tables.missing_curves)], "warning"))
    mine = tables.epochs[tables.epochs["trial"].isin(about.best)]
    if not mine.empty:
        runs = [about.name(trial) for trial in about.best]
        mine = mine.assign(run=f"{tables.key}/" + mine["trial"].astype("str"))
        bare = curves.metric_names(tables.metrics)
        first = curves.metric_names([metric])[0]
        shown = dict.fromkeys((first, *(name for name in bare if name == "loss")))
        for name in shown:
            overlaid = curves.overlay(mine, name, w, runs=runs)
            blocks.append(_figure(about, f"curves-{name}", overlaid, half=len(shown) == 2))
    return Section("curves", w("study.view.curves"), blocks)


def predictions(about: Subject, w: Words) -> Section | None:
    """Where the best trials are right and wrong."""
    first = next(iter(about.predicted.values()), None)
    if first is None:
        return None
    parts = _classes if first.has_probabilities else _residuals
    return Section(
        "predictions", w("report.predictions", count=len(about.predicted)), list(parts(about, w))
    )


def _classes(about: Subject, w: Words) -> Iterator[Figure]:
    run, first = next(iter(about.predicted.items()))
    names = class_names(first)
    two = first.is_classification and len(names) == 2
    kind: Literal["macro"] | int = 1 if two else "macro"
    macro = "average.labels.macro" if first.is_multilabel else "average.macro"
    of = names[1] if two else w(macro)
    runs = about.predicted
    areas = {name: ranking.auc(one, kind) for name, one in runs.items()}
    roc = {name: ranking.roc(one, kind) for name, one in runs.items()}
    yield _figure(about, "roc", thresholds.roc(roc, w, of, areas), half=True)
    precisions = {name: ranking.average_precision(one, kind) for name, one in runs.items()}
    falls = {name: ranking.precision_recall(one, kind) for name, one in runs.items()}
    chance = float((first.target == 1).mean()) if two else None
    yield _figure(
        about,
        "precision-recall",
        thresholds.precision_recall(falls, w, of, precisions, chance=chance),
        half=True,
    )
    small = len(names) <= matrices.MOST_WRITTEN
    if first.is_classification:
        counts = {run: evaluation.confusion(first)}
        yield _figure(about, "confusion", confusion.confusions(counts, names, w), half=small)
    by_class = {run: evaluation.per_class(first)}
    yield _figure(about, "classes", confusion.class_metrics(by_class, "f1", w), half=small)


def _residuals(about: Subject, w: Words) -> Iterator[Figure]:
    target = str(about.tables.dataset.get("target") or "")
    found = {run: evaluation.residuals(one) for run, one in about.predicted.items()}
    wide, narrow = (errors.predicted_actual(found, w, target, columns) for columns in (2, 1))
    yield _figure(about, "predicted-actual", wide, narrow)
    yield _figure(about, "residuals", errors.residual_histogram(found, w, target))


def ran(about: Subject, w: Words) -> Section | None:
    """What became of the trials: pruning, workers, failures."""
    tables, blocks = about.tables, list[Block]()
    if not endings.rungs_table(tables.trials).empty:
        blocks.append(_figure(about, "rungs", endings.rungs(tables.trials, w)))
    if len(tables.spans):
        found = workers.timeline(tables.spans, tables.updated_ms, w)
        blocks.append(_figure(about, "workers", found))
    failures = endings.failures_table(tables.trials)
    if not failures.empty:
        blocks.append(_causes(failures, w))
    return Section("workers", w("study.view.workers"), blocks) if blocks else None


def _causes(failures: pd.DataFrame, w: Words) -> Table:
    headings = [w("column.reason"), w("column.trials"), w("report.which")]
    top = failures.head(endings.MOST_CAUSES)
    rows = [[cell(value) for value in row] for row in top.itertuples(index=False)]
    return Table(w("failures.title"), headings, rows)


def _figure(
    about: Subject,
    name: str,
    chart: Chart,
    narrow: Chart | None = None,
    caption: str | None = None,
    half: bool = False,
) -> Figure:
    return figure(f"{file_name(about.tables.key)}-{file_name(name)}", chart, narrow, caption, half)
