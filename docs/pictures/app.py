"""Take ``study.png`` and ``compare.png``, the same in Chinese, and ``ensemble.png``: the app after
the quickstart.

``python docs/pictures/app.py``, in the repository's root. The study is run in a folder that is
thrown away; ``hpo ui`` shows it to a headless Chromium.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HPO = [sys.executable, "-m", "hpo.cli"]
STUDY = "studies/quickstart.yaml"
HERE = Path(__file__).parent
WIDTH = 1280
BEST = 5  # runs that are compared
DRAWN = ".js-plotly-plot .cartesianlayer"


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        subprocess.run([*HPO, "run", STUDY, "--home", home], check=True)
        subprocess.run([*HPO, "ensemble", "quickstart", "--home", home], check=True)
        command = [*HPO, "trials", "quickstart", "--home", home, "--top", str(BEST), "--json"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        runs = ",".join(f"quickstart/{trial['number']}" for trial in found["trials"])
        app = subprocess.Popen(
            [*HPO, "ui", "--home", home, "--no-browser", "--json"], stdout=subprocess.PIPE
        )
        assert app.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):  # one object, when it is up
            text += app.stdout.readline().decode()
        address = json.loads(text)["url"].rstrip("/")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox"]
                )
                for suffix, language in (("", "en"), (".zh-CN", "zh")):
                    page = browser.new_page(viewport={"width": WIDTH, "height": 900})
                    more = f"&lang={language}" if language == "zh" else ""
                    page.goto(f"{address}/study?study=quickstart{more}")
                    page.wait_for_selector("[data-testid=stDataFrame] canvas")  # loaded once
                    take(page, f"{address}/study?study=quickstart{more}", 1, f"study{suffix}")
                    take(page, f"{address}/compare?runs={runs}{more}", 4, f"compare{suffix}")
                    if not suffix:
                        take(page, f"{address}/ensemble?study=quickstart", 5, "ensemble")
                    page.close()
                browser.close()
        finally:
            app.terminate()
            app.wait()


def take(page: Page, url: str, charts: int, name: str) -> None:
    """A picture of the whole page once so many charts are drawn."""
    page.goto(url)
    page.wait_for_function(f"document.querySelectorAll('{DRAWN}').length >= {charts}")
    page.wait_for_selector("[data-testid=stStatusWidget]", state="detached")
    inner = page.evaluate(
        "document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight"
    )
    page.set_viewport_size({"width": WIDTH, "height": int(inner) + 20})
    page.wait_for_timeout(1000)  # charts take their new size
    page.screenshot(path=HERE / f"{name}.png")


if __name__ == "__main__":
    main()
