"""A real browser on the real app: pages opened, waited for, looked at and checked."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    TimeoutError,
    ViewportSize,
    expect,
    sync_playwright,
)

DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
TIMEOUT_MS = 30_000
expect.set_options(timeout=TIMEOUT_MS)  # on a busy machine Streamlit may take seconds

Theme = Literal["light", "dark"]

# Streamlit looks for itself beside each page before it looks at the root.
PROBES = re.compile(r"^http://[^/]+/(study|compare|ensemble|run)/_stcore/(health|host-config)$")

# What axe-core finds in Streamlit's own widgets and no setting changes: (rule, HTML, theme).
STREAMLITS_OWN = (
    # The tags of a multiselect are white on the primary colour, which elsewhere is text on the
    # page's ground: no colour contrasts 4.5:1 with both in the dark.
    ("color-contrast", re.compile(r'^<span title="[^"]*" class="[^"]*">[^<]*</span>$'), "dark"),
)

IS_SETTLED = """() => {
    const app = document.querySelector('[data-testid=stApp]');
    return app && app.dataset.testScriptState === 'notRunning'
        && app.dataset.testConnectionState === 'CONNECTED'
        && document.querySelector('h1')
        && !document.querySelector('[data-testid=stSkeleton], [data-stale=true]')
        && [...document.querySelectorAll('.stBidiComponent')].every(
            chart => chart.querySelector('.js-plotly-plot .main-svg'));
}"""


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    path = shutil.which("chromium")
    assert path is not None
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


STICKS_OUT = """() => {
    const main = document.querySelector('[data-testid=stMain]');
    const wide = [document.documentElement, main].some(
        one => one.scrollWidth > one.clientWidth);
    return wide ? [...main.querySelectorAll('*')]
        .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
        .map(one => one.outerHTML.slice(0, 120)) : [];
}"""


class Visit:
    """A visitor with a page of their own.

    Args:
        context: A browser that has kept what its visits loaded.
        pictures: Where pictures go; None: nobody will look at them, and none are made.

    Attributes:
        errors: What the console and the page complained of.
        requests: The addresses that were asked for.
    """

    def __init__(self, context: BrowserContext, url: str, pictures: Path | None = None) -> None:
        self.url = url
        self.page: Page = context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._pictures = pictures
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _told(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not PROBES.match(str(message.location.get("url", ""))):
            self.errors.append(f"{message.text} {message.location}")

    def open(self, path: str = "/", size: ViewportSize = DESKTOP) -> Page:
        """Follow a link and wait until its page stands."""
        self.page.set_viewport_size(size)
        self.page.goto(self.url + path)
        self.settle()
        return self.page

    def look(self, theme: Theme = "light", size: ViewportSize = DESKTOP) -> None:
        """See the same page with another theme of the system, or in another window."""
        self.page.emulate_media(color_scheme=theme)
        self.page.set_viewport_size(size)
        self.settle()

    def settle(self) -> None:
        """Wait until the app has nothing more to draw."""
        self.page.wait_for_function(IS_SETTLED)

    def unroll(self) -> None:
        """Make the window as high as the page."""
        size = self.page.viewport_size or DESKTOP
        height = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        self.page.set_viewport_size({"width": size["width"], "height": max(int(height), 600)})
        self.settle()

    def picture(self, name: str) -> None:
        """Show the whole page, and keep a picture of it."""
        self.unroll()
        if self._pictures is not None:
            self.page.screenshot(path=self._pictures / f"{name}.png")

    def violations(self, theme: Theme = "light") -> list[str]:
        """What axe-core calls a serious or critical violation of accessibility."""
        found = Axe().run(self.page, options={"resultTypes": ["violations"]}).response
        return [
            f"{violation['id']}: {node['html'][:200]}"
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
            if not any(
                violation["id"] == rule and html.match(node["html"]) and where == theme
                for rule, html, where in STREAMLITS_OWN
            )
        ]

    def overflow(self) -> list[str]:
        """Elements that stick out of the page to the right, if it can be scrolled there; tables
        take a moment to fit a new window.
        """
        with contextlib.suppress(TimeoutError):
            self.page.wait_for_function(f"({STICKS_OUT})().length === 0", timeout=5_000)
        return list(self.page.evaluate(STICKS_OUT))

    def text(self) -> str:
        """All that the page says, that of tables, titles and closed boxes, too."""
        return str(
            self.page.evaluate(
                """() => [document.title, document.body.innerText,
                    ...[...document.querySelectorAll('td, th, text, [aria-label], [title]')].map(
                        one => [one.textContent, one.title, one.ariaLabel].join('\\n')),
                ].join('\\n')"""
            )
        )

    def hosts(self) -> set[str | None]:
        """The machines that the page asked for anything."""
        return {urlsplit(url).hostname for url in self.requests if url.startswith("http")}

    def close(self) -> None:
        self.page.close()
