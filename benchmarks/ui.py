"""The app's speed: a real server and a real headless Chromium, with a new profile each visit.

Generated runs of 50 epochs × 4 metrics and 1,000-row predictions (benchmarks/generated.py), in
homes that are made once in ``--data``. Beside the app, in turn and on the same data:

* optuna-dashboard on the trials of one study, in SQLite, with the values reported each epoch;
* MLflow's own page of one metric of 100 runs, and its client over REST, on the server that
  ``hpo server`` starts; it holds one study of the ten, which is in its favour;
* a Streamlit page that has nothing but one Plotly chart.

Servers have been visited once before the visits that count; first visits are shown beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import generated
from measure import Figure, environment, interleaved, report, say
from pages import (
    Chromium,
    Server,
    Visit,
    chromium,
    hpo_server,
    hpo_ui,
    optuna_dashboard,
    redrawn_ms,
    streamlit,
)
from playwright.sync_api import Page
from ui_data import SHOWN, Data, quiet

from hpo import lease
from hpo.paths import Home
from hpo.tracking.outbox import Outbox

METRIC = "val/loss"
CURVES = [f".st-key-compare-{name}" for name in ("loss", "accuracy", "f1_macro")]
RANKED = [".st-key-roc", ".st-key-precision-recall"]
QUIET_MS = 2_000  # until a page has come to rest
BARE = """
import plotly.express as px
import streamlit as st
st.plotly_chart(px.line(x=list(range(50)), y=[1 / (1 + i) for i in range(50)], title="bare"))
"""
OURS = """
import sys, time
began = time.perf_counter()
import pandas as pd
from hpo import results
home = sys.argv[1]
names = list(results.studies(home)["study"]) if len(sys.argv) < 3 else sys.argv[2:]
table = pd.concat([results.curves(n, metrics=["val/loss"], home=home) for n in names])
print(len(table), time.perf_counter() - began)
"""
THEIRS = """
import sys, time
import pandas as pd
from mlflow import MlflowClient
uri, experiment, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = MlflowClient(tracking_uri=uri)
client.search_experiments()
began = time.perf_counter()
runs = client.search_runs([experiment], max_results=1000)
searched = time.perf_counter()
rows = [
    (run.info.run_id, point.step, point.value)
    for run in runs[:count]
    for point in client.get_metric_history(run.info.run_id, "val/loss")
]
table = pd.DataFrame(rows, columns=["run", "step", "value"])
print(len(runs), searched - began, time.perf_counter() - searched)
"""

Row = tuple[str, str]
Found = tuple[list[Row], list[Figure]]


class Bench:
    """Data, a browser, and servers that start when they are first needed."""

    def __init__(self, data: Data, browser: Chromium, rounds: int, stack: contextlib.ExitStack):
        self.data, self.browser, self.rounds = data, browser, rounds
        self._stack = stack

    @cached_property
    def many(self) -> Server:
        return self._stack.enter_context(hpo_ui(self.data.many.root))

    @cached_property
    def few(self) -> Server:
        return self._stack.enter_context(hpo_ui(self.data.few.root))

    @cached_property
    def bare(self) -> Server:
        script = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / "bare.py"
        script.write_text(BARE)
        return self._stack.enter_context(streamlit(script))

    @cached_property
    def optuna(self) -> Server:
        self.data.store_in_optuna()
        return self._stack.enter_context(optuna_dashboard(self.data.optuna))

    @cached_property
    def mlflow(self) -> Server:
        self.data.ship()
        return self._stack.enter_context(hpo_server(self.data.many.root))

    # -- pages

    def study(self, server: Server) -> Visit:
        return self.browser.visit(f"{server.url}/study?study={SHOWN}")

    def compare(self, server: Server) -> Visit:
        """Loss, accuracy, F1 and ROC of 100 runs."""
        return self.browser.visit(self.compare_url(server), "charts().length >= 4")

    def compare_url(self, server: Server, **more: str) -> str:
        home = self.data.few if server is self.few else self.data.many
        runs = ",".join(f"{SHOWN}/{trial}" for trial in self.data.runs(home))
        query = "".join(f"&{key}={value}" for key, value in more.items())
        return f"{server.url}/compare?runs={quote(runs)}{query}"

    def compare_in_mlflow(self) -> Visit:
        """One metric of the same 100 runs, as MLflow's own links have it."""
        experiment, runs = self.data.run_ids(self.data.runs(self.data.many))
        query = {"runs": runs, "metric": METRIC, "experiments": [experiment]}
        query |= {"plot_metric_keys": [METRIC], "plot_layout": {"autosize": True}}
        text = "&".join(f"{k}={quote(json.dumps(v))}" for k, v in query.items())
        style = "x_axis=step&y_axis_scale=linear&line_smoothness=1&show_point=false"
        url = f"{self.mlflow.url}/#/metric?{text}&{style}"
        return self.browser.visit(url, f"lines() >= {len(runs)}")


