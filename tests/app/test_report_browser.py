"""The report in a real browser: from a file, without a network, on every kind of screen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from made_up import classifier
from playwright.sync_api import Browser, Page, sync_playwright
from recorded import Recorded, finished

from app.report import page as made
from app.report import write_report
from app.report.subject import subject
from app.words import words
from hpo.results.catalog import Catalog

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
    # Of asyncio, in which Playwright runs.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
DRAWN = (
    """() => [...document.querySelectorAll(".plot")].every(p => p.querySelector(".main-svg"))"""
)
DARK, LIGHT = "rgb(230, 237, 243)", "rgb(27, 31, 36)"
INK = "[...document.querySelectorAll('.plot .xtick text')].map(t => getComputedStyle(t).fill)"
WIDTHS = "[...document.querySelectorAll('.plot .main-svg')].map(svg => svg.clientWidth)"
PAYLOADS = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '<a href="javascript:alert(1)">click</a>',
    "$\\href{javascript:alert(1)}{x}$",
    "\"'><svg/onload=alert(1)>",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    finished(home)
    return write_report(Catalog(home), "digits", home / "report.html", words("en"))


@pytest.fixture
def opened(browser: Browser) -> Callable[..., Any]:
    """Opens a file as a person does who has no network; nothing may go wrong or be asked for."""

    @contextmanager
    def open_(file: Path, screen: str = "light", **more: Any) -> Iterator[Page]:
        context = browser.new_context(offline=True, **SCREENS[screen] | more)
        page, wrong = context.new_page(), list[str]()
        page.on("console", lambda said: wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url[:200]))
        page.goto(file.as_uri())
        page.wait_for_function(DRAWN)
        yield page
        assert [said for said in wrong if said != file.as_uri() and _is_asked_for(said)] == []
        context.close()

    return open_


def _is_asked_for(said: str) -> bool:
    """Plotly turns a chart into a picture by way of one within the page."""
    return not said.startswith(("data:", "blob:"))


def keep(page: Page, name: str) -> None:
    """For a person to look at, where CI says so."""
    if folder := os.environ.get("HPO_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/report-{name}.png", full_page=True)


@pytest.mark.parametrize("screen", SCREENS)
def test_every_chart_is_drawn_and_the_page_is_no_wider_than_the_screen(
    screen: str, report: Path, opened: Callable[..., Any]
) -> None:
    with opened(report, screen) as page:
        assert page.locator(".plot").count() > 10
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert max(page.evaluate(WIDTHS)) <= SCREENS[screen]["viewport"]["width"]
        keep(page, screen)


def test_charts_follow_the_reader_s_system_and_paper_is_light(
    report: Path, opened: Callable[..., Any], tmp_path: Path
) -> None:
    with opened(report, "dark") as page:
        assert set(page.evaluate(INK)) == {DARK}
        page.emulate_media(color_scheme="light")
        page.wait_for_function(f"() => {INK}.every(color => color === '{LIGHT}')")
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"() => {INK}.every(color => color === '{DARK}')")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert set(page.evaluate(INK)) == {LIGHT}
        assert max(page.evaluate(WIDTHS)) <= 700  # of A4 at 96 pixels an inch
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert set(page.evaluate(INK)) == {DARK}
        page.pdf(path=tmp_path / "report.pdf")


def test_on_a_phone_panels_stand_below_each_other(
    report: Path, opened: Callable[..., Any]
) -> None:
    heights = []
    for screen in ("light", "phone"):
        with opened(report, screen) as page:
            slices = page.get_by_label("val/accuracy by parameter")
            heights.append(slices.evaluate("plot => plot.clientHeight"))
            assert slices.locator(".main-svg").first.evaluate("s => s.clientHeight") == heights[-1]
    assert heights[1] > 1.5 * heights[0]


def test_a_click_on_a_heading_sorts_the_table(report: Path, opened: Callable[..., Any]) -> None:
    cells = (
        "[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[{}].textContent)"
    )
    with opened(report) as page:
        headings = page.locator(".sortable th button")
        titles = headings.all_text_contents()
        lr = titles.index("lr")
        headings.nth(lr).focus()
        page.keyboard.press("Enter")
        rising = [float(text) for text in page.evaluate(cells.format(lr))]
        assert rising == sorted(rising)
        page.keyboard.press("Enter")
        assert [float(t) for t in page.evaluate(cells.format(lr))] == rising[::-1]
        assert page.locator(".sortable th[aria-sort]").get_attribute("aria-sort") == "descending"
        momentum = titles.index("momentum")  # which not every trial has
        headings.nth(momentum).click()
        shown = page.evaluate(cells.format(momentum))
        known = [text for text in shown if text]
        assert shown == sorted(known, key=float) + [""] * (len(shown) - len(known))
        assert 0 < len(known) < len(shown)


def test_a_chart_and_the_trials_can_be_saved_without_a_network(
    report: Path, opened: Callable[..., Any]
) -> None:
    with opened(report, "dark", accept_downloads=True) as page:
        with page.expect_download() as trials:
            page.locator("a[download]").click()
        assert trials.value.suggested_filename == "digits-trials.csv"
        assert trials.value.path().read_text().startswith("number,state,")
        page.locator(".plot").first.hover()
        titles = page.locator(".plot >> nth=0 >> .modebar-btn").evaluate_all(
            "buttons => buttons.map(b => b.dataset.title)"
        )
        assert not [title for title in titles if "hare" in title]  # Plotly's upload to its cloud
        with page.expect_download() as picture:
            page.locator(".modebar-btn[data-title='Save as PNG']").first.click()
        assert picture.value.suggested_filename == "digits-history.png"
        assert picture.value.path().read_bytes().startswith(b"\x89PNG")


def test_the_words_and_tables_are_there_without_scripts(browser: Browser, report: Path) -> None:
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert words("en")("report.no_script") in page.locator("noscript").inner_text()
    assert page.locator("#trials tbody tr").count() == 8
    assert not page.locator(".plot").first.is_visible()
    context.close()


@pytest.mark.parametrize("screen", ["light", "dark"])
def test_nothing_keeps_anyone_from_reading_it(
    screen: str, report: Path, opened: Callable[..., Any]
) -> None:
    with opened(report, screen, bypass_csp=True) as page:  # for axe's own script
        violations = Axe().run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in violations] == []


def test_the_policy_holds(report: Path, browser: Browser) -> None:
    page = browser.new_page()  # that could go online
    page.goto(report.as_uri())
    blocked = page.evaluate(
        """() => new Promise(done => {
            const found = [];
            addEventListener('securitypolicyviolation', event => {
                found.push(event.effectiveDirective);
                if (found.length === 3) done(found);
            });
            document.body.append(Object.assign(
                document.createElement('script'), {textContent: 'window.ran = 1'}));
            new Image().src = 'https://example.com/x.png';
            fetch('https://example.com').catch(() => {});
        })"""
    )
    assert sorted(blocked) == ["connect-src", "img-src", "script-src-elem"]
    assert page.evaluate("window.ran") is None
    page.close()


def test_hostile_names_run_nothing(tmp_path: Path, opened: Callable[..., Any]) -> None:
    metric, param, choice, reason, name = PAYLOADS
    recorded = Recorded(
        tmp_path,
        objective=[{"metric": metric, "goal": "maximize"}],
        search={param: {"choices": [choice, reason]}, name: {"choices": [metric, param]}},
        device_name=choice,
    )
    for number in range(4):
        params = {param: (choice, reason)[number % 2], name: (metric, param)[number % 2]}
        trial = recorded.begin(params=params)
        recorded.epoch(trial, 1, {metric: 0.5 + number / 10})
        recorded.end(trial, values=[0.5 + number / 10], best_epoch=1, last_epoch=1)
    recorded.end(recorded.begin(), "failed", reason=reason)
    tables = replace(Catalog(tmp_path).study("digits"), key=name, name=name, file=reason)
    said = replace(classifier(), classes=(choice, metric, param))
    file = tmp_path / "report.html"
    about = subject(tables, 3, lambda _: said)
    file.write_text(made(about, words("en"), datetime.now(UTC)), encoding="utf-8")
    with opened(file) as page:
        for plot in page.locator(".plot").all():
            plot.hover()  # what is said of a point is made only now
        assert page.locator(".plot a[href], .plot img").count() == 0
        cells = page.locator("h1, td").all_text_contents()
        assert {metric, param, choice, reason, name} <= set(cells)
