"""The app as people meet it: a real study, `hpo server`, `hpo ui`, and Chromium.

Pictures of every page go to the folder ``HPO_SCREENSHOTS``.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import hostile
import pandas as pd
import pytest
from browsing import DESKTOP, PHONE, Visit, browser
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect
from served import free_port, served

from app.words import WORDS, words
from hpo import results
from hpo.paths import Home
from hpo.tracking import outbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="there is no `chromium` to look with: apt-get install chromium",
    ),
]

ROOT = Path(__file__).parents[2]
STUDY = "quickstart"
W, ZH = words("en"), words("zh")
WORDS_OF_OURS = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")

SLOW_TRAINER = """
import time
from pathlib import Path

def train(trial):
    hurry = Path(__file__).with_name("hurry")
    for epoch in range(1, trial.params["train"]["epochs"] + 1):
        time.sleep(0 if hurry.exists() else 0.25)
        quality = trial.params["train"]["x"] + epoch / 100
        trial.report(epoch, {"quality": quality, "cost": 1 / epoch})
"""
EPOCHS = 40
SLOW_STUDY = f"""
study: live
trainer: slowly:train
train: {{epochs: {EPOCHS}, x: 0.5}}
search:
  train.x: {{low: 0.0, high: 1.0}}
objective: {{metric: quality, goal: maximize}}
sampler: random
pruner: none
workers: 1
budget: {{trials: 3}}
"""


@dataclass(frozen=True)
class Place:
    """Where things are.

    Attributes:
        home: The folder with the studies.
        server: The tracking server's address, which has the same.
        ui: The app's, next to the studies.
        runs: The three best runs, as links say it.
    """

    home: Path
    server: str
    ui: str
    runs: str


NewVisit = Callable[..., Visit]


# -- what all tests look at


@pytest.fixture(scope="module")
def pictures() -> Path | None:
    named = os.environ.get("HPO_SCREENSHOTS")
    if not named:
        return None
    Path(named).mkdir(parents=True, exist_ok=True)
    return Path(named)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Place]:
    """A small real study, sent to a server, and the app beside it."""
    home, away = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("server")
    Home(away).mlruns.mkdir()
    shutil.copy(empty_store, Home(away).mlruns / "mlflow.db")
    with served("server", "--home", away, "--port", str(free_port())) as server:
        options = ("--trials", "8", "--set", "train.epochs=5", "--set", "pruner=none")
        hpo("run", ROOT / "studies" / "quickstart.yaml", *options, home=home, uri=server.url)
        hpo("ensemble", STUDY, "--method", "greedy", home=home, uri=server.url)
        best = results.trials(STUDY, home).sort_values("value", ascending=False)["number"]
        runs = ",".join(f"{STUDY}/{number}" for number in best[:3])
        with ui(home, server.url) as url:
            yield Place(home, server.url, url, runs)


@pytest.fixture(scope="module")
def far(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app on another machine: nothing but the server's address."""
    with ui(tmp_path_factory.mktemp("nothing"), place.server) as url:
        yield url


@pytest.fixture(scope="module")
def hostile_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("hostile")
    hostile.study(home)
    with ui(home) as url:
        yield url


@contextmanager
def ui(home: Path, uri: str | None = None) -> Iterator[str]:
    """`hpo ui`, while it is up: its address."""
    more = ("--tracking-uri", uri) if uri else ()
    port = str(free_port())
    with served("ui", "--home", home, "--port", port, "--no-browser", *more) as found:
        yield found.url


@pytest.fixture(scope="module")
def context(chromium: Browser) -> BrowserContext:
    """One browser for most visits, so that Streamlit's own files are loaded once."""
    return chromium.new_context(viewport=DESKTOP)