# -- pages: first charts


def study_page(bench: Bench) -> Found:
    ours = Counted(lambda: bench.study(bench.many))
    theirs = Counted(lambda: bench.browser.visit(f"{bench.optuna.url}/dashboard/studies/1"))
    ours_s, theirs_s = interleaved(bench.rounds, ours.steady, theirs.steady)
    rows = [
        ("study page: first visit after the start", ours.first_visit),
        ("optuna-dashboard: first visit after the start", theirs.first_visit),
        ("study page: data", ours.weight),
        ("optuna-dashboard: data", theirs.weight),
    ]
    name = "study page of 1,000 trials, first chart: hpo / optuna-dashboard"
    return rows, [against(name, ours_s, theirs_s, 0.6)]


def compare_page(bench: Bench) -> Found:
    ours = Counted(lambda: bench.compare(bench.many))
    theirs = Counted(bench.compare_in_mlflow)
    ours_s, theirs_s = interleaved(bench.rounds, ours.steady, theirs.steady)
    rows = [
        ("compare page: first visit after the start", ours.first_visit),
        ("MLflow: first visit after the start", theirs.first_visit),
        ("compare page: data", ours.weight),
        ("MLflow's page: data", theirs.weight),
    ]
    name = "100 runs, loss, accuracy, F1, ROC: hpo / one metric in MLflow"
    return rows, [against(name, ours_s, theirs_s, 0.6)]


