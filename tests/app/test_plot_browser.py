"""A chart on a page whose data, theme and size change: what a person did to it stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browsing import DESKTOP, Visit, browser
from playwright.sync_api import Browser, Locator, Page, expect
from recorded import Recorded, rising
from served import free_port, served

from app.words import words

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="apt-get install chromium"),
]
W = words("en")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@contextmanager
def visited(chromium: Browser, home: Path, path: str, **options: Any) -> Iterator[Visit]:
    """The app on this home, with a page open in it that must not complain."""
    context = chromium.new_context(viewport=DESKTOP, **options)
    with served("ui", "--home", home, "--port", str(free_port()), "--no-browser") as app:
        visit = Visit(context, app.url)
        visit.open(path)
        yield visit
        assert visit.errors == []
        context.close()


@pytest.fixture
def study(tmp_path: Path) -> Recorded:
    made = Recorded(tmp_path)
    for number in range(6):
        made.trial(rising(0.6 + number / 20))
    return made


def test_zoom_selection_and_hidden_traces_survive_new_trials(
    study: Recorded, chromium: Browser
) -> None:
    with study.live(), visited(chromium, study.home.root, "/study?study=digits") as visit:
        page = visit.page
        history = plot(page, "digits-history")
        history.evaluate("plot => { plot.mark = 'the same'; }")
        point = history.locator(".scatterlayer .trace").first.locator(".point").nth(2)
        point.click(force=True)
        offered = page.get_by_role("button", name=W("run.open"))
        expect(offered).to_be_visible()
        history.locator(".legendtoggle").last.click()
        page.wait_for_function(HIDDEN)
        drag_over(page, history)
        zoomed = ranges(history)
        study.trial(rising(0.95))
        study.trial(rising(0.94))
        page.wait_for_function(
            "() => document.querySelector('.js-plotly-plot')._fullData[0].x.length === 8"
        )
        visit.settle()
        assert history.evaluate("plot => plot.mark") == "the same"
        assert ranges(history) == zoomed
        assert page.evaluate(HIDDEN)
        expect(offered).to_be_visible()
        assert history.evaluate(SELECTED) == [2]
        page.mouse.dblclick(*middle(history))
        expect(offered).to_have_count(0)
        assert ranges(history) != zoomed


def test_a_box_on_an_axis_takes_up_new_trials(study: Recorded, chromium: Browser) -> None:
    path = "/study?study=digits&view=parameters"
    with study.live(), visited(chromium, study.home.root, path) as visit:
        page = visit.page
        parallel = plot(page, "digits-parallel")
        parallel.scroll_into_view_if_needed()
        area = parallel.locator(".nsewdrag").first.bounding_box()
        assert area is not None
        left, right = area["x"] + 0.94 * area["width"], area["x"] + area["width"] - 2
        page.mouse.move(left, area["y"] + 2)
        page.mouse.down()
        page.mouse.move(right, area["y"] + area["height"] - 2, steps=5)
        page.mouse.up()
        expect(page.get_by_role("button", name=W("compare.add", count=6))).to_be_visible()
        study.trial(rising(0.7))
        expect(page.get_by_role("button", name=W("compare.add", count=7))).to_be_visible()
        expect(parallel.locator(".selectionlayer path").first).to_be_attached()


def test_the_theme_and_the_window_are_followed(study: Recorded, chromium: Browser) -> None:
    study.over()
    with visited(chromium, study.home.root, "/study?study=digits") as visit:
        history = plot(visit.page, "digits-history")
        history.evaluate("plot => { plot.mark = 'the same'; }")
        drag_over(visit.page, history)
        light, zoomed = ground(history), ranges(history)
        width = history.evaluate("plot => plot.layout.width")
        visit.look("dark", {"width": 900, "height": 900})
        page = visit.page
        page.wait_for_function(
            f"() => document.querySelector('.js-plotly-plot').layout.width < {width}"
        )
        assert ground(history) != light
        assert ground(history) == page.evaluate(
            "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
        )
        assert ranges(history) == zoomed
        assert history.evaluate("plot => plot.mark") == "the same"
        history.hover()
        history.locator("[data-title=Fullscreen]").click()
        page.wait_for_function("document.querySelector('.js-plotly-plot').layout.height > 700")
        page.keyboard.press("Escape")
        page.evaluate("document.fullscreenElement && document.exitFullscreen()")
        page.wait_for_function("document.querySelector('.js-plotly-plot').layout.height < 500")


def test_a_browser_loads_plotly_once(study: Recorded, chromium: Browser) -> None:
    study.over()
    with visited(chromium, study.home.root, "/study?study=digits") as visit:
        page = visit.page
        (first,) = page.evaluate(LOADED)
        assert 1e6 < first < 2e6  # compressed
        page.reload()
        visit.settle()
        assert page.evaluate(LOADED) == [0]


# -- what is looked at

LOADED = """performance.getEntriesByType('resource')
    .filter(one => one.name.includes('plotly')).map(one => one.transferSize)"""
HIDDEN = """() => document.querySelector('.js-plotly-plot')
    .data.some(trace => trace.visible === 'legendonly')"""
SELECTED = """plot => plot.data.flatMap((trace, index) =>
    (trace.selectedpoints ?? []).map(place => plot._fullData[index].customdata[place]))
    .map(Number)"""


def plot(page: Page, key: str) -> Locator:
    return page.locator(f".st-key-{key} .js-plotly-plot")


def ranges(chart: Locator) -> list[list[float]]:
    found = chart.evaluate("plot => [plot.layout.xaxis.range, plot.layout.yaxis.range]")
    return [[round(end, 9) for end in pair] for pair in found]


def ground(chart: Locator) -> str:
    return (
        str(
            chart.evaluate("plot => getComputedStyle(plot.querySelector('.main-svg')).background")
        ).split(")")[0]
        + ")"
    )


def middle(chart: Locator) -> tuple[float, float]:
    area = chart.locator(".nsewdrag").first.bounding_box()
    assert area is not None
    return area["x"] + area["width"] / 2, area["y"] + area["height"] / 2


def drag_over(page: Page, chart: Locator) -> None:
    """Zoom in by a box around the middle."""
    x, y = middle(chart)
    page.mouse.move(x - 60, y - 40)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40, steps=5)
    page.mouse.up()
    page.wait_for_timeout(400)  # until Plotly knows that no second click follows