@pytest.fixture
def new_visit(
    chromium: Browser,
    context: BrowserContext,
    pictures: Path | None,
    request: pytest.FixtureRequest,
) -> Iterator[NewVisit]:
    """Makes visitors, to the app beside the study unless another is named; with options, from a
    browser of their own. They must not have met an error when they leave.
    """
    visits: list[Visit] = []
    own: list[BrowserContext] = []

    def visit(url: str | None = None, **options: Any) -> Visit:
        url = url or request.getfixturevalue("place").ui
        if options:
            own.append(chromium.new_context(viewport=DESKTOP, **options))
        visits.append(Visit(own[-1] if options else context, url, pictures))
        return visits[-1]

    yield visit
    errors = [error for one in visits for error in one.errors]
    for one in [*visits, *own]:
        one.close()
    assert not errors


def hpo(*command: str | Path, home: Path, uri: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hpo.cli", *map(str, command), "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | ({"MLFLOW_TRACKING_URI": uri} if uri else {}),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pages(study: str, runs: str) -> dict[str, str]:
    """The name of each page and view, and where it is."""
    return {
        "studies": "/",
        **{f"study-{view}": f"/study?study={study}&view={view}" for view in STUDY_VIEWS},
        **{f"compare-{view}": f"/compare?runs={runs}&view={view}" for view in COMPARE_VIEWS},
        "ensemble": f"/ensemble?study={study}",
        "ensemble-chosen": f"/ensemble?runs={runs}",
        "run": f"/run?runs={runs.split(',')[0]}",
    }


STUDY_VIEWS = ("overview", "parameters", "curves", "workers")
COMPARE_VIEWS = ("overview", "metrics", "errors", "probabilities", "examples")
PAGES = list(pages("", ""))
FETCHED = (  # for each of these something else is got from a server
    "studies",
    "study-overview",
    "study-curves",
    "compare-metrics",
    "compare-examples",
    "ensemble",
    "run",
)
CHARTS = {  # at least so many are drawn of a real study
    "study-overview": 1,
    "study-parameters": 4,
    "study-curves": 2,
    "study-workers": 1,
    "compare-overview": 4,
    "compare-metrics": 1,
    "compare-errors": 3,
    "compare-probabilities": 3,
    "ensemble": 4,
    "ensemble-chosen": 4,
    "run": 1,
}


# -- every page and view


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_for_every_eye(name: str, place: Place, new_visit: NewVisit) -> None:
    """Light and dark, desktop and phone; nothing sticks out, and screen readers can read it."""
    visit = new_visit()
    page = visit.open(pages(STUDY, place.runs)[name])
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    assert page.locator(".js-plotly-plot").count() >= CHARTS.get(name, 0)
    assert visit.violations("light") == []
    visit.picture(f"{name}.light")
    visit.look("dark")
    assert visit.violations("dark") == []
    visit.picture(f"{name}.dark")
    visit.look("light", PHONE)
    assert visit.overflow() == []
    visit.picture(f"{name}.phone")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_chinese_throughout(name: str, place: Place, new_visit: NewVisit) -> None:
    visit = new_visit()
    path = pages(STUDY, place.runs)[name]
    visit.open(f"{path}{'&' if '?' in path else '?'}lang=zh")
    text = visit.text()
    visit.picture(f"{name}.zh")
    assert re.search(r"[\u4e00-\u9fff]{2}", text)
    assert not set(WORDS_OF_OURS.findall(text)) & set(WORDS)
    lines = {line.strip() for line in text.splitlines()}
    assert not {en for en, zh in WORDS.values() if en != zh and " " in en} & lines


def test_the_browsers_language_is_the_first(new_visit: NewVisit) -> None:
    chinese = new_visit(locale="zh-CN").open("/")
    expect(chinese.locator("h1")).to_have_text("研究")
    german = new_visit(locale="de-DE").open("/")
    expect(german.locator("h1")).to_have_text("Studies")


@pytest.mark.parametrize(
    ("name", "path", "said"),
    [
        ("no-study", "/study", W("study.choose")),
        ("no-runs", "/compare", W("compare.empty")),
        ("no-ensemble", "/ensemble", W("ensemble.choose")),
        ("no-run", "/run", W("run.choose")),
        ("unknown-study", "/study?study=nix", W("study.unknown", study="nix")),
        ("unknown-run", f"/run?runs={STUDY}/99", W("run.unknown", study=STUDY, trial=99)),
    ],
)
def test_a_page_without_anything_to_show_says_what_to_do(
    name: str, path: str, said: str, new_visit: NewVisit
) -> None:
    visit = new_visit()
    page = visit.open(path)
    expect(page.get_by_text(said)).to_be_visible()
    visit.picture(f"state-{name}")
    assert visit.violations() == []


def test_an_empty_home_says_how_to_begin(new_visit: NewVisit, tmp_path: Path) -> None:
    with ui(tmp_path) as url:
        visit = new_visit(url)
        page = visit.open("/")
        expect(page.get_by_text("hpo run studies/quickstart.yaml")).to_be_visible()
        visit.picture("state-empty")
        assert visit.violations() == []
        visit.close()  # before its app is gone


@pytest.mark.parametrize("name", FETCHED)
def test_a_page_is_whole_from_the_server_alone(
    name: str, place: Place, far: str, new_visit: NewVisit
) -> None:
    visit = new_visit(far)
    page = visit.open(pages(STUDY, place.runs)[name])
    if name == "studies":
        expect(page.locator(".st-key-studies td", has_text=STUDY).first).to_be_attached()
    captions = page.locator("[data-testid=stCaptionContainer]")
    expect(captions.filter(has_text="still being fetched")).to_have_count(0)
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    visit.settle()
    assert page.locator(".js-plotly-plot").count() >= CHARTS.get(name, 0)


# -- hands on


def test_a_click_on_a_row_opens_its_study(new_visit: NewVisit) -> None:
    page = new_visit().open("/")
    click_cell(page.locator(".st-key-studies"), row=0, left=200)
    expect(page.locator("h1")).to_have_text(STUDY)
    assert query(page)["study"] == [STUDY]


def test_a_click_on_a_point_offers_its_run(place: Place, new_visit: NewVisit) -> None:
    visit = new_visit()
    page = visit.open(f"/study?study={STUDY}")
    click_point(chart(page, "history"), 0)
    expect(page.get_by_role("button", name=W("compare.add", count=1))).to_be_visible()
    page.get_by_role("button", name=W("run.open")).click()
    expect(page.locator("h1")).to_have_text(re.compile(rf"{STUDY}/\d+"))
    assert re.fullmatch(rf"{STUDY}/\d+", query(page)["runs"][0])


def test_runs_picked_in_charts_and_tables_are_compared(new_visit: NewVisit) -> None:
    visit = new_visit()
    page = visit.open(f"/study?study={STUDY}")
    click_point(chart(page, "history"), 0)
    page.get_by_role("button", name=W("compare.add", count=1)).click()
    expect(page.get_by_text(W("compare.chosen", count=1))).to_be_visible()
    for row in (0, 1):
        visit.settle()
        click_cell(page.locator(".st-key-leaderboard"), row=row, left=18)
    page.get_by_role("button", name=W("compare.add", count=2)).click()
    several = "|".join(W("compare.chosen", count=count) for count in (2, 3))
    expect(page.get_by_text(re.compile(several))).to_be_visible()
    page.get_by_role("button", name=W("compare.open"), exact=True).click()
    expect(page.locator("h1")).to_have_text("Compare")
    visit.settle()
    assert len(query(page)["runs"][0].split(",")) in (2, 3)


def test_brushing_selects_the_runs_that_pass_through(place: Place, new_visit: NewVisit) -> None:
    visit = new_visit()
    page = visit.open(f"/study?study={STUDY}&view=parameters")
    plot = chart(page, "parallel")
    plot.scroll_into_view_if_needed()
    axes = plot.locator(".nsewdrag").first.bounding_box()
    assert axes is not None
    # The objective's axis is the last one; in its upper half are the better runs.
    left = axes["x"] + 0.94 * axes["width"]
    bottom = axes["y"] + axes["height"] / 2
    points = [point.bounding_box() for point in plot.locator(".point").all()]
    within = [p for p in points if p and p["x"] > left and p["y"] + p["height"] / 2 < bottom]
    assert 0 < len(within) < 8
    drag(page, (left, axes["y"] + 2), (axes["x"] + axes["width"] - 2, bottom))
    found = page.get_by_role("button", name=W("compare.add", count=len(within)))
    expect(found).to_be_visible()
    visit.picture("hands-brushed")
    found.click()
    expect(page.get_by_text(W("compare.chosen", count=len(within)))).to_be_visible()


def test_the_threshold_is_dragged(place: Place, new_visit: NewVisit) -> None:
    visit = new_visit()
    page = visit.open(f"/compare?runs={place.runs}&view=probabilities&of=3")
    expect(page.get_by_text(W("probabilities.point", threshold="0.50"))).to_be_visible()
    slider = page.get_by_role("slider", name=W("probabilities.threshold"))
    thumb = slider.bounding_box()
    assert thumb is not None
    middle = (thumb["x"] + thumb["width"] / 2, thumb["y"] + thumb["height"] / 2)
    drag(page, middle, (middle[0] + 60, middle[1]))
    expect(page.get_by_text(W("probabilities.point", threshold="0.50"))).to_have_count(0)
    visit.settle()
    threshold = float(query(page)["t"][0])
    assert 0.5 < threshold < 1
    said = W("probabilities.point", threshold=f"{threshold:.2f}")
    expect(page.get_by_text(said)).to_be_visible()


def test_the_language_is_switched_and_back_on_the_same_view(new_visit: NewVisit) -> None:
    visit = new_visit()
    page = visit.open(f"/study?study={STUDY}&view=curves&metric=val%2Floss")
    page.get_by_role("button", name=W("settings")).click()
    page.get_by_text("中文").click()
    expect(page.get_by_role("button", name=ZH("settings"))).to_be_visible()
    visit.settle()
    assert query(page)["lang"] == ["zh"]
    assert query(page)["view"] == ["curves"]
    expect(selected(page)).to_have_text(ZH("study.view.curves"))
    expect(page.get_by_text(ZH("bands.title", metric="val/loss")).first).to_be_attached()
    visit.picture("hands-chinese")
    if not page.get_by_text("English").is_visible():
        page.get_by_role("button", name=ZH("settings")).click()
    page.get_by_text("English").click()
    expect(page.get_by_role("button", name=W("settings"))).to_be_visible()
    visit.settle()
    expect(selected(page)).to_have_text(W("study.view.curves"))
    assert query(page)["metric"] == ["val/loss"]
    assert "lang" not in query(page)


def test_a_shared_link_opens_what_its_sender_saw(place: Place, new_visit: NewVisit) -> None:
    sender = new_visit()
    page = sender.open(f"/compare?runs={place.runs}")
    page.get_by_text(W("compare.over.samples")).click()
    smoothing = page.get_by_role("slider", name=W("compare.smoothing"))
    smoothing.focus()
    for _ in range(4):
        smoothing.press("ArrowRight")
    page.get_by_text(W("compare.log_y")).click()
    link = urlsplit(address(page, over="samples", smooth="0.2", logy="true"))
    friend = new_visit(locale="en-GB")
    other = friend.open(f"{link.path}?{link.query}")
    assert query(other) == query(page)
    assert query(page)["runs"] == [place.runs]
    assert query(page)["over"] == ["samples"]
    expect(other.get_by_text("smoothed 0.2").first).to_be_attached()
    expect(other.locator(".js-plotly-plot").first.locator(".xtitle")).to_have_text("samples seen")
    expect(other.get_by_role("switch", name=W("compare.log_y"))).to_be_checked()

    page = sender.open(f"/compare?runs={place.runs}&view=probabilities")
    page.get_by_role("combobox", name=W("probabilities.of")).click()
    page.get_by_role("option", name="3", exact=True).click()
    threshold = page.get_by_role("slider", name=W("probabilities.threshold"))
    threshold.focus()
    threshold.press("ArrowLeft")
    expect(page.get_by_text(W("probabilities.point", threshold="0.49"))).to_be_visible()
    link = urlsplit(address(page, of="3", t="0.49"))
    other = friend.open(f"{link.path}?{link.query}")
    expect(other.get_by_text(W("probabilities.point", threshold="0.49"))).to_be_visible()
    expect(selected(other)).to_have_text(W("compare.view.probabilities"))

    page = sender.open(f"/study?study={STUDY}&view=curves")
    page.get_by_role("combobox", name=W("column.metric")).click()
    page.get_by_role("option", name="val/loss").click()
    link = urlsplit(address(page, metric="val/loss"))
    other = friend.open(f"{link.path}?{link.query}")
    expect(other.get_by_text(W("bands.title", metric="val/loss")).first).to_be_attached()


def test_data_and_pictures_are_downloaded(place: Place, new_visit: NewVisit) -> None:
    visit = new_visit(accept_downloads=True)
    page = visit.open(f"/study?study={STUDY}")
    name, content = download(page, page.get_by_role("button", name="CSV").last)
    assert name == f"{STUDY}-trials.csv"
    table = pd.read_csv(io.BytesIO(content)).sort_values("number", ignore_index=True)
    expected = results.trials(STUDY, place.home)
    assert list(table["value"]) == pytest.approx(list(expected["value"]))
    assert list(table["params.train.lr"]) == pytest.approx(list(expected["params.train.lr"]))
    history = page.locator(f".st-key-{STUDY}-history")
    for _ in range(2):  # asked twice, given twice
        name, content = download(page, history.get_by_role("button", name="CSV"))
        assert name == f"{STUDY}-history.csv"
        assert list(pd.read_csv(io.BytesIO(content))["value"]) == pytest.approx(
            list(expected["value"])
        )
    name, content = download(page, camera(page))
    assert name.endswith(".png")
    assert content.startswith(b"\x89PNG")
    page.get_by_role("button", name=W("settings")).click()
    page.get_by_text("SVG", exact=True).click()
    page.keyboard.press("Escape")
    visit.settle()
    name, content = download(page, camera(page))
    assert name.endswith(".svg")
    assert b"<svg" in content[:200]


# -- live


def test_a_live_study_is_watched_stopped_and_gone_on_with(
    place: Place, new_visit: NewVisit, tmp_path: Path
) -> None:
    (tmp_path / "slowly.py").write_text(SLOW_TRAINER)
    file = tmp_path / "live.yaml"
    file.write_text(SLOW_STUDY)
    study = Home(place.home).study("live")
    command = [sys.executable, "-m", "hpo.cli", "run", str(file), "--home", str(place.home)]
    env = os.environ | {"MLFLOW_TRACKING_URI": place.server}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as running:
        visit = new_visit()
        page = visit.open("/")
        expect(page.locator(".st-key-studies td", has_text="live").first).to_be_attached(
            timeout=60_000
        )
        wait_until(lambda: epochs(study.outbox) > 0)
        held: list[Route] = []  # plotly.js, until new data has come
        page.route("**/plotly-*.js", lambda route: held.append(route))
        page.goto(f"{visit.url}/study?study=live&view=curves&metric=cost")
        expect(state(page)).to_have_text("running")
        expect(page.get_by_role("figure", name=W("bands.title", metric="cost"))).to_be_attached()
        reported = epochs(study.outbox) + 1
        wait_until(lambda: epochs_seen(page) >= reported)
        for route in held:
            route.continue_()
        visit.settle()
        page.evaluate("document.querySelector('h1').dataset.mark = 'the same page'")
        scrolled = page.evaluate(SCROLL)
        for _ in range(3):  # what is reported is seen (how soon: benchmarks/ui.py)
            reported = epochs(study.outbox) + 1
            wait_until(lambda now=reported: epochs(study.outbox) >= now)  # type: ignore[misc]
            wait_until(lambda now=reported: epochs_seen(page) >= now)  # type: ignore[misc]
        expect(selected(page)).to_have_text(W("study.view.curves"))
        assert page.get_by_text(W("bands.title", metric="cost")).count()
        assert page.evaluate("document.querySelector('h1').dataset.mark") == "the same page"
        assert page.evaluate(SCROLL) == scrolled
        visit.picture("live-running")
        page.get_by_role("button", name=W("control.stop"), exact=True).click()
        expect(state(page)).to_have_text(re.compile("stopped|interrupted"), timeout=30_000)
        running.wait(30)
    expect(page.get_by_role("button", name=W("control.stop"), exact=True)).to_have_count(0)
    expect(selected(page)).to_have_text(W("study.view.curves"))
    visit.picture("live-stopped")
    (tmp_path / "hurry").touch()
    page.get_by_role("button", name=W("control.more")).click()
    page.get_by_role("spinbutton", name=W("control.more.count")).fill("2")
    page.get_by_role("spinbutton", name=W("control.more.count")).press("Enter")
    page.get_by_role("button", name=W("control.more.go")).click()
    expect(state(page)).to_have_text("complete", timeout=60_000)
    wait_until(lambda: results.status("live", place.home)["state"] == "complete")
    assert results.status("live", place.home)["trials"]["complete"] == 5
    assert [r["state"] for r, _ in outbox.read(study.outbox) if r["kind"] == "study_end"][-1:] == [
        "complete"
    ]


# -- nothing but text, nobody but us


HOSTILE_RUNS = [f"hostile/{number}" for number in range(hostile.FAILED)]
HOSTILE_PAGES = pages("hostile", "hostile/22,hostile/20,hostile/3") | {
    f"failed-{number}": f"/run?runs={run}" for number, run in enumerate(HOSTILE_RUNS)
}


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_names_from_runs_are_text_and_no_more(
    name: str, hostile_ui: str, new_visit: NewVisit
) -> None:
    visit = new_visit(hostile_ui)
    page = visit.open(HOSTILE_PAGES[name])
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    assert visit.overflow() == []
    visit.picture(f"hostile-{name}")
    assert page.evaluate(hostile.TRACES) == []
    for point in page.locator(".js-plotly-plot").all():
        hover(page, point)
        assert page.evaluate(hostile.TRACES) == []
    for box in page.locator("[data-testid=stPopover] button, [data-testid=stSelectbox]").all():
        box.click()
        assert page.evaluate(hostile.TRACES) == []
        page.keyboard.press("Escape")
    assert visit.hosts() == {urlsplit(hostile_ui).hostname}


def test_experiments_of_any_name_are_text(
    place: Place, far: str, new_visit: NewVisit, tmp_path: Path
) -> None:
    """A server's experiments are not named by hpo alone."""
    name = "x" + "".join(hostile.NAMES[i] for i in (0, 6, 7, 8, 12, 13))[:400]
    study = hostile.study(tmp_path)
    sent = json.loads(hpo("sync", "hostile", "--json", home=tmp_path, uri=place.server))
    assert sent["pending"] == 0
    rename_experiment(place.server, "hostile", name)
    try:
        visit = new_visit(far)
        page = visit.open("/")
        expect(page.locator("[data-testid=stDataFrame] td", has_text=name[:20])).to_be_attached(
            timeout=30_000
        )
        assert page.evaluate(hostile.TRACES) == []
        page.get_by_role("link", name=name[:20]).click()
        expect(page.locator("h1")).to_contain_text(name[:20])
        visit.settle()
        assert page.evaluate(hostile.TRACES) == []
        visit.open(f"/run?runs={query(page)['study'][0]}/3".replace("#", "%23"))
        assert page.evaluate(hostile.TRACES) == []
        assert visit.hosts() == {urlsplit(far).hostname}
    finally:
        rename_experiment(place.server, name, "gone")
    assert study.name == "hostile"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil"])
def test_another_hosts_name_is_refused(host: str, place: Place) -> None:
    """A page of theirs that names this machine its own learns nothing (DNS rebinding).

    The files of the app's frame are everybody's; what is on a page comes over its web socket.
    """
    assert connect(place, f"127.0.0.1:{urlsplit(place.ui).port}") == 101
    assert connect(place, f"{host}:{urlsplit(place.ui).port}") == 403


def connect(place: Place, host: str) -> int:
    """The status that a web socket gets under this name."""
    connection = http.client.HTTPConnection(urlsplit(place.ui).netloc, timeout=10)
    headers = WEB_SOCKET | {"Host": host, "Origin": f"http://{host}"}
    connection.request("GET", "/_stcore/stream", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


WEB_SOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
SCROLL = "document.querySelector('[data-testid=stMain]').scrollTop"


# -- how a page is worked with


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def address(page: Page, **params: str) -> str:
    """The page's address once it says so: a widget that was clicked gets into it a moment later,
    when the app has answered."""

    def says(url: str) -> bool:
        found = parse_qs(urlsplit(url).query)
        return all(found.get(name) == [value] for name, value in params.items())

    page.wait_for_url(says)
    return page.url


def chart(page: Page, key: str) -> Locator:
    """The chart of this name."""
    return page.locator(f".st-key-{STUDY}-{key} .js-plotly-plot, .st-key-{key} .js-plotly-plot")


def selected(page: Page) -> Locator:
    """The chosen view."""
    return page.locator("[data-testid=stButtonGroup]").first.locator("[data-selected=true]")


def state(page: Page) -> Locator:
    """What the study's page says first."""
    return page.locator("[data-testid=stMetricValue]").first


def click_point(plot: Locator, index: int) -> None:
    plot.locator(".scatterlayer .point").nth(index).click(force=True)


def click_cell(table: Locator, row: int, left: int) -> None:
    """Click in a table, which is a picture: rows are 35 pixels high, the titles, too."""
    canvas = table.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    canvas.page.mouse.click(box["x"] + left, box["y"] + 35 * (row + 1) + 17)


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()


def hover(page: Page, plot: Locator) -> None:
    """Move over a chart until something is named."""
    plot.scroll_into_view_if_needed()
    for point in plot.locator(".point path, .point, .bars path").all()[:2]:
        point.hover(force=True)
    area = plot.bounding_box()
    assert area is not None
    for x, y in ((0.3, 0.5), (0.6, 0.6)):
        page.mouse.move(area["x"] + x * area["width"], area["y"] + y * area["height"])


def camera(page: Page) -> Locator:
    page.locator(".js-plotly-plot").first.hover()
    return page.locator(".js-plotly-plot").first.locator("[data-title*='ownload']")


def download(page: Page, button: Locator) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        button.click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def wait_until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.02)


def epochs(path: Path) -> int:
    """How many epochs of the live study are on the disk."""
    if not path.exists():
        return 0
    return sum(record["kind"] == "epoch" for record, _ in outbox.read(path))


def epochs_seen(page: Page) -> int:
    """As many as its page shows, of the one trial that is trained and those before it."""
    cells = page.evaluate(
        """() => [...document.querySelector('[data-testid=stDataFrame]')
            ?.querySelectorAll('tr') || []].map(
                row => [...row.querySelectorAll('th, td')].map(cell => cell.textContent))"""
    )
    if len(cells) < 2:
        return 0
    row = dict(zip(cells[0], cells[1], strict=False))
    trial, epoch = row.get(W("column.number")), row.get(W("column.last_epoch"))
    return int(trial) * EPOCHS + int(epoch) if trial and epoch else 0


def rename_experiment(uri: str, before: str, after: str) -> None:
    code = (
        "import sys; from mlflow import MlflowClient; c = MlflowClient(sys.argv[1]);"
        "e = c.get_experiment_by_name(sys.argv[2]);"
        "c.rename_experiment(e.experiment_id, sys.argv[3])"
    )
    subprocess.run([sys.executable, "-c", code, uri, before, after], check=True, timeout=60)