def above_bare(bench: Bench) -> Found:
    study = Counted(lambda: bench.study(bench.many))
    compare = Counted(lambda: bench.compare(bench.many))
    bare = Counted(lambda: bench.browser.visit(bench.bare.url))
    study_s, compare_s, bare_s = interleaved(
        bench.rounds, study.steady, compare.steady, bare.steady
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
    sides = [
        Counted(lambda: bench.study(bench.many)).steady,
        Counted(lambda: bench.study(bench.few)).steady,
        Counted(lambda: bench.compare(bench.many)).steady,
        Counted(lambda: bench.compare(bench.few)).steady,
    ]
    study_s, small_study_s, compare_s, small_compare_s = interleaved(bench.rounds, *sides)
    return [], [
        against("study page, 10,000 runs / 100 runs", study_s, small_study_s, 1.3),
        against("compare page, 10,000 runs / 100 runs", compare_s, small_compare_s, 1.3),
    ]


# -- curves as a table


def curves(bench: Bench) -> Found:
    """Both in processes of their own; theirs is timed after its imports, ours before."""
    bench.data.ship()
    experiment, _ = bench.data.run_ids([])
    home = str(bench.data.many.root)
    sample = 200 if bench.rounds > 1 else 50
    studies = len(bench.data.many.study_names())

    def first() -> float:
        for file in bench.data.many.results_cache.glob("*.arrow"):
            file.unlink()
        return float(python(OURS, home)[1])

    def theirs() -> float:
        there = python(THEIRS, bench.mlflow.url, experiment, str(sample))
        runs, searched_s, fetched_s = int(there[0]), float(there[1]), float(there[2])
        return studies * (searched_s + fetched_s / sample * runs)

    first_s, again_s, theirs_s = interleaved(
        bench.rounds, first, lambda: float(python(OURS, home)[1]), theirs
    )
    rows = [("MLflow over REST", f"timed on {sample} runs, scaled to all")]
    name = "one metric of 10,000 runs: hpo.results / MLflow over REST"
    return rows, [
        against(f"{name}, first read", first_s, theirs_s, 0.01),
        against(f"{name}, again", again_s, theirs_s, 0.01),
    ]


# -- what is changed on a page


def changes(bench: Bench) -> Found:
    """From the event in the page until all charts that depend on it have changed."""
    count = 3 * bench.rounds
    with bench.browser.opened(bench.compare_url(bench.many), "charts().length >= 4") as (page, *_):
        page.wait_for_timeout(QUIET_MS)
        page.locator(".st-key-smooth input").focus()
        smoothing = [redrawn_ms(page, "ArrowRight", "keydown", CURVES) for _ in range(count)]
        places = (1, 2, 0) * bench.rounds
        buttons = [f".st-key-over-Epochs button >> nth={place}" for place in places]
        axis = [redrawn_ms(page, button, "pointerdown", CURVES) for button in buttons]
        selection = [take_out(page, trial) for trial in bench.data.runs(bench.data.many)[:count]]
    url = bench.compare_url(bench.many, view="probabilities", of="0")
    with bench.browser.opened(url, "charts().length >= 4") as (page, *_):
        page.wait_for_timeout(QUIET_MS)
        page.locator(".st-key-t input").focus()
        threshold = [redrawn_ms(page, "ArrowRight", "keydown", RANKED) for _ in range(count)]
    took = {"smoothing": smoothing, "axis": axis, "selection": selection, "threshold": threshold}
    rows = [
        (f"{what} changed: each, ms", "  ".join(map("{:.0f}".format, ms)))
        for what, ms in took.items()
    ]
    return rows, [redrawn(what, took_ms) for what, took_ms in took.items()]


def take_out(page: Page, trial: int) -> float:
    """Milliseconds from the click that takes a run out until loss, accuracy, F1, ROC are new."""
    if not page.locator(".st-key-pick-out").is_visible():
        page.get_by_role("button", name="Runs (").click()
    page.locator(".st-key-pick-out input").fill(f"{SHOWN}/{trial}")
    page.get_by_role("option", name=f"{SHOWN}/{trial}", exact=True).click()
    page.locator(".st-key-pick-out-go button").wait_for()
    page.wait_for_timeout(QUIET_MS)
    charts = [*CURVES, ".st-key-compare-roc"]
    return redrawn_ms(page, ".st-key-pick-out-go button", "pointerdown", charts)


# -- what is sent


def sent(bench: Bench) -> Found:
    url = bench.many.url
    chart = "charts().length >= 1"
    table = "document.querySelector('[data-testid=stDataFrame] canvas')"
    pages = {"studies": (f"{url}/", table)}
    for view in ("overview", "parameters", "curves", "workers"):
        pages[f"study, {view}"] = (f"{url}/study?study={SHOWN}&view={view}", chart)
    for view in ("overview", "metrics", "errors", "probabilities"):
        pages[f"compare, {view}"] = (bench.compare_url(bench.many, view=view), chart)
    pages["run"] = (f"{url}/run?runs={SHOWN}/0", chart)
    weights = {name: bench.browser.visit(*page).own_mb for name, page in pages.items()}
    heaviest = max(weights, key=lambda name: weights[name])
    rows = [(f"sent for {name}", f"{megabytes:.2f} MB") for name, megabytes in weights.items()]
    return rows, [Figure(f"sent for a page ({heaviest})", weights[heaviest], 3, "MB")]


# -- a study that runs


def live(bench: Bench) -> Found:
    """Epochs at random moments, watched on the run's page and on the study's curves."""
    count = 40 if bench.rounds > 1 else 10
    rows, figures = [], []
    for name, path in (
        ("run page", "/run?runs=live/0"),
        ("study page", "/study?study=live&view=curves"),
    ):
        with running(bench.data.many) as report_epoch:
            report_epoch(), report_epoch()
            with bench.browser.opened(bench.many.url + path) as (page, *_):
                page.wait_for_timeout(3_000)
                late_s = [report_epoch_and_wait(page, report_epoch) for _ in range(count)]
        late_s.sort()
        rows.append((f"epoch → {name}: median", f"{statistics.median(late_s):.2f} s"))
        p95 = statistics.quantiles(late_s, n=20)[-1] if count >= 20 else max(late_s)
        figures.append(Figure(f"an epoch's report → {name}, p95", p95, 2, "s"))
    return rows, figures


def report_epoch_and_wait(page: Page, report_epoch: Callable[[], int]) -> float:
    time.sleep(random.uniform(0.5, 2.0))
    epoch = report_epoch()
    said_ms = time.time() * 1000
    shown_ms = page.evaluate(
        """(epoch) => new Promise((done) => when(
            () => [...document.querySelectorAll('.js-plotly-plot')].some((plot) =>
                plot.querySelector('path.js-line') && plot.calcdata.some((points) =>
                    points.some((point) => point.x >= epoch))),
            () => done(Date.now())))""",
        epoch,
    )
    return float(shown_ms - said_ms) / 1000


@contextlib.contextmanager
def running(home: Home) -> Iterator[Callable[[], int]]:
    """A study that is being run, with one trial; a function that reports its next epoch."""
    import shutil

    paths = home.study("live")
    shutil.rmtree(paths.root, ignore_errors=True)
    trial = generated.Trial(0, {"train.lr": 0.01}, "running", 0, 0.9, 1)
    metrics = iter(enumerate(generated.curves(trial, 500), 1))
    with lease.hold(paths.lease, "live"), Outbox(paths.outbox) as outbox:

        def now_ms() -> int:
            return time.time_ns() // 1_000_000

        outbox.append(generated.study_record("live", 1, 999, now_ms()))
        outbox.append(generated.trial_record(trial, 0, now_ms()))

        def report_epoch() -> int:
            epoch, values = next(metrics)
            outbox.append(generated.epoch_record(trial, epoch, values, now_ms()))
            outbox.commit()
            return epoch

        yield report_epoch
    shutil.rmtree(paths.root)


# -- memory


def memory(bench: Bench) -> Found:
    """Right after five tabs have been opened, on an app that has shown nothing before."""
    with hpo_ui(bench.data.many.root) as app, contextlib.ExitStack() as tabs:
        before = app.memory_mb()
        urls = [
            f"{app.url}/",
            f"{app.url}/study?study={SHOWN}",
            f"{app.url}/study?study=study-01&view=curves",
            f"{app.url}/study?study=study-02&view=parameters",
            bench.compare_url(app),
        ]
        for url in urls:
            ready = "charts().length >= 1" if url != urls[0] else "true"
            tabs.enter_context(bench.browser.opened(url, ready))
        time.sleep(5)
        after = app.memory_mb()
    rows = [("app, before the first page", f"{before:.0f} MB")]
    return rows, [Figure("app with 10,000 runs and 5 tabs", after, 800, "MB")]


# -- shared


class Counted:
    """Visits of a page, with the first and the weight of the last."""

    def __init__(self, visit: Callable[[], Visit]) -> None:
        self._visit = visit
        self._first: Visit | None = None
        self._last: Visit | None = None

    def steady(self) -> float:
        """Seconds of a visit to a server that has been visited before."""
        if self._first is None:
            self._first = self._visit()
        self._last = self._visit()
        return self._last.seconds

    @property
    def first_visit(self) -> str:
        assert self._first is not None
        return f"{self._first.seconds:.2f} s"

    @property
    def weight(self) -> str:
        assert self._last is not None
        return f"{self._last.sent_mb:.1f} MB, {self._last.requests} requests"


def against(name: str, ours_s: float, theirs_s: float, goal: float) -> Figure:
    return Figure(
        name, ours_s / theirs_s, goal, ours=f"{ours_s:.2f} s", theirs=f"{theirs_s:.2f} s"
    )


def beyond(name: str, ours_s: float, theirs_s: float, goal_s: float) -> Figure:
    ours, theirs = f"{ours_s:.2f} s", f"{theirs_s:.2f} s"
    return Figure(name, ours_s - theirs_s, goal_s, "s", ours=ours, theirs=theirs)


def redrawn(what: str, took_ms: list[float]) -> Figure:
    return Figure(f"{what} changed → redrawn, 100 runs", statistics.median(took_ms), 300, "ms")


def python(code: str, *arguments: str) -> list[str]:
    """What a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return done.stdout.split()


FIGURES: dict[str, Callable[[Bench], Found]] = {
    "study": study_page,
    "compare": compare_page,
    "bare": above_bare,
    "many": many_runs,
    "curves": curves,
    "changes": changes,
    "sent": sent,
    "live": live,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(FIGURES)}; all by default")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "hpo-ui")
    parser.add_argument("--quick", action="store_true", help="each once")
    arguments = parser.parse_args()
    quiet()
    rows: list[Row] = []
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        browser = stack.enter_context(chromium())
        bench = Bench(Data(arguments.data), browser, 1 if arguments.quick else 5, stack)
        for name in arguments.figures or FIGURES:
            say(f"{name} …")
            began_s = time.perf_counter()
            more, found = FIGURES[name](bench)
            rows += more
            figures += found
            for figure in found:
                say(f"  {figure.name}: {figure.value:.3g} {figure.unit}")
            say(f"  ({time.perf_counter() - began_s:.0f} s)")
    report("ui", rows, figures)


if __name__ == "__main__":
    main()
