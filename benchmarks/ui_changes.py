"""Pages that change: by what a person does, and by what a running study reports."""

from __future__ import annotations

import contextlib
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator

import generated
from measure import Figure
from pages import redrawn_ms
from playwright.sync_api import Page
from ui_bench import QUIET_MS, Bench, Found
from ui_data import SHOWN

from hpo import lease
from hpo.paths import Home
from hpo.tracking.outbox import Outbox

CURVES = [f".st-key-compare-{name}" for name in ("loss", "accuracy", "f1_macro")]
RANKED = [".st-key-roc", ".st-key-precision-recall"]


def changes(bench: Bench) -> Found:
    """From the event in the page until all charts that depend on it have changed."""
    count = 3 * bench.rounds
    home = bench.data.many
    url = bench.compare_url(bench.many, home)
    with bench.browser.opened(url, "charts().length >= 4") as (page, *_):
        page.wait_for_timeout(QUIET_MS)
        page.locator(".st-key-smooth input").focus()
        smoothing = [redrawn_ms(page, "ArrowRight", "keydown", CURVES) for _ in range(count)]
        places = (1, 2, 0) * bench.rounds
        buttons = [f".st-key-over-Epochs button >> nth={place}" for place in places]
        axis = [redrawn_ms(page, button, "pointerdown", CURVES) for button in buttons]
        selection = [take_out(page, trial) for trial in bench.data.runs(home)[:count]]
    url = bench.compare_url(bench.many, home, view="probabilities", of="0")
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


def redrawn(what: str, took_ms: list[float]) -> Figure:
    return Figure(f"{what} changed → redrawn, 100 runs", statistics.median(took_ms), 300, "ms")


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

        try:
            yield report_epoch
        finally:
            shutil.rmtree(paths.root)
