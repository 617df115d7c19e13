"""Pages as a person meets them: servers in processes of their own, and a headless Chromium.

Times are taken inside the page, from the start of its navigation or from an event, so that what
drives the browser is not counted. A page is drawn when its Plotly charts have lines or points.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from measure import HPO, environment
from playwright.sync_api import Browser, Page, sync_playwright

WAIT_MS = 120_000
SETTLE_MS = 1_500  # for what still comes after the chart
HEIGHT = 900  # pixels

# In every page: how many charts show data, what they show, and when that changes.
WATCH = """
const MARKS = ['path.js-line', '.points path', '.heatmaplayer image']
    .map((mark) => `.cartesianlayer ${mark}`).join();
window.charts = () => [...document.querySelectorAll('.js-plotly-plot')].filter((plot) =>
    plot.querySelector('.gl-canvas') || [...plot.querySelectorAll(MARKS)]
        .some((mark) => mark.tagName === 'image' || (mark.getAttribute('d') || '').length > 8));
window.lines = () => document.querySelectorAll('.cartesianlayer path.js-line').length;
window.look = (within) => {
    const root = within ? document.querySelector(within) : document;
    if (!root || !root.querySelector(MARKS)) return '';
    let text = [...root.querySelectorAll('.xtitle, .ytitle')].map((title) => title.textContent);
    for (const mark of root.querySelectorAll(MARKS)) {
        const d = mark.getAttribute('d') || mark.getAttribute('href') || '';
        text += d.length + d.slice(0, 40) + d.slice(-40) + (mark.getAttribute('transform') || '');
    }
    return text;
};
window.when = (ready, then) => {
    const look = () => {
        let done = false;
        try { done = ready(); } catch (error) { /* not there yet */ }
        done ? then(performance.now()) : requestAnimationFrame(look);
    };
    look();
};
"""


@dataclass(frozen=True)
class Visit:
    """What a page took.

    Attributes:
        seconds: From its navigation until it was drawn.
        sent_mb: All that was sent to it.
        own_mb: The same without the files of ``/static/`` and the first page: Streamlit's own.
        requests: How many were made.
    """

    seconds: float
    sent_mb: float
    own_mb: float
    requests: int


class Chromium:
    """A browser; each visit has a new profile, so nothing is cached."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def visit(self, url: str, ready: str = "charts().length >= 1") -> Visit:
        """Open a page and close it.

        Args:
            ready: JavaScript that is true when the page is drawn.
        """
        with self.opened(url, ready, counted=True) as (page, sent, seconds):
            page.wait_for_timeout(SETTLE_MS)
        own = sum(size for where, size in sent if not _of_streamlit(where))
        everything = sum(size for _, size in sent)
        return Visit(seconds, everything / 1e6, own / 1e6, len({where for where, _ in sent}))

    @contextlib.contextmanager
    def opened(
        self, url: str, ready: str = "charts().length >= 1", counted: bool = False
    ) -> Iterator[tuple[Page, list[tuple[str, int]], float]]:
        """The page once it is drawn; (address, bytes) of what is sent; seconds it took.

        Args:
            counted: Whether bytes are: that takes time, for each message is copied out.
        """
        context = self._browser.new_context(viewport={"width": 1280, "height": HEIGHT})
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        sent = _count_bytes(page) if counted else []
        once = f"when(() => {ready}, (now) => {{ window.drawn_ms = now; }});"
        page.add_init_script(WATCH + once)
        try:
            page.goto(url, wait_until="commit")
            page.wait_for_function("window.drawn_ms")
            yield page, sent, page.evaluate("window.drawn_ms") / 1000
        finally:
            context.close()


