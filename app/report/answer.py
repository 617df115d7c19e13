"""The parts of a report that are words and tables: the answer, advice, trials, provenance."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from app import files
from app.charts.fronts import front_table
from app.charts.style import compact, cut, said
from app.report.blocks import (
    Block,
    Cell,
    Download,
    Facts,
    Listing,
    Said,
    Section,
    Table,
    Tile,
    cell,
    file_name,
    lines,
    marked,
    safe,
)
from app.report.subject import Subject
from app.sentences import comparison_table, interval, number, span, suggestion, verdict
from app.trial_table import first_columns, ranked, title
from app.words import Words
from hpo.results.scores import metric_of
from hpo.results.summary import busy_s, used
from hpo.results.tables import STATES, StudyTables

MOST_ROWS = 200  # of the leaderboard
MOST_FRONT = 50  # rows of the front
ALIKE = 0.01  # probabilities are stored in half precision
TIME = "%Y-%m-%d %H:%M UTC"


def at(ms: float) -> str:
    """A moment, for people."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime(TIME)


def tiles(about: Subject, w: Words) -> Iterator[Tile]:
    """How far the study is, and the best value."""
    tables = about.tables
    counts = tables.trials["state"].value_counts()
    shown = ", ".join(f"{counts[s]} {w(f'state.{s}')}" for s in STATES if s in counts)
    yield Tile(w("column.state"), w(f"state.{tables.state}"), (shown,))
    if about.best and not about.several:
        goal, best = tables.objective[0]["goal"], about.best[0]
        value = float(about.complete["value"].iloc[0])
        within = _within(about, _judged(about, about.metric), value)
        range_ = (w("report.interval", interval=within),) if within else ()
        more = (*range_, w(f"study.best.{goal}", trial=best))
        yield Tile(cut(about.metric), number(value), more)
    began = w("report.since", when=at(tables.started_ms))
    yield Tile(w("study.took"), span(busy_s(tables), w), (began,))
    share = used(tables)
    if not math.isnan(share):
        yield Tile(w("column.used"), f"{share:.0%}", (_budget(tables, w),))


def context(about: Subject, w: Words) -> str:
    """On what data and where, in a line."""
    tables = about.tables
    where = ", ".join(filter(None, (tables.device_name, tables.provenance.get("cpu"))))
    workers = w("report.on", device=where or "–", workers=tables.workers)
    return cut(" · ".join(filter(None, (_data(tables.dataset, w), workers))), 300)


# -- the answer


def answer(about: Subject, w: Words) -> Section:
    """Which trial is best, and whether it really is."""
    return Section("answer", w("report.answer"), list(_answer(about, w)))


def _answer(about: Subject, w: Words) -> Iterator[Block]:
    if not about.best:
        yield Said([w("report.no_complete")], "warning")
        return
    if about.several:
        yield _front(about, w)
        return
    best = about.best[0]
    if about.comparison is not None:
        mood = "good" if about.comparison.kind == "clear" else "plain"
        yield Said([marked(verdict(about.comparison, w, safe))], mood)
    elif len(about.best) > 1:
        yield Said([w("report.no_test", trial=best)])
    else:
        yield Said([w("report.only_one", trial=best)])
    if (params := _parameters(about.tables, best, w)) is not None:
        yield params
    yield _metrics(about, w)
    if about.comparison is not None:
        table = comparison_table(about.comparison, w)
        rows = [[cell(value) for value in row] for row in table.itertuples(index=False)]
        headings = [str(name) for name in table]
        yield Table(w("report.compared", count=len(rows)), headings, rows, w("real.how"))
    command = f"hpo reproduce {shlex.quote(about.tables.key)} {best}"
    yield Said(
        [Markup("{} <code>{}</code>").format(w("run.reproduce"), cut(command, 300))], "small"
    )


