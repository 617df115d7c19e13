"""Pages: when their first charts are drawn, what is sent for them, what memory they take."""

from __future__ import annotations

import contextlib
import time

from measure import Figure, interleaved
from pages import optuna_dashboard
from ui_bench import Bench, Counted, Found, against, at_once, beyond
from ui_data import FEW, SHOWN


def study_page(bench: Bench) -> Found:
    ours = Counted(lambda: bench.study(bench.many))
    theirs = Counted(lambda: bench.study_in_optuna(bench.optuna))
    ours_s, theirs_s = interleaved(bench.rounds, ours, theirs)
    first = at_once(bench.start(bench.data.many), bench.study)
    their_first = at_once(optuna_dashboard(bench.data.optuna), bench.study_in_optuna)
    rows = [
        ("study page, right after the start", first),
        ("optuna-dashboard, right after the start", their_first),
        ("study page: data", ours.weight),
        ("optuna-dashboard: data", theirs.weight),
    ]
    name = "study page of 1,000 trials, first chart: hpo / optuna-dashboard"
    return rows, [against(name, ours_s, theirs_s, 0.6)]


def compare_page(bench: Bench) -> Found:
    home = bench.data.many
    ours = Counted(lambda: bench.compare(bench.many, home))
    theirs = Counted(lambda: bench.compare_in_mlflow(bench.mlflow))
    ours_s, theirs_s = interleaved(bench.rounds, ours, theirs)
    first = at_once(bench.start(home), lambda server: bench.compare(server, home))
    rows = [
        ("compare page, right after the start", first),
        ("compare page: data", ours.weight),
        ("MLflow's page: data", theirs.weight),
    ]
    name = "100 runs, loss, accuracy, F1, ROC: hpo / one metric in MLflow"
    return rows, [against(name, ours_s, theirs_s, 0.6)]


def above_bare(bench: Bench) -> Found:
    bare = Counted(lambda: bench.browser.visit(bench.bare.url))
    study_s, compare_s, bare_s = interleaved(
        bench.rounds,
        Counted(lambda: bench.study(bench.many)),
        Counted(lambda: bench.compare(bench.many, bench.data.many)),
        bare,
    )
    rows = [
        ("a bare Streamlit page with one Plotly chart", f"{bare_s:.2f} s, {bare.weight}"),
        ("study page / bare page", f"{study_s / bare_s:.2f} ×"),
        ("compare page / bare page", f"{compare_s / bare_s:.2f} ×"),
    ]
    return rows, [
        beyond("study page above a bare page", study_s, bare_s, 1.0),
        beyond("compare page above a bare page", compare_s, bare_s, 1.0),
    ]


def many_runs(bench: Bench) -> Found:
    study_s, small_study_s, compare_s, small_compare_s = interleaved(
        bench.rounds,
        Counted(lambda: bench.study(bench.many)),
        Counted(lambda: bench.study(bench.few)),
        Counted(lambda: bench.compare(bench.many, bench.data.many)),
        Counted(lambda: bench.compare(bench.few, bench.data.few)),
    )
    stored = f"{bench.data.count:,} runs stored / {FEW}"
    return [], [
        against(f"study page, {stored}", study_s, small_study_s, 1.3),
        against(f"compare page, {stored}", compare_s, small_compare_s, 1.3),
    ]


def sent(bench: Bench) -> Found:
    url = bench.many.url
    chart = "charts().length >= 1"
    table = "document.querySelector('[data-testid=stDataFrame] canvas')"
    pages = {"studies": (f"{url}/", table)}
    for view in ("overview", "parameters", "curves", "workers"):
        pages[f"study, {view}"] = (f"{url}/study?study={SHOWN}&view={view}", chart)
    for view in ("overview", "metrics", "errors", "probabilities"):
        page = bench.compare_url(bench.many, bench.data.many, view=view)
        pages[f"compare, {view}"] = (page, chart)
    pages["run"] = (f"{url}/run?runs={SHOWN}/0", chart)
    weights = {name: bench.browser.visit(*page).own_mb for name, page in pages.items()}
    heaviest = max(weights, key=lambda name: weights[name])
    rows = [(f"sent for {name}", f"{megabytes:.2f} MB") for name, megabytes in weights.items()]
    return rows, [Figure(f"sent for a page ({heaviest})", weights[heaviest], 3, "MB")]


def memory(bench: Bench) -> Found:
    """Right after five tabs have been opened, on an app that has shown nothing before."""
    with bench.start(bench.data.many) as app, contextlib.ExitStack() as tabs:
        before = app.memory_mb()
        urls = [
            f"{app.url}/",
            f"{app.url}/study?study={SHOWN}",
            f"{app.url}/study?study=study-01&view=curves",
            f"{app.url}/study?study=study-02&view=parameters",
            bench.compare_url(app, bench.data.many),
        ]
        for url in urls:
            ready = "charts().length >= 1" if url != urls[0] else "true"
            tabs.enter_context(bench.browser.opened(url, ready))
        time.sleep(5)
        after = app.memory_mb()
    rows = [("app, before the first page", f"{before:.0f} MB")]
    return rows, [Figure("app with 10,000 runs and 5 tabs", after, 800, "MB")]
