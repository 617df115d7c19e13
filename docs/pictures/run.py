"""Draw ``run.svg``: what a real `hpo run studies/quickstart.yaml` shows on a terminal.

``python docs/pictures/run.py``, in the repository's root. The study is run in a folder that is
thrown away; the picture has the live view in the middle of it, and the end.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

import hpo
from hpo.live import STYLES, render
from hpo.outcome import print_outcome
from hpo.paths import Home
from hpo.progress import Progress

MOMENT = 20  # so many trials are over when the live view is drawn
LINES = 7  # so many of the lines above it are shown
STUDY = Path("studies/quickstart.yaml")
# Pages that show pictures load no fonts from elsewhere.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "Menlo, Consolas, monospace"
)


class Camera:
    """A `hpo.progress.View` that keeps what was said up to the moment, and the view then."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.moment: Progress | None = None
        self.moment_s = 0.0

    def say(self, text: str) -> None:
        if self.moment is None:
            self.said.append(text)

    def show(self, progress: Progress) -> None:
        training = all(w.state == "training" and w.epoch for w in progress.workers)
        if self.moment is None and training and sum(progress.counts.values()) >= MOMENT:
            self.moment, self.moment_s = progress, time.monotonic()


def main() -> None:
    spec = hpo.load(STUDY)
    camera = Camera()
    console = Console(record=True, width=92, file=io.StringIO(), force_terminal=True)
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        home = Home(Path(folder).resolve())
        ended = hpo.run(spec, home=home.root, view=camera)
        later_s = time.monotonic() - camera.moment_s
        assert camera.moment is not None
        console.print(Text(f"$ hpo run {STUDY}", style="bold"))
        for line in (*camera.said[:2], " …", *camera.said[-LINES:]):
            words = line.split()
            style = STYLES.get(words[2], "dim") if words[0] == "trial" else "dim"
            console.print(Text(line, style=style))
        console.print(render(camera.moment))
        console.print(Text(f"\n …  {later_s:.0f} s later", style="dim"))
        sys.argv[0] = "hpo"
        with redirect_stdout(io.StringIO()) as printed:
            print_outcome(spec, home, ended, Console(file=printed, width=92, force_terminal=True))
        console.print(Text.from_ansi(printed.getvalue().rstrip()))
        os.chdir(root)
    picture = console.export_svg(title="hpo", theme=DIMMED_MONOKAI, code_format=FORMAT)
    Path("docs/pictures/run.svg").write_text(picture)


if __name__ == "__main__":
    main()