def _parameters(tables: StudyTables, trial: int, w: Words) -> Table | None:
    """What was searched: what the trial had, and from which range."""
    row = tables.trials[tables.trials["number"] == trial].iloc[0]
    rows = [
        [Cell(cut(path, 80)), cell(row.get(f"params.{path}")), Cell(_range(said, w))]
        for path, said in tables.search.items()
    ]
    headings = [w("report.parameter"), w("report.value"), w("report.range")]
    name = w("report.parameters", trial=trial)
    return Table(name, headings, rows, half=True) if rows else None


def _range(said: Mapping[str, Any], w: Words) -> str:
    if said["type"] == "choice":
        text = ", ".join(compact(choice) for choice in said["choices"])
    else:
        text = f"{compact(said['low'])} … {compact(said['high'])}"
        text += f" ({w('report.log')})" if said.get("log") else ""
    when = ", ".join(f"{path} = {compact(v)}" for path, v in (said.get("when") or {}).items())
    return cut(f"{text}; {w('report.when', when=when)}" if when else text, 160)


def _metrics(about: Subject, w: Words) -> Table:
    """As its trainer reported them, and as its predictions give them, with intervals."""
    best = about.best[0]
    row = about.tables.trials.set_index("number").loc[best].to_dict()
    recorded = {name: row.get(name, math.nan) for name in about.tables.metrics}
    rows = {
        name: (value, _within(about, _judged(about, name), value))
        for name, value in recorded.items()
        if not math.isnan(value) and (name == about.metric or not name.startswith("train/"))
    }
    said_of = {_judged(about, name) for name, (_, within) in rows.items() if within}
    for name, found in about.measured.items():
        if name not in said_of:
            rows[name] = (found.value, _within(about, name, found.value))
    headings = [w("column.metric"), w("report.value")]
    cells = [
        [Cell(cut(name)), cell(value), Cell(within)] for name, (value, within) in rows.items()
    ]
    title_ = w("report.metrics", trial=best)
    if not about.measured:
        return Table(title_, headings, [row[:2] for row in cells], half=True)
    note = w("report.metrics.how", rows=len(about.predicted[about.name(best)].ids))
    if about.tables.configs.get(best, {}).get("data.folds"):
        note = said(note, w("report.metrics.folds"))
    return Table(title_, [*headings, w("real.interval")], cells, note, half=True)


def _judged(about: Subject, name: str) -> str | None:
    """The metric of predictions that a trainer's is: ``val/loss`` → ``log_loss``."""
    return metric_of(name, about.said_by_best) if about.said_by_best else None


def _within(about: Subject, name: str | None, value: float) -> str:
    """A metric's interval, where predictions give the same value: a trainer may mean another
    thing by the metric's name, or the mean over folds."""
    found = about.measured.get(name or "")
    if found is None or not math.isclose(found.value, value, rel_tol=ALIKE):
        return ""
    return interval(found.low, found.high)


def _front(about: Subject, w: Words) -> Table:
    """With several objectives: the trials that no other beats in all of them."""
    table = front_table(about.tables.trials, about.tables.objective)
    front = about.complete[about.complete["number"].isin(table["number"][table["front"]])]
    values = [f"value.{goal['metric']}" for goal in about.tables.objective]
    params = [name for name in map(str, front) if name.startswith("params.")]
    columns = ["number", *values, *params]
    rows = [[cell(value) for value in row] for row in front[columns].itertuples(index=False)]
    return Table(
        w("report.front"),
        [title(name, w) for name in columns],
        rows[:MOST_FRONT],
        w("pareto.caption", front=len(front), all=len(table)),
        sortable=True,
    )


def suggestions(about: Subject, w: Words) -> Section | None:
    """What to try next."""
    if about.several or not about.best:
        return None
    found = [marked(suggestion(one, w, safe)) for one in about.suggestions]
    mood = "plain" if found else "small"
    return Section("next", w("advice"), [Said(found or [w("advice.none")], mood)])


# -- all trials