def redrawn_ms(page: Page, act: str, event: str, within: Sequence[str]) -> float:
    """Milliseconds from an event until all charts in `within` (CSS selectors) have changed.

    Args:
        act: A key to press, or the selector of what to click.
        event: ``keydown`` or ``pointerdown``.
    """
    page.evaluate(
        """([event, within]) => {
            const left = new Map(within.map((one) => [one, look(one)]));
            let stirred = false;
            const observer = new MutationObserver(() => { stirred = true; });
            observer.observe(document.body, {subtree: true, childList: true, attributes: true});
            const changed = () => {
                if (!stirred) return false;
                stirred = false;
                for (const [one, before] of left) {
                    const now = look(one);
                    if (now && now !== before) left.delete(one);
                }
                return !left.size;
            };
            window.redrawn_ms = null;
            document.addEventListener(event, () => {
                const began = performance.now();
                when(changed, (now) => {
                    window.redrawn_ms = now - began;
                    observer.disconnect();
                });
            }, {capture: true, once: true});
        }""",
        [event, list(within)],
    )
    if event == "keydown":
        page.keyboard.press(act)
    else:
        page.locator(act).first.click()
    page.wait_for_function("window.redrawn_ms")
    took: float = page.evaluate("window.redrawn_ms")
    page.wait_for_timeout(SETTLE_MS)
    return took


@contextlib.contextmanager
def chromium() -> Iterator[Chromium]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        try:
            yield Chromium(browser)
        finally:
            browser.close()


@dataclass(frozen=True)
class Server:
    """A server that answers at `url`."""

    url: str
    process: psutil.Process

    def memory_mb(self) -> float:
        """Memory that is its own, of all its processes."""
        family = [self.process, *self.process.children(recursive=True)]
        return float(sum(process.memory_full_info().uss for process in family)) / 1e6


@contextlib.contextmanager
def server(command: Sequence[str], health: str = "/") -> Iterator[Server]:
    """Start a server, wait until `health` answers, end it with all that it started.

    Args:
        command: ``{port}`` stands for the port.
    """
    port = _free_port()
    line = [word.replace("{port}", str(port)) for word in command]
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(process, url + health)
        yield Server(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def hpo_ui(home: Path, *options: str) -> contextlib.AbstractContextManager[Server]:
    """The app, as a person starts it."""
    command = [*HPO, "ui", "--home", str(home), "--port", "{port}", "--no-browser", *options]
    return server(command, "/_stcore/health")


def streamlit(script: Path) -> contextlib.AbstractContextManager[Server]:
    """A page of Streamlit's, with the same settings as the app has."""
    from hpo.ui import OPTIONS

    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    line = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port={port}"]
    return server([*line, "--server.address=127.0.0.1", *options], "/_stcore/health")


def hpo_server(home: Path) -> contextlib.AbstractContextManager[Server]:
    """MLflow's tracking server on the home's store."""
    return server([*HPO, "server", "--home", str(home), "--port", "{port}"], "/health")


def optuna_dashboard(storage: str) -> contextlib.AbstractContextManager[Server]:
    command = Path(sys.executable).with_name("optuna-dashboard")
    return server([str(command), storage, "--port", "{port}", "--host", "127.0.0.1"])


def _count_bytes(page: Page) -> list[tuple[str, int]]:
    """Grows with what is sent to the page: responses as they are on the wire, and messages."""
    sent: list[tuple[str, int]] = []
    addresses: dict[str, str] = {}
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on(
        "Network.requestWillBeSent",
        lambda event: addresses.update({event["requestId"]: event["request"]["url"]}),
    )
    session.on(
        "Network.loadingFinished",
        lambda event: sent.append(
            (addresses.get(event["requestId"], ""), int(event["encodedDataLength"]))
        ),
    )
    page.on(
        "websocket",
        lambda socket: socket.on(
            "framereceived", lambda message: sent.append((socket.url, len(message)))
        ),
    )
    return sent


def _of_streamlit(url: str) -> bool:
    path = urlsplit(url).path
    return "/static/" in path or "/_stcore/h" in path or "." not in path and "stream" not in path


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_until_up(process: subprocess.Popen[bytes], url: str) -> None:
    until_s = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        if process.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"{url} does not answer")
        time.sleep(0.1)