def trials(about: Subject, w: Words) -> Section | None:
    """The complete trials, and a file of all."""
    if about.tables.trials.empty:
        return None
    blocks: list[Block] = []
    if len(about.complete):
        blocks.append(_leaderboard(about, w))
    csv = files.csv(about.tables.trials).encode()
    blocks.append(
        Download(
            w("report.csv", count=len(about.tables.trials)),
            f"{file_name(about.tables.key)}-trials.csv",
            f"data:text/csv;charset=utf-8;base64,{base64.b64encode(csv).decode()}",
        )
    )
    return Section("trials", w("leaderboard"), blocks)


def _leaderboard(about: Subject, w: Words) -> Table:
    table = ranked(about.tables)
    table = table[table["state"] == "complete"]
    names = first_columns(about.tables, [str(column) for column in table])
    names = [name for name in names if name not in ("state", "reason")]
    headings = [cut(about.metric) if name == "value" else title(name, w) for name in names]
    shown = table[names].head(MOST_ROWS)
    return Table(
        w("report.shown", shown=len(shown), of=len(table)),
        headings,
        [[cell(value) for value in row] for row in shown.itertuples(index=False)],
        sortable=True,
    )


# -- where it came from


def provenance(about: Subject, w: Words) -> Section:
    """Machine, data, code, and the study file."""
    listings = {w("run.file"): about.tables.file, w("run.packages"): about.packages}
    folded = [Listing(name, lines(text)) for name, text in listings.items() if text]
    facts = [(term, cut(text, 300)) for term, text in _facts(about.tables, w) if text]
    return Section("origin", w("run.lineage"), [Facts(facts), *folded])


def _facts(tables: StudyTables, w: Words) -> Iterator[tuple[str, str]]:
    yield w("report.began"), at(tables.started_ms)
    yield w("column.updated"), at(tables.updated_ms)
    goals = (f"{goal['metric']} ({w('goal.' + goal['goal'])})" for goal in tables.objective)
    yield w("report.objective"), ", ".join(goals)
    yield w("report.budget"), _budget(tables, w)
    yield w("report.sampler"), tables.sampler
    yield w("report.pruner"), tables.pruner
    cpu = tables.provenance.get("cpu")
    yield w("report.device"), ", ".join(filter(None, (tables.device_name, cpu)))
    yield w("report.workers"), str(tables.workers)
    yield w("run.data"), _data(tables.dataset, w)
    yield w("run.fingerprint"), str(tables.dataset.get("fingerprint") or "")
    yield w("run.commit"), _commit(tables.provenance, w)
    python, platform = (tables.provenance.get(name) for name in ("python", "platform"))
    yield w("report.python"), ", ".join(filter(None, (python, platform)))
    yield w("column.source"), w("source.here") if tables.source == "here" else tables.source


def _budget(tables: StudyTables, w: Words) -> str:
    budget, said = tables.budget, []
    if budget.get("trials"):
        said.append(w("report.budget.trials", count=budget["trials"]))
    if budget.get("epochs"):
        said.append(w("report.budget.epochs", count=budget["epochs"]))
    if budget.get("wall_s"):
        said.append(span(budget["wall_s"], w))
    if budget.get("device_hours"):
        said.append(w("report.budget.device", hours=f"{budget['device_hours']:.4g}"))
    if budget.get("target") is not None:
        said.append(w("report.budget.target", value=compact(budget["target"])))
    if budget.get("patience"):
        said.append(w("report.budget.patience", count=budget["patience"]))
    return ", ".join(said)


def _data(dataset: Mapping[str, Any], w: Words) -> str:
    source = str(dataset.get("source") or "")
    if not source or not dataset.get("rows"):
        return source
    splits = {name: dataset.get(name) or 0 for name in ("train", "validation", "test")}
    return f"{source}: {w('report.rows', rows=dataset['rows'], **splits)}"


def _commit(provenance: Mapping[str, Any], w: Words) -> str:
    if not provenance:
        return ""
    git = provenance.get("git") or {}
    if not git.get("commit"):
        return w("run.no_git")
    branch = f" ({git['branch']})" if git.get("branch") else ""
    dirty = f", {w('run.dirty')}" if git.get("dirty") else ""
    return f"{git['commit']}{branch}{dirty}"
